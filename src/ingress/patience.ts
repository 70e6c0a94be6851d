/**
 * The first request after a wake never sees a 502 because its app is a moment late: a port that refuses right after its
 * machine began to serve is tried again for a while. In a guest that is slow each attempt is, so that they are counted too.
 * Nothing was sent until then, so nothing can arrive twice.
 */
import { type Clock, MachineError } from '../lib/index.ts';
import type { UnderWay } from '../microvms/index.ts';

/** After that, a port that refuses is one on which nothing listens. GUESS: wake-grace */
const GRACE_MS = 2000;
/** As many as fit into it in a guest that is quick, at least. */
const ATTEMPTS = 8;
const FIRST_PAUSE_MS = 25;
const LONGEST_PAUSE_MS = 400;

export class Patience {
  readonly #clock: Clock;
  #pauseMs = FIRST_PAUSE_MS;
  /** Left of those that began in time; none if the first did not. */
  #attempts: number | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** True after a pause when the app may listen by now. */
  async isWorthIt(error: unknown, { servedMs }: Pick<UnderWay, 'servedMs'>, gone: AbortSignal): Promise<boolean> {
    const isRefused = error instanceof MachineError && error.kind === 'failed';
    const isInTime = servedMs + this.#pauseMs <= GRACE_MS;
    this.#attempts ??= isInTime ? ATTEMPTS : 0;
    if (!isRefused || gone.aborted || !(isInTime || this.#attempts > 0)) return false;
    this.#attempts -= 1;
    const { promise, resolve } = Promise.withResolvers<void>();
    using _timer = this.#clock.after(this.#pauseMs, resolve);
    gone.addEventListener('abort', () => resolve(), { once: true });
    this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS);
    await promise;
    return !gone.aborted;
  }
}
