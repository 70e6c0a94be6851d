/**
 * What a suspended machine keeps under `microvms/<id>`: its overlay, and in `delta/` the memory it changed with the state
 * of its devices. The folder is written under another name and renamed when all of it is on disk; a machine that runs
 * again loses its `saved.json` first, and that is on disk too before its guest does anything.
 *
 * Invariant: nothing of it is used that is not as it was written. Memory is proven chunk by chunk while it is loaded, the rest
 * by digests in `saved.json`, which vouches for itself.
 */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { MachineError } from '../../lib/index.ts';
import { cipherGuard, digestGuard, type Guard } from '../snapshot/chunk-file.ts';
import { digestFile } from '../snapshot/digest.ts';
import type { DataKey } from '../snapshot/encryption.ts';
import type { Manifest, Part } from '../snapshot/manifest.ts';
import { decodeSelfChecked, encodeSelfChecked } from '../snapshot/self-checked.ts';

export interface MachineFiles {
  readonly dir: string;
  readonly key: string;
  readonly overlay: string;
  /** The machine's own RAM, on hosts without delta saving. */
  readonly ram: string;
  readonly delta: string;
  /** Under the final name of `delta`. */
  readonly memory: string;
  readonly state: string;
  readonly saved: string;
  /** What `saved` is called once a machine may have run on from it. */
  readonly voided: string;
  /** In which boot of the host the machine ran last (`last-boot.ts`). */
  readonly bootId: string;
  /** See `checkpoints.ts`. */
  readonly checkpoints: string;
}

export interface Saved {
  readonly generation: 3;
  /** Digest of the snapshot's RAM this is relative to. */
  readonly base: string;
  /** Of the link; sealed when the machine has a key. */
  readonly secret: string;
  /** Number of the key of `state`, a chunk file then; null when nothing is encrypted. */
  readonly stateId: string | null;
  /** `delta`: relative to the snapshot's RAM, in chunks that carry this id. `ram`: a RAM file of its own. */
  readonly memory: { readonly kind: 'delta'; readonly fileId: string } | { readonly kind: 'ram'; readonly part: Part };
  readonly state: Part;
  readonly overlay: PartialDigest;
}

/** Digest of a file's beginning. */
export interface PartialDigest extends Part {
  readonly upToBytes: number;
}

export const MEMORY_NAME = 'memory';
export const STATE_NAME = 'state';
export const SAVED_NAME = 'saved.json';
export const OVERLAY_NAME = 'overlay.qcow2';

/**
 * An overlay that takes up to this much is digested whole: a fifth of a second. Of a larger one only the header, the
 * refcount table, the first refcounts and the table of tables, so that what a suspend costs stays bounded.
 */
const WHOLE_OVERLAY_BYTES = 256 * 1024 * 1024;
const OVERLAY_HEAD_BYTES = 4 * 65_536;

export function machineFiles(dir: string): MachineFiles {
  const delta = path.join(dir, 'delta');
  return {
    dir,
    key: path.join(dir, 'key.json'),
    overlay: path.join(dir, OVERLAY_NAME),
    ram: path.join(dir, 'ram'),
    delta,
    memory: path.join(delta, MEMORY_NAME),
    state: path.join(delta, STATE_NAME),
    saved: path.join(delta, SAVED_NAME),
    voided: path.join(delta, `${SAVED_NAME}.void`),
    bootId: path.join(dir, 'boot-id'),
    checkpoints: path.join(dir, 'checkpoints'),
  };
}

export const encodeSaved: (saved: Saved) => string = encodeSelfChecked;

/**
 * @throws MachineError `failed` when nothing complete was saved, `unsupported` when it belongs to another snapshot,
 * `corrupt` when it is not as it was written
 */
export async function readSaved(files: MachineFiles, manifest: Manifest): Promise<Saved> {
  let text: string;
  try {
    text = await readFile(files.saved, 'utf8');
  } catch (cause) {
    throw new MachineError('failed', 'no suspended state of this machine is on disk', { cause });
  }
  const saved = decodeSelfChecked(text) as Saved | undefined;
  if (saved === undefined) {
    if (text.startsWith('{"generation":1,')) throw new MachineError('unsupported', 'the suspended state is too old');
    throw corrupt('record');
  }
  if (saved.generation !== 3) throw new MachineError('unsupported', 'the suspended state is of another generation');
  if (saved.base !== manifest.parts.ram.sha256) {
    throw new MachineError('unsupported', 'the suspended state belongs to another snapshot');
  }
  return saved;
}

/** The paused machine's overlay. */
export async function digestOverlay(file: string, mapper: string): Promise<PartialDigest> {
  const { size, blocks } = await stat(file);
  const upToBytes = blocks * 512 <= WHOLE_OVERLAY_BYTES ? size : OVERLAY_HEAD_BYTES;
  return { ...(await digestFile(file, { mapper, upToBytes })), upToBytes };
}

/** All of it but a delta's memory. @throws MachineError `corrupt` */
export async function verifySaved(
  files: MachineFiles,
  saved: Saved,
  options: { mapper: string; signal?: AbortSignal | undefined },
): Promise<void> {
  const { upToBytes } = saved.overlay;
  await Promise.all([
    compare(files.state, saved.state, options, 'device state'),
    compare(files.overlay, saved.overlay, { ...options, upToBytes }, 'disk'),
    saved.memory.kind === 'ram' ? compare(files.ram, saved.memory.part, options, 'memory') : undefined,
  ]);
}

async function compare(
  file: string,
  expected: Part,
  options: Parameters<typeof digestFile>[1],
  what: string,
): Promise<void> {
  let found: Part;
  try {
    found = await digestFile(file, options);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') throw corrupt(what);
    throw error;
  }
  if (found.bytes !== expected.bytes || found.sha256 !== expected.sha256) throw corrupt(what);
}

export function corrupt(what: string): MachineError {
  return new MachineError('corrupt', `the suspended state is damaged: its ${what} is not as it was written`);
}

/** How a delta's chunks are closed. */
export function memoryGuard(key: DataKey | undefined, fileId: Buffer): Guard {
  return key === undefined ? digestGuard(fileId) : cipherGuard(key.forFile('memory', fileId));
}
