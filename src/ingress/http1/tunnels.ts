/**
 * Kept tunnels of one machine, by port: the one used last is taken first, and none is kept longer than apps keep theirs.
 *
 * Invariant: a tunnel is in the pool only while nothing is under way in it and its app has neither spoken nor hung up.
 */
import type { Clock } from '../../lib/index.ts';
import { Turns } from '../turns.ts';

/** Below the 5 s after which Node and uvicorn close an idle connection: ours must give up first. */
const KEEP_IDLE_MS = 4000;
const KEEP_AT_MOST = 32;
const SWEEP_MS = 1000;

export interface Keepable {
  /** What the app's `Keep-Alive: timeout` leaves, in milliseconds; undefined when it said nothing. */
  readonly hintMs: number | undefined;
  destroy(): void;
}

interface Idle<T> {
  readonly tunnel: T;
  readonly until: number;
}

export class Tunnels<T extends Keepable> implements Disposable {
  readonly #clock: Clock;
  readonly #idle = new Map<number, Idle<T>[]>();
  readonly #all = new Set<T>();
  readonly #turns = new Map<number, Turns<T>>();
  #sweep: Disposable | undefined;
  #isOver = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** At what to do when none is kept: a turn to open one, or one that is kept meanwhile. */
  turns(port: number): Turns<T> {
    let turns = this.#turns.get(port);
    if (turns === undefined) {
      turns = new Turns(this.#clock);
      this.#turns.set(port, turns);
    }
    return turns;
  }

  take(port: number): T | undefined {
    const idle = this.#idle.get(port);
    const now = this.#clock.monotonicMs();
    for (let last = idle?.pop(); last !== undefined; last = idle?.pop()) {
      if (last.until > now) return last.tunnel;
      last.tunnel.destroy();
    }
    return undefined;
  }

  /** Owns the tunnel from now on, whether it is in use or not. */
  add(tunnel: T): void {
    if (this.#isOver) tunnel.destroy();
    else this.#all.add(tunnel);
  }

  /** Keeps a tunnel for the next request, or ends it. */
  keep(port: number, tunnel: T): void {
    const keepMs = Math.min(KEEP_IDLE_MS, tunnel.hintMs ?? KEEP_IDLE_MS);
    let idle = this.#idle.get(port);
    if (idle === undefined) {
      idle = [];
      this.#idle.set(port, idle);
    }
    if (!this.#isOver && keepMs > 0 && this.#turns.get(port)?.offer(tunnel) === true) return;
    if (this.#isOver || keepMs <= 0 || idle.length >= KEEP_AT_MOST) return void tunnel.destroy();
    idle.push({ tunnel, until: this.#clock.monotonicMs() + keepMs });
    this.#sweep ??= this.#clock.after(SWEEP_MS, () => this.#sweepIdle());
  }

  /** The tunnel is gone. */
  remove(port: number, tunnel: T): void {
    this.#all.delete(tunnel);
    const idle = this.#idle.get(port);
    const at = idle?.findIndex((one) => one.tunnel === tunnel) ?? -1;
    if (at >= 0) idle?.splice(at, 1);
  }

  /** Closes the idle tunnels to a port, so that the next request opens a fresh one. */
  dropIdle(port: number): void {
    for (const { tunnel } of this.#idle.get(port)?.splice(0) ?? []) tunnel.destroy();
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    this.#sweep?.[Symbol.dispose]();
    for (const turns of this.#turns.values()) turns[Symbol.dispose]();
    for (const tunnel of [...this.#all]) tunnel.destroy();
  }

  #sweepIdle(): void {
    this.#sweep = undefined;
    const now = this.#clock.monotonicMs();
    let left = 0;
    for (const idle of this.#idle.values()) {
      for (const { tunnel } of idle.filter(({ until }) => until <= now)) tunnel.destroy();
      left += idle.length;
    }
    if (left > 0) this.#sweep = this.#clock.after(SWEEP_MS, () => this.#sweepIdle());
  }
}
