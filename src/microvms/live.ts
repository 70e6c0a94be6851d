/**
 * What lives only in memory: the machine of each microVM that has one, its idle clock, what is under way through it, and who
 * waits for it. Never written to the store: activity comes with every chunk of traffic.
 */

import type { Machine } from '../engine/index.ts';
import { type Clock, DomainError } from '../lib/index.ts';
import type { UnderWay } from './types.ts';

/** One live machine. `serving` only while the record is RUNNING. */
export interface Live {
  readonly machine: Machine;
  /** Of the record it was started for. */
  readonly epoch: number;
  serving: boolean;
  servingSinceMs: number;
  lastActivityMs: number;
  idleTimer: Disposable | undefined;
}

/** Pause before an idle microVM whose suspend could not be written down, or that owes an answer, is looked at again. */
const RETRY_MS = 5000;
/** A stream on which nothing moved for so long is silent, and cut by a suspend. GUESS: suspend-drain */
const SILENT_MS = 5000;

export class LiveMachines {
  readonly #clock: Clock;
  readonly #live = new Map<string, Live>();
  readonly #waiters = new Map<string, Set<PromiseWithResolvers<Machine>>>();
  readonly #exchanges = new Map<string, Exchanges>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get(id: string): Live | undefined {
    return this.#live.get(id);
  }

  all(): readonly Live[] {
    return [...this.#live.values()];
  }

  /** The machine traffic may use now; counts as activity. */
  serving(id: string): Machine | undefined {
    const live = this.#live.get(id);
    if (live?.serving !== true) return undefined;
    live.lastActivityMs = this.#clock.monotonicMs();
    return live.machine;
  }

  activity(id: string): void {
    const live = this.#live.get(id);
    if (live !== undefined) live.lastActivityMs = this.#clock.monotonicMs();
  }

  add(machine: Machine, epoch: number): Live {
    const live: Live = {
      machine,
      epoch,
      serving: false,
      servingSinceMs: this.#clock.monotonicMs(),
      lastActivityMs: this.#clock.monotonicMs(),
      idleTimer: undefined,
    };
    this.#live.set(machine.id, live);
    return live;
  }

  /** Forgets the machine if it is still the one known under its id. */
  remove(machine: Machine): void {
    const live = this.#live.get(machine.id);
    if (live?.machine !== machine) return;
    live.serving = false;
    live.idleTimer?.[Symbol.dispose]();
    this.#live.delete(machine.id);
  }

  /**
   * The record became RUNNING: waiters go ahead, the idle clock starts. `onIdle` is called once per period; when it fails,
   * again a little later.
   */
  serve(id: string, maxIdleMs: number | null, onIdle: () => Promise<void>): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    live.serving = true;
    live.servingSinceMs = this.#clock.monotonicMs();
    live.lastActivityMs = live.servingSinceMs;
    for (const waiter of this.#takeWaiters(id)) waiter.resolve(live.machine);
    if (maxIdleMs !== null) this.#watchIdle(live, maxIdleMs, onIdle);
  }

  /** The record left RUNNING; the machine may still be there. */
  stopServing(id: string): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    live.serving = false;
    live.idleTimer?.[Symbol.dispose]();
    live.idleTimer = undefined;
  }

  /** Something that should end before the microVM is suspended; disposing says that it did. */
  exchange(id: string): UnderWay {
    let exchanges = this.#exchanges.get(id);
    if (exchanges === undefined) {
      exchanges = new Exchanges(this.#clock, () => this.#exchanges.delete(id));
      this.#exchanges.set(id, exchanges);
    }
    return exchanges.begin(this.#live.get(id));
  }

  /** Whether a request waits for its answer, or something moved within the last `maxIdleMs`. */
  stirs(id: string, maxIdleMs: number): boolean {
    const live = this.#live.get(id);
    if (this.#exchanges.get(id)?.isOwing === true) return true;
    return live !== undefined && this.#clock.monotonicMs() - live.lastActivityMs < maxIdleMs;
  }

  /** Whether something is under way that a suspend would cut. */
  isBusy(id: string): boolean {
    return this.#exchanges.get(id)?.isBusy === true;
  }

  /** Resolves when nothing is under way that a suspend would cut, at the latest after `timeoutMs`. */
  async quiet(id: string, timeoutMs: number, signal: AbortSignal): Promise<void> {
    const over = Promise.withResolvers<void>();
    let isOver = signal.aborted;
    const end = () => {
      isOver = true;
      over.resolve();
    };
    using _timer = this.#clock.after(timeoutMs, end);
    signal.addEventListener('abort', end, { once: true });
    while (!isOver) {
      const exchanges = this.#exchanges.get(id);
      if (exchanges?.isBusy !== true) return;
      // Those that go on may have fallen silent by then.
      const later = Promise.withResolvers<void>();
      using _later = this.#clock.after(SILENT_MS, later.resolve);
      await Promise.race([exchanges.oneEnded, later.promise, over.promise]);
    }
  }

  /** Resolves when the microVM serves. Whoever moves the record away from there calls `refuse`. */
  waitFor(id: string): PromiseWithResolvers<Machine> {
    const waiter = Promise.withResolvers<Machine>();
    waiter.promise.catch(() => {});
    const waiters = this.#waiters.get(id) ?? new Set();
    this.#waiters.set(id, waiters.add(waiter));
    return waiter;
  }

  forget(id: string, waiter: PromiseWithResolvers<Machine>): void {
    const waiters = this.#waiters.get(id);
    waiters?.delete(waiter);
    if (waiters?.size === 0) this.#waiters.delete(id);
  }

  isAwaited(id: string): boolean {
    return this.#waiters.has(id);
  }

  refuse(id: string, why: string): void {
    for (const waiter of this.#takeWaiters(id)) waiter.reject(new DomainError('CONFLICT', why));
  }

  /** Everybody who waits for anything: nothing will come any more. */
  refuseAll(why: string): void {
    for (const id of [...this.#waiters.keys()]) this.refuse(id, why);
  }

  /** One timer per period of idleness, re-armed for what is left when there was traffic meanwhile. */
  #watchIdle(live: Live, maxIdleMs: number, onIdle: () => Promise<void>): void {
    const leftMs = live.lastActivityMs + maxIdleMs - this.#clock.monotonicMs();
    live.idleTimer = this.#clock.after(Math.max(0, leftMs), () => {
      if (this.#clock.monotonicMs() - live.lastActivityMs < maxIdleMs) return this.#watchIdle(live, maxIdleMs, onIdle);
      if (this.stirs(live.machine.id, maxIdleMs)) {
        live.idleTimer = this.#clock.after(RETRY_MS, () => this.#watchIdle(live, maxIdleMs, onIdle));
        return;
      }
      onIdle().catch(() => {
        if (!live.serving) return;
        live.idleTimer = this.#clock.after(RETRY_MS, () => this.#watchIdle(live, maxIdleMs, onIdle));
      });
    });
  }

  #takeWaiters(id: string): readonly PromiseWithResolvers<Machine>[] {
    const waiters = [...(this.#waiters.get(id) ?? [])];
    this.#waiters.delete(id);
    return waiters;
  }
}

/** Exchanges of one microVM that are under way. */
class Exchanges {
  readonly #clock: Clock;
  readonly #onAllEnded: () => void;
  readonly #open = new Set<Exchange>();
  #oneEnded = Promise.withResolvers<void>();

  constructor(clock: Clock, onAllEnded: () => void) {
    this.#clock = clock;
    this.#onAllEnded = onAllEnded;
  }

  /** The app has not begun to answer one of them. */
  get isOwing(): boolean {
    for (const { isOwing } of this.#open) if (isOwing) return true;
    return false;
  }

  /** One of them waits for its answer, or moved a moment ago. */
  get isBusy(): boolean {
    const since = this.#clock.monotonicMs() - SILENT_MS;
    for (const { isOwing, movedMs } of this.#open) if (isOwing || movedMs > since) return true;
    return false;
  }

  /** Resolves when one of those open now has ended. */
  get oneEnded(): Promise<void> {
    return this.#oneEnded.promise;
  }

  begin(live: Live | undefined): UnderWay {
    const exchange = new Exchange(this.#clock, live, () => {
      if (!this.#open.delete(exchange)) return;
      if (this.#open.size === 0) this.#onAllEnded();
      this.#oneEnded.resolve();
      this.#oneEnded = Promise.withResolvers();
    });
    this.#open.add(exchange);
    return exchange;
  }
}

class Exchange implements UnderWay {
  readonly servedMs: number;
  readonly #clock: Clock;
  readonly #live: Live | undefined;
  readonly #onEnded: () => void;
  isOwing = true;
  movedMs: number;

  constructor(clock: Clock, live: Live | undefined, onEnded: () => void) {
    this.#clock = clock;
    this.#live = live;
    this.#onEnded = onEnded;
    this.movedMs = clock.monotonicMs();
    this.servedMs = this.movedMs - (live?.servingSinceMs ?? Number.NEGATIVE_INFINITY);
  }

  active(): void {
    this.movedMs = this.#clock.monotonicMs();
    if (this.#live !== undefined) this.#live.lastActivityMs = this.movedMs;
  }

  answered(): void {
    this.isOwing = false;
  }

  [Symbol.dispose](): void {
    this.#onEnded();
  }
}
