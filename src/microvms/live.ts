/**
 * What lives only in memory: the machine of each microVM that has one, its idle clock, and who waits for it. Never
 * written to the store: activity comes with every chunk of traffic.
 */

import type { Machine } from '../engine/index.ts';
import { type Clock, DomainError } from '../lib/index.ts';

/** One live machine. `serving` only while the record is RUNNING. */
export interface Live {
  readonly machine: Machine;
  serving: boolean;
  lastActivityMs: number;
  idleTimer: Disposable | undefined;
}

export class LiveMachines {
  readonly #clock: Clock;
  readonly #live = new Map<string, Live>();
  readonly #waiters = new Map<string, Set<PromiseWithResolvers<Machine>>>();

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

  add(machine: Machine): Live {
    const live: Live = { machine, serving: false, lastActivityMs: this.#clock.monotonicMs(), idleTimer: undefined };
    this.#live.set(machine.id, live);
    return live;
  }

  /** Forgets the machine if it is still the one known under its id. */
  remove(machine: Machine): void {
    const live = this.#live.get(machine.id);
    if (live?.machine !== machine) return;
    live.idleTimer?.[Symbol.dispose]();
    this.#live.delete(machine.id);
  }

  /** The record became RUNNING: waiters go ahead, the idle clock starts. `onIdle` is called at most once per period. */
  serve(id: string, maxIdleMs: number | null, onIdle: () => void): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    live.serving = true;
    live.lastActivityMs = this.#clock.monotonicMs();
    for (const waiter of this.#takeWaiters(id)) waiter.resolve(live.machine);
    if (maxIdleMs !== null) this.#watchIdle(live, maxIdleMs, onIdle);
  }

  /** The record left RUNNING. */
  stopServing(id: string): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    live.serving = false;
    live.idleTimer?.[Symbol.dispose]();
    live.idleTimer = undefined;
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

  refuse(id: string, why: string): void {
    for (const waiter of this.#takeWaiters(id)) waiter.reject(new DomainError('CONFLICT', why));
  }

  /** One timer per period of idleness, re-armed for what is left when there was traffic meanwhile. */
  #watchIdle(live: Live, maxIdleMs: number, onIdle: () => void): void {
    const leftMs = live.lastActivityMs + maxIdleMs - this.#clock.monotonicMs();
    live.idleTimer = this.#clock.after(Math.max(0, leftMs), () => {
      if (this.#clock.monotonicMs() - live.lastActivityMs >= maxIdleMs) onIdle();
      else this.#watchIdle(live, maxIdleMs, onIdle);
    });
  }

  #takeWaiters(id: string): readonly PromiseWithResolvers<Machine>[] {
    const waiters = [...(this.#waiters.get(id) ?? [])];
    this.#waiters.delete(id);
    return waiters;
  }
}
