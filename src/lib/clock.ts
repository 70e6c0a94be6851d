/** The one source of time. Rooms take a `Clock`; tests advance a `TestClock` by hand. */
export interface Clock {
  /** Wall clock, milliseconds since the epoch. */
  now(): number;
  /** Monotonic clock, milliseconds from an arbitrary origin; for durations. */
  monotonicMs(): number;
  /** Runs `callback` once, `delayMs` from now (0 or more). Disposing the result cancels it. */
  after(delayMs: number, callback: () => void): Disposable;
}

/** setTimeout takes at most 2^31-1 ms; longer delays are chained. */
const MAX_TIMEOUT_MS = 2_147_000_000;

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonicMs: () => performance.now(),
  after(delayMs, callback) {
    const dueAtMs = performance.now() + delayMs;
    let timer: NodeJS.Timeout;
    const arm = () => {
      const leftMs = dueAtMs - performance.now();
      if (leftMs > MAX_TIMEOUT_MS) timer = setTimeout(arm, MAX_TIMEOUT_MS);
      else timer = setTimeout(callback, Math.max(0, leftMs));
    };
    arm();
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  },
};

/** A clock that moves only when told; timers fire in order of their due time while it moves. */
export class TestClock implements Clock {
  #nowMs: number;
  #timers = new Set<{ dueAtMs: number; callback: () => void }>();

  constructor(startAtMs = 1_800_000_000_000) {
    this.#nowMs = startAtMs;
  }

  now(): number {
    return this.#nowMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, callback: () => void): Disposable {
    const timer = { dueAtMs: this.#nowMs + delayMs, callback };
    this.#timers.add(timer);
    return { [Symbol.dispose]: () => void this.#timers.delete(timer) };
  }

  /** Moves time forward, stepping to each deadline so that chained timers fall as in life. Lets promises settle between steps. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    for (;;) {
      const next = [...this.#timers].filter((t) => t.dueAtMs <= endMs).sort((a, b) => a.dueAtMs - b.dueAtMs)[0];
      if (next === undefined) break;
      this.#timers.delete(next);
      this.#nowMs = Math.max(this.#nowMs, next.dueAtMs);
      next.callback();
      await settle();
    }
    this.#nowMs = endMs;
    await settle();
  }
}

/** Lets every promise and immediate that is ready run. */
async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
}
