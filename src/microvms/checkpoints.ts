/**
 * Checkpoints of microVMs that run, from time to time, where the operator wants them: should the host end, they continue from
 * there. One is taken at a time, so that no two pause together; how far apart those of one microVM are is counted from the end
 * of the last.
 *
 * Invariant: only a RUNNING microVM has its checkpoint taken. Who moves it on calls `cancel` in the same tick, and `ended` before
 * anything else is done with its machine.
 */
import type { Machine } from '../engine/index.ts';
import { type Clock, type Logger, MachineError, messageOf, Slots } from '../lib/index.ts';
import type { MachineCredentials } from './credentials.ts';
import { callWithGrace } from './engine-call.ts';
import type { Microvm } from './lifecycle.ts';

export interface CheckpointsOptions {
  /** Undefined: there are none. */
  readonly everyMs: number | undefined;
  readonly credentials: Pick<MachineCredentials, 'checkpoint'>;
  readonly clock: Clock;
  readonly log: Logger;
  /** Bounds one. */
  readonly timeoutMs: number;
}

interface Watched {
  readonly machine: Machine;
  readonly stop: AbortController;
  timer: Disposable | undefined;
}

export class Checkpoints implements Disposable {
  readonly #o: CheckpointsOptions;
  readonly #slots = new Slots(1);
  readonly #watched = new Map<string, Watched>();
  /** Those under way; also of microVMs that are not watched any more. */
  readonly #taking = new Map<string, Promise<void>>();
  #isUnsupported = false;

  constructor(options: CheckpointsOptions) {
    this.#o = options;
  }

  /** What may not sleep has nothing to go on from. */
  wants({ idlePolicy }: Microvm): boolean {
    return this.#o.everyMs !== undefined && idlePolicy?.suspendedDurationSeconds !== 0;
  }

  /** The record became RUNNING. */
  begin(machine: Machine, record: Microvm): void {
    const { everyMs } = this.#o;
    if (everyMs === undefined || !this.wants(record) || this.#isUnsupported) return;
    this.cancel(record.id);
    const watched: Watched = { machine, stop: new AbortController(), timer: undefined };
    this.#watched.set(record.id, watched);
    // Many that began together do not come due together.
    this.#arm(watched, everyMs * (0.5 + 0.5 * phaseOf(record.id)), everyMs);
  }

  /** The record left RUNNING. */
  cancel(id: string): void {
    const watched = this.#watched.get(id);
    this.#watched.delete(id);
    watched?.timer?.[Symbol.dispose]();
    watched?.stop.abort(new MachineError('exited', 'the checkpoint is not wanted any more'));
  }

  /** Resolves when nothing works on a checkpoint of it, soon after `cancel`. */
  async ended(id: string): Promise<void> {
    await this.#taking.get(id);
  }

  [Symbol.dispose](): void {
    for (const id of [...this.#watched.keys()]) this.cancel(id);
  }

  #arm(watched: Watched, delayMs: number, everyMs: number): void {
    const { id } = watched.machine;
    watched.timer = this.#o.clock.after(delayMs, () => {
      const taking = this.#take(watched).then((again) => {
        this.#taking.delete(id);
        if (again && this.#watched.get(id) === watched) this.#arm(watched, everyMs, everyMs);
      });
      this.#taking.set(id, taking);
    });
  }

  /** Never rejects; false when there will be none any more. */
  async #take({ machine, stop: { signal } }: Watched): Promise<boolean> {
    const { clock, credentials, timeoutMs } = this.#o;
    const log = this.#o.log.child({ microvmId: machine.id });
    let slot: Disposable;
    try {
      slot = await this.#slots.acquire({ signal });
    } catch {
      return false;
    }
    using _slot = slot;
    const work = (s: AbortSignal) => credentials.checkpoint(machine, { signal: s });
    const came = await callWithGrace('the checkpoint', work, { clock, timeoutMs, signal });
    if (came.kind === 'done') log.debug({ ...came.value }, 'checkpoint taken');
    if (signal.aborted) return false;
    if (came.kind === 'stuck') {
      log.error({}, 'a checkpoint never came to an end; this microVM gets no other');
      return false;
    }
    if (came.kind === 'done') return true;
    if (came.error instanceof MachineError && came.error.kind === 'unsupported') {
      if (!this.#isUnsupported) log.warn({ error: came.error.message }, 'there are no checkpoints on this host');
      this.#isUnsupported = true;
      return false;
    }
    log.warn(
      { error: messageOf(came.error) },
      'no checkpoint could be taken; the one before it holds, if there is one',
    );
    return true;
  }
}

/** From 0 up to 1, the same for the same id. */
function phaseOf(id: string): number {
  let hash = 0;
  for (let i = 0; i < id.length; i++) hash = (Math.imul(hash, 31) + id.charCodeAt(i)) >>> 0;
  return hash / 2 ** 32;
}
