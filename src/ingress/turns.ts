/**
 * Turns at opening connections to one port, so that a crowd does not drown the app it asks for.
 *
 * A connection in which an app has said nothing yet may not even be accepted: Python's own server lets five wait, and one with a
 * thread for each is slower with a thousand at once than with one after the other. So only a few are opened ahead of the app's
 * first answers. The others stand in line for what comes first: a turn, or a connection that another request has done with.
 * Apps may answer late on purpose (long polling), so that a turn also ends a while after its connection stands.
 */
import { type Clock, MachineError } from '../lib/index.ts';

/** GUESS: connection-turns */
const AT_ONCE = 16;
/** How long a connection without an answer counts: by how long it took to open, which tells how quick the guest is. */
const PER_OPENING = 20;
const SHORTEST_MS = 100;
const LONGEST_MS = 1000;
/** Twice what a guest takes to give up a connection that its app does not accept: an app that accepts nobody is given up for all. */
const LONGEST_WAIT_MS = 120_000;

/** The right to open one connection. Disposed of once the app has said something in it, or it is gone. */
export class Turn implements Disposable {
  readonly #clock: Clock;
  readonly #sinceMs: number;
  readonly #onEnd: (turn: Turn) => void;
  #untilMs = Number.POSITIVE_INFINITY;

  constructor(clock: Clock, onEnd: (turn: Turn) => void) {
    this.#clock = clock;
    this.#sinceMs = clock.monotonicMs();
    this.#onEnd = onEnd;
  }

  get untilMs(): number {
    return this.#untilMs;
  }

  /** The connection stands: from now on the turn's time runs. */
  opened(): void {
    const now = this.#clock.monotonicMs();
    const lasts = PER_OPENING * (now - this.#sinceMs);
    this.#untilMs = now + Math.min(LONGEST_MS, Math.max(SHORTEST_MS, lasts));
  }

  [Symbol.dispose](): void {
    this.#onEnd(this);
  }
}

interface Waiter<T> {
  readonly sinceMs: number;
  readonly resolve: (got: T | Turn) => void;
  readonly reject: (error: Error) => void;
}

/** `T`: what may come instead of a turn. */
export class Turns<T = never> implements Disposable {
  readonly #clock: Clock;
  readonly #taken = new Set<Turn>();
  readonly #waiting = new Set<Waiter<T>>();
  #timer: Disposable | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * A turn, or what was offered meanwhile, in the order of asking.
   * @throws the signal's reason; MachineError `timeout` after two minutes, `exited` after disposal
   */
  async next(signal: AbortSignal): Promise<T | Turn> {
    if (this.#waiting.size === 0 && this.#taken.size < AT_ONCE) return this.#take();
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<T | Turn>();
    const waiter: Waiter<T> = { sinceMs: this.#clock.monotonicMs(), resolve, reject };
    const onAbort = () => {
      // At once: whatever it were given now would be lost.
      this.#waiting.delete(waiter);
      reject(signal.reason);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    this.#waiting.add(waiter);
    this.#endLate();
    try {
      return await promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Hands it to whoever waits longest; false when nobody does. */
  offer(instead: T): boolean {
    const waiter = this.#first();
    waiter?.resolve(instead);
    return waiter !== undefined;
  }

  [Symbol.dispose](): void {
    this.#timer?.[Symbol.dispose]();
    const error = new MachineError('exited', 'the machine is gone');
    for (let waiter = this.#first(); waiter !== undefined; waiter = this.#first()) waiter.reject(error);
  }

  #first(): Waiter<T> | undefined {
    const [first] = this.#waiting;
    if (first !== undefined) this.#waiting.delete(first);
    return first;
  }

  #take(): Turn {
    const turn = new Turn(this.#clock, (ended) => {
      if (this.#taken.delete(ended)) this.#serve();
    });
    this.#taken.add(turn);
    return turn;
  }

  #serve(): void {
    while (this.#waiting.size > 0 && this.#taken.size < AT_ONCE) this.#first()?.resolve(this.#take());
  }

  /** Looked at from time to time, and only while somebody waits. */
  #endLate(): void {
    const now = this.#clock.monotonicMs();
    for (const turn of this.#taken) if (turn.untilMs <= now) turn[Symbol.dispose]();
    for (const waiter of this.#waiting) {
      if (now - waiter.sinceMs < LONGEST_WAIT_MS) break;
      this.#waiting.delete(waiter);
      waiter.reject(new MachineError('timeout', 'the app left no turn to connect to it'));
    }
    if (this.#waiting.size === 0 || this.#timer !== undefined) return;
    this.#timer = this.#clock.after(SHORTEST_MS, () => {
      this.#timer = undefined;
      this.#endLate();
    });
  }
}
