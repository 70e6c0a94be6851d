/**
 * Calls back for every record whose `dueAt` has come. The store's index is the queue: one timer for the earliest moment,
 * nothing in memory per record, no work while nothing is due.
 */
import { type Clock, type Logger, messageOf } from '../lib/index.ts';
import type { Records, Row } from './store.ts';

/** The part of the store that is asked. */
type DueSource<Body> = Pick<Records<Body>, 'due' | 'nextDueAt'>;

const BATCH = 100;
/** Pause before due records that did not move (a failing store, say) are tried again. */
const RETRY_MS = 1000;

export class DueClock<Body> implements Disposable {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #source: DueSource<Body>;
  readonly #onDue: (row: Row<Body>) => Promise<void>;
  #armedAt = Number.POSITIVE_INFINITY;
  #timer: Disposable | undefined;
  #disposed = false;

  constructor(options: {
    clock: Clock;
    log: Logger;
    source: DueSource<Body>;
    onDue: (row: Row<Body>) => Promise<void>;
  }) {
    this.#clock = options.clock;
    this.#log = options.log;
    this.#source = options.source;
    this.#onDue = options.onDue;
  }

  /** A record was written that is due at `at`. */
  consider(at: number | null): void {
    if (at === null || at >= this.#armedAt || this.#disposed) return;
    this.#timer?.[Symbol.dispose]();
    this.#armedAt = at;
    this.#timer = this.#clock.after(Math.max(0, at - this.#clock.now()), () => void this.#fire());
  }

  /** Takes up what the store holds, at start. */
  async start(): Promise<void> {
    this.consider((await this.#source.nextDueAt()) ?? null);
  }

  async #fire(): Promise<void> {
    this.#armedAt = Number.POSITIVE_INFINITY;
    try {
      const rows = await this.#source.due(this.#clock.now(), BATCH);
      for (const row of rows) await this.#onDue(row);
      const next = await this.#source.nextDueAt();
      if (next === undefined) return;
      const stuck = next <= this.#clock.now() && rows.length < BATCH;
      this.consider(stuck ? this.#clock.now() + RETRY_MS : next);
    } catch (error) {
      if (this.#disposed) return;
      this.#log.error({ error: messageOf(error) }, 'due records could not be handled; trying again');
      this.consider(this.#clock.now() + RETRY_MS);
    }
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#timer?.[Symbol.dispose]();
  }
}
