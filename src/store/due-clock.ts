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
/** The clock is read again at least this often: while the host sleeps, or when its clock is set, time passes unseen by timers. */
const RECHECK_MS = 60_000;

export class DueClock<Body> implements Disposable {
  readonly #clock: Pick<Clock, 'now' | 'after'>;
  readonly #log: Logger;
  readonly #source: DueSource<Body>;
  readonly #onDue: (row: Row<Body>) => Promise<void>;
  #armedAt = Number.POSITIVE_INFINITY;
  #timer: Disposable | undefined;
  #disposed = false;

  constructor(options: {
    /** `now` on the scale of `dueAt`. */
    clock: Pick<Clock, 'now' | 'after'>;
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
    this.#armedAt = at;
    this.#arm();
  }

  /** Takes up what the store holds, at start. */
  async start(): Promise<void> {
    this.consider((await this.#source.nextDueAt()) ?? null);
  }

  #arm(): void {
    this.#timer?.[Symbol.dispose]();
    const leftMs = Math.max(0, this.#armedAt - this.#clock.now());
    this.#timer = this.#clock.after(Math.min(leftMs, RECHECK_MS), () => {
      if (this.#clock.now() < this.#armedAt) this.#arm();
      else void this.#fire();
    });
  }

  async #fire(): Promise<void> {
    this.#armedAt = Number.POSITIVE_INFINITY;
    try {
      const rows = await this.#source.due(this.#clock.now(), BATCH);
      let failed = false;
      for (const row of rows) {
        if (this.#disposed) return;
        failed = !(await this.#handle(row)) || failed;
      }
      const next = await this.#source.nextDueAt();
      if (next === undefined) return;
      const stuck = next <= this.#clock.now() && (failed || rows.length < BATCH);
      this.consider(stuck ? this.#clock.now() + RETRY_MS : next);
    } catch (error) {
      if (this.#disposed) return;
      this.#log.error({ error: messageOf(error) }, 'due records could not be read; trying again');
      this.consider(this.#clock.now() + RETRY_MS);
    }
  }

  /** False when it is to be tried again; one that cannot be handled holds up no other. */
  async #handle(row: Row<Body>): Promise<boolean> {
    try {
      await this.#onDue(row);
      return true;
    } catch (error) {
      if (!this.#disposed)
        this.#log.error({ id: row.id, error: messageOf(error) }, 'a due record could not be handled');
      return false;
    }
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#timer?.[Symbol.dispose]();
  }
}
