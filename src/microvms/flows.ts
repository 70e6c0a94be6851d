/** Readers of flow logs: the engine keeps the log, this ends those that follow it when their microVM has ended. */
import type { Engine, FlowRecord } from '../engine/index.ts';
import type { Clock } from '../lib/index.ts';

/** What a machine's end cut is written down a moment later. */
const LAST_RECORDS_MS = 1000;

export class FlowReaders implements Disposable {
  readonly #engine: Pick<Engine, 'flows'>;
  readonly #clock: Clock;
  readonly #followers = new Map<string, Set<AbortController>>();
  readonly #timers = new Set<Disposable>();

  constructor(engine: Pick<Engine, 'flows'>, clock: Clock) {
    this.#engine = engine;
    this.#clock = clock;
  }

  /** `hasEnded` is asked once a follower is known, so that it does not wait for an end that was before. */
  async *read(
    id: string,
    options: { follow?: boolean; signal?: AbortSignal; hasEnded: () => Promise<boolean> },
  ): AsyncIterable<FlowRecord> {
    const stop = new AbortController();
    const signal = options.signal === undefined ? stop.signal : AbortSignal.any([stop.signal, options.signal]);
    const followers = this.#followers.get(id) ?? new Set();
    this.#followers.set(id, followers.add(stop));
    try {
      const follow = options.follow === true && !(await options.hasEnded());
      yield* this.#engine.flows(id, { follow, signal });
    } finally {
      followers.delete(stop);
      if (followers.size === 0 && this.#followers.get(id) === followers) this.#followers.delete(id);
    }
  }

  /** Its microVM has ended: followers get what is still coming, then they end. */
  end(id: string): void {
    const followers = this.#followers.get(id);
    if (followers === undefined) return;
    const timer = this.#clock.after(LAST_RECORDS_MS, () => {
      this.#timers.delete(timer);
      for (const stop of followers) stop.abort();
    });
    this.#timers.add(timer);
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers) timer[Symbol.dispose]();
    for (const followers of this.#followers.values()) for (const stop of followers) stop.abort();
  }
}
