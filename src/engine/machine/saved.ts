/**
 * What a suspended machine keeps under `microvms/<id>`: its overlay, and in `delta/` the memory it changed with the state
 * of its devices. The folder is written under another name and renamed when all of it is on disk; a machine that runs
 * again loses its `saved.json` first.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { MachineError } from '../../lib/index.ts';
import type { Manifest } from '../snapshot/manifest.ts';

export interface MachineFiles {
  readonly dir: string;
  readonly overlay: string;
  /** The machine's own RAM, on hosts without delta saving. */
  readonly ram: string;
  readonly delta: string;
  /** Under the final name of `delta`. */
  readonly memory: string;
  readonly state: string;
  readonly saved: string;
}

export interface Saved {
  readonly generation: 1;
  /** `delta`: memory relative to the snapshot's RAM. `ram`: a RAM file of its own. */
  readonly kind: 'delta' | 'ram';
  /** Digest of the snapshot's RAM this is relative to. */
  readonly base: string;
  readonly secret: string;
}

export const MEMORY_NAME = 'memory';
export const STATE_NAME = 'state';
export const SAVED_NAME = 'saved.json';

export function machineFiles(dir: string): MachineFiles {
  const delta = path.join(dir, 'delta');
  return {
    dir,
    overlay: path.join(dir, 'overlay.qcow2'),
    ram: path.join(dir, 'ram'),
    delta,
    memory: path.join(delta, MEMORY_NAME),
    state: path.join(delta, STATE_NAME),
    saved: path.join(delta, SAVED_NAME),
  };
}

/** @throws MachineError `failed` when nothing complete was saved, `unsupported` when it belongs to another snapshot */
export async function readSaved(files: MachineFiles, manifest: Manifest): Promise<Saved> {
  let saved: Saved;
  try {
    saved = JSON.parse(await readFile(files.saved, 'utf8')) as Saved;
  } catch (cause) {
    throw new MachineError('failed', 'no suspended state of this machine is on disk', { cause });
  }
  if (saved.generation !== 1) throw new MachineError('unsupported', 'the suspended state is of another generation');
  if (saved.base !== manifest.parts.ram.sha256) {
    throw new MachineError('unsupported', 'the suspended state belongs to another snapshot');
  }
  return saved;
}
