/**
 * Writes down what a paused machine is. A suspend does all of it while the machine is paused; a checkpoint only takes what
 * would change (`capture`) and does the rest, digests and flushes, beside the running machine (`complete`).
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { MachineError } from '../../lib/index.ts';
import { copySparse } from '../disk/copy.ts';
import { remove, syncPath } from '../folders.ts';
import { type ChunkWriter, createChunkFile } from '../snapshot/chunk-file.ts';
import { digestFile } from '../snapshot/digest.ts';
import type { DataKey } from '../snapshot/encryption.ts';
import type { Manifest, Part } from '../snapshot/manifest.ts';
import { encryptFile } from '../snapshot/whole-file.ts';
import type { ChangedMemory, MemorySink, Vmm } from '../vmm/vmm.ts';
import type { EngineContext } from './context.ts';
import {
  digestOverlay,
  encodeSaved,
  type MachineFiles,
  MEMORY_NAME,
  memoryGuard,
  OVERLAY_NAME,
  SAVED_NAME,
  type Saved,
  STATE_NAME,
} from './saved.ts';

export interface SavedMachine {
  readonly id: string;
  readonly manifest: Manifest;
  readonly files: MachineFiles;
  readonly key: DataKey | undefined;
  readonly vmm: Vmm;
  /** Of its link. */
  readonly secret: string;
}

interface SavedState {
  readonly state: Part;
  readonly stateId: string | null;
}

/** Everything but the overlay, which stays where it is; flushed, except for the folder. Returns the bytes of page data. */
export async function saveAll(context: EngineContext, machine: SavedMachine, draft: string): Promise<number> {
  const { changedMemory } = machine.vmm;
  const { overlay } = machine.files;
  const fileId = context.ids.bytes(16);
  // What is recorded of a delta is known before it is written.
  const ram = changedMemory === undefined ? saveRam(context, machine) : undefined;
  const memory = ram ?? Promise.resolve<Saved['memory']>({ kind: 'delta', fileId: fileId.toString('hex') });
  const delta = changedMemory && saveDelta(changedMemory, draft, machine, fileId);
  const state = takeState(context, machine, draft).then((taken) => keepState(context, machine, draft, taken));
  const facts = writeFacts(context, machine, draft, { memory, state, overlay });
  await allSettled([ram, delta, state, facts, syncPath(overlay)]);
  return (await delta) ?? 0;
}

/** What was taken of a machine while it was paused. */
export interface Captured extends AsyncDisposable {
  readonly deltaBytes: number;
  /** The rest, while the machine runs: flushed, except for the folder. */
  complete(): Promise<void>;
}

/** Nothing is flushed. On any failure nothing works in `draft` any more. */
export async function capture(
  context: EngineContext,
  machine: SavedMachine,
  changedMemory: ChangedMemory,
  draft: string,
  { maxBytes, signal }: { readonly maxBytes: number; readonly signal: AbortSignal },
): Promise<Captured> {
  await using stack = new AsyncDisposableStack();
  const fileId = context.ids.bytes(16);
  const writer = stack.use(await createChunkFile(path.join(draft, MEMORY_NAME), memoryGuard(machine.key, fileId)));
  const copy = path.join(draft, OVERLAY_NAME);
  let leftBytes = maxBytes;
  const sink: MemorySink = {
    write: async (...parts) => {
      signal.throwIfAborted();
      leftBytes -= parts.reduce((sum, part) => sum + part.length, 0);
      if (leftBytes < 0) throw new MachineError('failed', 'too little disk is free');
      await writer.write(...parts);
    },
  };
  const delta = changedMemory.save(sink);
  const state = takeState(context, machine, draft);
  await allSettled([delta, state, copySparse(machine.files.overlay, copy, signal)]);
  const [deltaBytes, plain] = [await delta, await state];
  const complete = async () => {
    const memory = Promise.resolve<Saved['memory']>({ kind: 'delta', fileId: fileId.toString('hex') });
    const kept = keepState(context, machine, draft, plain);
    const facts = writeFacts(context, machine, draft, { memory, state: kept, overlay: copy });
    await allSettled([writer.finish(), kept, facts, syncPath(copy)]);
  };
  const owned = stack.move();
  return { deltaBytes, complete, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function saveDelta(memory: ChangedMemory, draft: string, { key }: SavedMachine, fileId: Buffer): Promise<number> {
  await using writer: ChunkWriter = await createChunkFile(path.join(draft, MEMORY_NAME), memoryGuard(key, fileId));
  const deltaBytes = await memory.save(writer);
  await writer.finish();
  return deltaBytes;
}

async function saveRam({ runtime }: EngineContext, { files }: SavedMachine): Promise<Saved['memory']> {
  await syncPath(files.ram);
  return { kind: 'ram', part: await digestFile(files.ram, { mapper: runtime.qemu.img }) };
}

/** Returns where it is; with a key that is in memory. */
async function takeState({ folders }: EngineContext, machine: SavedMachine, draft: string): Promise<string> {
  const plain = path.join(machine.key === undefined ? draft : folders.run(machine.id), STATE_NAME);
  await machine.vmm.saveState(plain);
  return plain;
}

async function keepState(
  { ids, runtime }: EngineContext,
  { key }: SavedMachine,
  draft: string,
  plain: string,
): Promise<SavedState> {
  const file = path.join(draft, STATE_NAME);
  let stateId: string | null = null;
  if (key === undefined) await syncPath(file);
  else {
    const number = ids.bytes(16);
    stateId = number.toString('hex');
    await encryptFile(plain, file, key.forFile('state', number));
    await remove(plain);
  }
  return { state: await digestFile(file, { mapper: runtime.qemu.img }), stateId };
}

async function writeFacts(
  { runtime }: EngineContext,
  { manifest, key, secret }: SavedMachine,
  draft: string,
  parts: { memory: Promise<Saved['memory']>; state: Promise<SavedState>; overlay: string },
): Promise<void> {
  const overlay = digestOverlay(parts.overlay, runtime.qemu.img);
  overlay.catch(() => {});
  const saved: Saved = {
    generation: 3,
    base: manifest.parts.ram.sha256,
    secret: key === undefined ? secret : key.sealText(secret, 'link'),
    memory: await parts.memory,
    ...(await parts.state),
    overlay: await overlay,
  };
  const file = path.join(draft, SAVED_NAME);
  await writeFile(file, encodeSaved(saved), { mode: 0o600, flag: 'wx', flush: true });
}

/** Waits until none of them works any more, then throws the first failure. */
async function allSettled(works: readonly (Promise<unknown> | undefined)[]): Promise<void> {
  for (const outcome of await Promise.allSettled(works)) if (outcome.status === 'rejected') throw outcome.reason;
}
