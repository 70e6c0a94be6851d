/**
 * What a loss of the host's power leaves true. `microvms/<id>/boot-id` names the boot of the host in which the machine ran last
 * and is on disk before its guest does anything; so is that what it was resumed from is void. Records say less: that a
 * microVM is RUNNING is written without a flush and may be forgotten, its guest's writes to the overlay need not be.
 *
 * Invariant: what the files say of a machine that an earlier boot ended is never better than the truth.
 */
import { readFile, rename, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Recalled } from '../engine.ts';
import { syncPath } from '../folders.ts';
import { fallBack } from './checkpoints.ts';
import type { MachineFiles } from './saved.ts';

/** The machine may run from now on. Takes three flushes at a first start, so it is begun early; early does no harm. */
export async function noteBoot(files: MachineFiles, bootId: string): Promise<void> {
  if ((await readBoot(files)) !== bootId) {
    const draft = `${files.bootId}.new`;
    await writeFile(draft, bootId, { mode: 0o600, flush: true });
    await rename(draft, files.bootId);
  }
  // An earlier server may have come this far and no further.
  await syncPath(files.dir);
  await syncPath(path.dirname(files.dir));
}

/** From the guest's first instruction on the overlay moves on without the saved memory: the two must never be joined again. */
export async function voidSaved(files: MachineFiles): Promise<void> {
  await rename(files.saved, files.voided);
  await syncPath(files.delta);
}

/** See `Engine.recall`. */
export async function recall(files: MachineFiles, bootId: string): Promise<Recalled> {
  const saved = await stat(files.saved).catch(unlessAbsent);
  // A complete suspended state was not run on from: that is made void first.
  if (saved !== undefined) return { kind: 'suspended', takenAt: saved.mtimeMs };
  const last = await readBoot(files);
  if (last === undefined || last === bootId) return { kind: 'nothing' };
  const takenAt = await fallBack(files);
  return takenAt === undefined ? { kind: 'lost' } : { kind: 'checkpoint', takenAt };
}

async function readBoot(files: MachineFiles): Promise<string | undefined> {
  return await readFile(files.bootId, 'utf8').catch(unlessAbsent);
}

function unlessAbsent(error: unknown): undefined {
  if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
  throw error;
}
