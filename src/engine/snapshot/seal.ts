/**
 * Turns a booted machine into a sealed snapshot folder: `ram`, `state`, `disk` as it was built, `changes` (what the machine
 * wrote to it since), `manifest.json`. The disk as it was built is kept for free that way, to seal it again one day.
 *
 * Invariant: a folder under its final name is complete and on disk. It is written under a temporary name beside it, synced,
 * made read-only and then renamed.
 */
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, rename, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { remove, syncPath } from '../folders.ts';
import type { VmmDriver } from '../vmm/vmm.ts';
import { digestFile } from './digest.ts';
import { describeMachine, encodeManifest, type Manifest } from './manifest.ts';

export interface Draft extends AsyncDisposable {
  /** The temporary folder. */
  readonly dir: string;
  readonly ram: string;
  readonly state: string;
  readonly disk: string;
  /** A qcow2 overlay of `disk`. */
  readonly changes: string;
}

type Facts = Pick<
  Manifest,
  'runtimeStamp' | 'kernelRelease' | 'memoryMiB' | 'cpus' | 'network' | 'link' | 'container' | 'built'
>;

/** A draft beside `finalDir`; disposing it before it was sealed removes it. */
export async function createDraft(finalDir: string): Promise<Draft> {
  const dir = `${finalDir}.draft-${randomBytes(4).toString('hex')}`;
  await mkdir(dir, { recursive: true, mode: 0o700 });
  return {
    dir,
    ram: path.join(dir, 'ram'),
    state: path.join(dir, 'state'),
    disk: path.join(dir, 'disk'),
    changes: path.join(dir, 'changes'),
    [Symbol.asyncDispose]: () => remove(dir),
  };
}

/** The machine that wrote the parts has ended. Returns their digests. */
export async function sealDraft(
  draft: Draft,
  finalDir: string,
  facts: Facts,
  options: { driver: VmmDriver; mapper: string; signal: AbortSignal | undefined },
): Promise<Manifest['parts']> {
  const files = [draft.ram, draft.state, draft.disk, draft.changes];
  const synced = Promise.all(files.map((file) => syncPath(file)));
  const parts: Manifest['parts'] = {
    ram: await digestFile(draft.ram, options),
    state: await digestFile(draft.state, options),
    disk: await digestFile(draft.disk, options),
    changes: await digestFile(draft.changes, options),
  };
  await synced;
  const manifest: Manifest = { ...describeMachine(options.driver), ...facts, parts };
  const manifestPath = path.join(draft.dir, 'manifest.json');
  // Holds the link's secret.
  await writeFile(manifestPath, encodeManifest(manifest), { mode: 0o600, flag: 'wx', flush: true });
  await chmod(manifestPath, 0o400);
  // Each VMM reads them as a user of its own; to everybody else the state folder is closed.
  await Promise.all(files.map((file) => chmod(file, 0o444)));
  await syncPath(draft.dir);
  await mkdir(path.dirname(finalDir), { recursive: true });
  await rename(draft.dir, finalDir);
  await syncPath(path.dirname(finalDir));
  return parts;
}

/** Bytes a sparse file takes on disk. */
export async function allocatedBytes(file: string): Promise<number> {
  return (await stat(file)).blocks * 512;
}
