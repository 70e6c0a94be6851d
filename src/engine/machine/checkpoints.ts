/**
 * Checkpoints of a running machine: what a suspend writes, with a copy of the overlay, under `microvms/<id>/checkpoints/<n>`.
 * Written as `draft`, flushed, renamed; the one before goes when the new one is whole. Should the host end, the newest becomes
 * the suspended state; it is also where what a machine was resumed from goes, so that there is one from the start.
 *
 * Invariant: a folder with a number is whole, and the highest number is the newest. None is older than a suspended state that
 * was resumed since.
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, stat } from 'node:fs/promises';
import path from 'node:path';
import { remove, syncPath } from '../folders.ts';
import { type MachineFiles, OVERLAY_NAME, SAVED_NAME } from './saved.ts';

const DRAFT_NAME = 'draft';

/** Makes an empty folder for one that is to be written. */
export async function beginCheckpoint(files: MachineFiles): Promise<string> {
  const draft = path.join(files.checkpoints, DRAFT_NAME);
  await remove(draft);
  await mkdir(draft, { recursive: true, mode: 0o700 });
  return draft;
}

/** From here on it is the newest. What lies in `draft` was flushed. */
export async function publishCheckpoint(files: MachineFiles, draft: string): Promise<void> {
  const earlier = await numbersOf(files);
  await syncPath(draft);
  await rename(draft, path.join(files.checkpoints, String((earlier.at(-1) ?? 0) + 1)));
  await syncPath(files.checkpoints);
  await syncPath(files.dir);
  for (const number of earlier) await remove(path.join(files.checkpoints, String(number)));
}

/** None holds any more, also after a loss of power. */
export async function forgetCheckpoints(files: MachineFiles): Promise<void> {
  if (!existsSync(files.checkpoints)) return;
  await remove(files.checkpoints);
  await syncPath(files.dir);
}

/**
 * What is resumed from becomes a checkpoint, with its copy of the overlay: it is no suspended state any more, and is not lost
 * either. Flushed when it resolves.
 */
export async function keepAsCheckpoint(files: MachineFiles): Promise<void> {
  await mkdir(files.checkpoints, { recursive: true, mode: 0o700 });
  await publishCheckpoint(files, files.delta);
}

/** The newest becomes the suspended state; the moment it is of, by the wall clock. Undefined when there is none. Can be repeated. */
export async function fallBack(files: MachineFiles): Promise<number | undefined> {
  const newest = (await numbersOf(files)).at(-1);
  if (newest === undefined) return undefined;
  const from = path.join(files.checkpoints, String(newest));
  const { mtimeMs } = await stat(path.join(from, SAVED_NAME));
  const overlay = path.join(from, OVERLAY_NAME);
  // An earlier attempt may have come this far.
  if (existsSync(overlay)) await rename(overlay, files.overlay);
  await syncPath(files.dir);
  await remove(files.delta);
  await rename(from, files.delta);
  await syncPath(files.dir);
  await remove(files.checkpoints);
  return mtimeMs;
}

/** Oldest first. */
async function numbersOf(files: MachineFiles): Promise<number[]> {
  const names = existsSync(files.checkpoints) ? await readdir(files.checkpoints) : [];
  return names
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .sort((a, b) => a - b);
}
