/**
 * The first request after a wake never sees a 502 because its app is a moment late: a port that refuses right after its
 * machine began to serve is tried again for a while. Nothing was sent until then, so nothing can arrive twice.
 */
import { type Clock, MachineError } from '../lib/index.ts';
import type { UnderWay } from '../microvms/index.ts';

/** After that, a port that refuses is one on which nothing listens. GUESS: wake-grace */
const GRACE_MS = 2000;
const FIRST_PAUSE_MS = 25;
const LONGEST_PAUSE_MS = 400;

export class Patience {
  readonly #clock: Clock;
  #pauseMs = FIRST_PAUSE_MS;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** True after a pause when the app may listen by now. */
  async isWorthIt(error: unknown, { servedMs }: Pick<UnderWay, 'servedMs'>, gone: AbortSignal): Promise<boolean> {
    const isRefused = error instanceof MachineError && error.kind === 'failed';
    if (!isRefused || servedMs + this.#pauseMs > GRACE_MS || gone.aborted) return false;
    const { promise, resolve } = Promise.withResolvers<void>();
    using _timer = this.#clock.after(this.#pauseMs, resolve);
    gone.addEventListener('abort', () => resolve(), { once: true });
    this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS);
    await promise;
    return !gone.aborted;
  }
}
