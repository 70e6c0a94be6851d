/** Attempts that are made again later, less and less often: for what must not be given up; everything else became a state. */
import type { Clock, Logger } from '../lib/index.ts';
import { logFailure } from './end-reasons.ts';

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 60_000;

export class Retries implements Disposable {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #waiting = new Map<string, { timer: Disposable; delayMs: number }>();
  #disposed = false;

  constructor({ clock, log }: { clock: Clock; log: Logger }) {
    this.#clock = clock;
    this.#log = log;
  }

  /** The `key` begins with the microVM's id. */
  later(key: string, error: unknown, again: () => void): void {
    if (this.#disposed) return;
    const before = this.#waiting.get(key);
    const delayMs = before === undefined ? FIRST_PAUSE_MS : Math.min(LONGEST_PAUSE_MS, before.delayMs * 2);
    const log = this.#log.child({ microvmId: key.split(' ', 1)[0], retryMs: delayMs });
    logFailure(log, error, 'a step failed and will be tried again');
    before?.timer[Symbol.dispose]();
    this.#waiting.set(key, { timer: this.#clock.after(delayMs, again), delayMs });
  }

  /** It worked: the next failure is a first one. */
  forget(key: string): void {
    this.#waiting.get(key)?.timer[Symbol.dispose]();
    this.#waiting.delete(key);
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    for (const { timer } of this.#waiting.values()) timer[Symbol.dispose]();
  }
}
