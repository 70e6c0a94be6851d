/**
 * How fast somebody else may make this process work: a bucket of tokens that fills with time. It never refuses; it tells how
 * long to leave the other side waiting, so that one that floods is slowed down to the rate instead of being believed.
 */
export interface PaceOptions {
  readonly perSecond: number;
  /** What may come at once. */
  readonly burst: number;
  /** Monotonic, in milliseconds; for tests. */
  readonly now?: () => number;
}

export class Pace {
  readonly #perMs: number;
  readonly #burst: number;
  readonly #now: () => number;
  #tokens: number;
  #at: number;

  constructor({ perSecond, burst, now = () => performance.now() }: PaceOptions) {
    this.#perMs = perSecond / 1000;
    this.#burst = burst;
    this.#now = now;
    this.#tokens = burst;
    this.#at = now();
  }

  /** Takes what happened already. Returns for how many milliseconds nothing more should be taken; 0 for go on. */
  take(amount: number): number {
    const at = this.#now();
    this.#tokens = Math.min(this.#burst, this.#tokens + (at - this.#at) * this.#perMs) - amount;
    this.#at = at;
    return this.#tokens >= 0 ? 0 : Math.ceil(-this.#tokens / this.#perMs);
  }
}
