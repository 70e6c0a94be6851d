/**
 * The one source of time. Rooms take a `Clock`; tests advance a `TestClock` by hand. Which timer goes by which reading is
 * a decision (docs/decisions/0004-clocks.md).
 */
import { readFileSync } from 'node:fs';
import { uptime } from 'node:os';

export interface Clock {
  /** Wall clock, milliseconds since the epoch: for what is shown. Whoever sets the host's clock moves it, either way. */
  now(): number;
  /** Monotonic clock, milliseconds from an arbitrary origin; for durations. Stands still while the host sleeps. */
  monotonicMs(): number;
  /** Time since the host's boot, its sleep included; good to 10 ms. Comparable between processes of one `bootId`. */
  sinceBoot(): { readonly bootId: string; readonly ms: number };
  /** Runs `callback` once, `delayMs` from now (0 or more). Disposing the result cancels it. */
  after(delayMs: number, callback: () => void): Disposable;
}

/** setTimeout takes at most 2^31-1 ms; longer delays are chained. */
const MAX_TIMEOUT_MS = 2_147_000_000;

const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id';
let bootId: string | undefined;

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonicMs: () => performance.now(),
  sinceBoot() {
    bootId ??= readFileSync(BOOT_ID_FILE, 'latin1').trim();
    return { bootId, ms: uptime() * 1000 };
  },
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

/**
 * A clock that moves only when told; timers fire in order of their due time while it moves. What happens to clocks of real
 * hosts can be played: somebody sets the time, the host sleeps, the host is started anew.
 */
export class TestClock implements Clock {
  #nowMs: number;
  #monotonicMs: number;
  #boot = 1;
  #bootMs = 0;
  readonly #turns: number;
  #timers = new Set<{ dueAtMs: number; callback: () => void }>();

  /** `turns` of the event loop that what a timer sets off may take before the next timer. */
  constructor({ startAtMs = 1_800_000_000_000, turns = 10 } = {}) {
    this.#nowMs = startAtMs;
    this.#monotonicMs = startAtMs;
    this.#turns = turns;
  }

  now(): number {
    return this.#nowMs;
  }

  monotonicMs(): number {
    return this.#monotonicMs;
  }

  sinceBoot(): { bootId: string; ms: number } {
    return { bootId: `boot-${this.#boot}`, ms: this.#bootMs };
  }

  after(delayMs: number, callback: () => void): Disposable {
    const timer = { dueAtMs: this.#monotonicMs + delayMs, callback };
    this.#timers.add(timer);
    return { [Symbol.dispose]: () => void this.#timers.delete(timer) };
  }

  /** The host's wall clock is set: by NTP, by hand, wrongly. Nothing else moves. */
  jump(ms: number): void {
    this.#nowMs += ms;
  }

  /** The host sleeps: no process runs and no timer moves. */
  sleepHost(ms: number): void {
    this.#nowMs += ms;
    this.#bootMs += ms;
  }

  /** The host is off for so long and starts again; timers of before are gone with their processes. */
  rebootHost(offMs = 0): void {
    this.#timers.clear();
    this.#nowMs += offMs;
    this.#boot += 1;
    this.#bootMs = 0;
  }

  /** Moves time forward, stepping to each deadline so that chained timers fall as in life. Lets promises settle between steps. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#monotonicMs + ms;
    for (;;) {
      const next = this.#nextBefore(endMs);
      if (next === undefined) break;
      this.#timers.delete(next);
      this.#moveTo(Math.max(this.#monotonicMs, next.dueAtMs));
      next.callback();
      await settle(this.#turns);
    }
    this.#moveTo(endMs);
    await settle(this.#turns);
  }

  #nextBefore(endMs: number): { dueAtMs: number; callback: () => void } | undefined {
    let next: { dueAtMs: number; callback: () => void } | undefined;
    for (const timer of this.#timers) {
      if (timer.dueAtMs <= endMs && (next === undefined || timer.dueAtMs < next.dueAtMs)) next = timer;
    }
    return next;
  }

  #moveTo(monotonicMs: number): void {
    const passed = monotonicMs - this.#monotonicMs;
    this.#monotonicMs = monotonicMs;
    this.#nowMs += passed;
    this.#bootMs += passed;
  }
}

/** Lets every promise and immediate that is ready run. */
async function settle(turns: number): Promise<void> {
  for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
}
