/**
 * Takes over the machines that an earlier server left running. Most answer at once. One that stands still (its VMM was
 * stopped, the host swaps) may answer later; it holds up nobody but who wants that very microVM, and is given up when it
 * stays silent.
 *
 * Invariant: a machine that is given up has been ended by the engine, or is by `destroy`; one that is called off because the
 * server stops is left for the next.
 */
import type { Egress, Engine, LaunchRequest, Machine } from '../engine/index.ts';
import { type Clock, type Logger, MachineError, messageOf, Slots } from '../lib/index.ts';
import type { MachineCredentials } from './credentials.ts';
import type { MachineEgress } from './egress.ts';
import { callWithGrace } from './engine-call.ts';
import type { Microvm } from './lifecycle.ts';

/** A take-over is a dozen milliseconds of CPU; more at once would only make each of them slower. */
const CONCURRENT = 16;
/** It stands still: others need not wait for it. */
const SLOW_MS = 1000;
/** Somebody wants it gone, and its app would hear of that first. */
const ENDING_PATIENCE_MS = 5000;

export interface AdoptionsOptions {
  readonly engine: Pick<Engine, 'adopt'>;
  readonly egress: Pick<MachineEgress, 'attach'>;
  readonly credentials: Pick<MachineCredentials, 'give'>;
  readonly clock: Clock;
  readonly log: Logger;
  readonly requestOf: (record: Microvm, egress: Egress) => LaunchRequest;
  /** How long a machine may stay silent. */
  readonly timeoutMs: number;
  /** The engine does not stop when it is told to; what comes of that later is to be undone. */
  readonly onStuck: (id: string, late: Promise<Machine | undefined>) => void;
}

export type Adopted =
  | { readonly kind: 'machine'; readonly machine: Machine }
  /** There is none that could be taken over. */
  | { readonly kind: 'nothing' }
  /** There was one that did not answer. */
  | { readonly kind: 'silent' };

export class Adoptions {
  readonly #o: AdoptionsOptions;
  readonly #slots = new Slots(CONCURRENT);
  readonly #underWay = new Map<string, { readonly stop: AbortController; hurry?: Disposable }>();
  readonly #over = new AbortController();

  constructor(options: AdoptionsOptions) {
    this.#o = options;
  }

  /** Never begun twice for one microVM at a time. Rejects when the server stops meanwhile. */
  async adopt(record: Microvm): Promise<Adopted> {
    const { engine, egress, credentials, clock, log, timeoutMs } = this.#o;
    if (engine.adopt === undefined) return { kind: 'nothing' };
    const { id } = record;
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, this.#over.signal]);
    this.#underWay.set(id, { stop });
    if (record.state === 'TERMINATING') this.hurry(id);
    try {
      using slot = await this.#slots.acquire({ signal });
      using _slow = clock.after(SLOW_MS, () => {
        log.warn({ microvmId: id, patienceMs: timeoutMs }, 'a machine of an earlier server does not answer yet');
        slot[Symbol.dispose]();
      });
      const begin = (s: AbortSignal) =>
        egress.attach(record, async (given) => engine.adopt?.(this.#o.requestOf(record, given), { signal: s }));
      const came = await callWithGrace('taking it over', begin, { clock, timeoutMs, signal });
      if (came.kind === 'stuck') {
        this.#over.signal.throwIfAborted();
        this.#o.onStuck(id, came.late);
        log.error({ microvmId: id }, 'taking a machine over never came to an end');
        return { kind: 'silent' };
      }
      if (came.kind === 'failed') throw came.error;
      if (came.value === undefined) return { kind: 'nothing' };
      await credentials.give(came.value, record, 'taken over');
      return { kind: 'machine', machine: came.value };
    } catch (error) {
      this.#over.signal.throwIfAborted();
      const evidence = error instanceof MachineError && error.evidence !== '' ? { evidence: error.evidence } : {};
      log.error({ microvmId: id, error: messageOf(error), ...evidence }, 'a machine could not be taken over');
      return { kind: error instanceof MachineError && error.kind === 'timeout' ? 'silent' : 'nothing' };
    } finally {
      this.#underWay.get(id)?.hurry?.[Symbol.dispose]();
      this.#underWay.delete(id);
    }
  }

  /** The microVM is to end: its machine has a moment left to answer. */
  hurry(id: string): void {
    const adoption = this.#underWay.get(id);
    if (adoption === undefined) return;
    const reason = new MachineError('timeout', 'the microVM is coming to its end');
    adoption.hurry ??= this.#o.clock.after(ENDING_PATIENCE_MS, () => adoption.stop.abort(reason));
  }

  /** The server stops. */
  stop(reason: Error): void {
    this.#over.abort(reason);
  }
}
