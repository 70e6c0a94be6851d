/**
 * What a clone of a sealed snapshot needs of its memory, noted for launches that find it on the disk only
 * (`snapshot/working-set.ts`). The clone is thrown away: nobody's requests but those that try the image are looked at.
 */
import { messageOf, requestOverStream } from '../../lib/index.ts';
import type { Machine, RehearseRequest } from '../engine.ts';
import { dataExtents } from '../snapshot/extents.ts';
import type { Manifest } from '../snapshot/manifest.ts';
import { WorkingSet, writeWorkingSet } from '../snapshot/working-set.ts';
import type { ChangedMemory } from '../vmm/vmm.ts';
import type { EngineContext } from './context.ts';

/** Under emulation a first answer takes a second, on a busy host many. */
const ANSWER_TIMEOUT_MS = 10_000;

interface Subject {
  readonly snapshotDir: string;
  readonly manifest: Manifest;
  /** Of the clone, when it can be looked at. */
  readonly memory: ChangedMemory | undefined;
}

/** Notes of one clone, kept with the snapshot each time. */
export class TouchNotes {
  readonly #context: Pick<EngineContext, 'runtime' | 'log'>;
  readonly #subject: Subject;
  #set: WorkingSet | undefined;

  constructor(context: Pick<EngineContext, 'runtime' | 'log'>, subject: Subject) {
    this.#context = context;
    this.#subject = subject;
  }

  /** Never rejects: it is only advice. */
  async take(): Promise<void> {
    const { snapshotDir, manifest, memory } = this.#subject;
    // The memory of an encrypted one is decrypted into memory as a whole.
    if (memory === undefined || manifest.encryption !== undefined) return;
    try {
      const touched = await memory.touched();
      this.#set ??= new WorkingSet(await dataExtents(`${snapshotDir}/ram`, this.#context.runtime.qemu.img));
      this.#set.add(touched);
      await writeWorkingSet(snapshotDir, this.#set.ranges, manifest.parts.ram);
      this.#context.log.debug({ snapshotDir, bytes: this.#set.bytes }, 'noted what a launch needs first');
    } catch (error) {
      this.#context.log.warn({ snapshotDir, error: messageOf(error) }, 'what a launch needs first was not noted');
    }
  }
}

/** Asks the app once, as any first visitor would; what it answers, if anything, is its own affair. */
export async function rehearse(
  machine: Machine,
  { port }: Pick<RehearseRequest, 'port'>,
  { signal }: { signal?: AbortSignal | undefined },
): Promise<void> {
  await machine.noteTouched?.();
  const deadline = AbortSignal.timeout(ANSWER_TIMEOUT_MS);
  const bounded = signal === undefined ? deadline : AbortSignal.any([signal, deadline]);
  try {
    const stream = await machine.connect(port, { signal: bounded });
    await requestOverStream(stream, { method: 'GET', path: '/', host: `localhost:${port}`, signal: bounded });
  } catch {
    signal?.throwIfAborted();
  }
  await machine.noteTouched?.();
}
