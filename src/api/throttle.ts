/**
 * Call rates: a token bucket for each principal and limited operation. Off unless rates are configured.
 *
 * Invariant: a full bucket is as good as none, so what is kept is bounded by who called lately.
 */
import { type Clock, DomainError } from '../lib/index.ts';
import type { OperationName } from './operation.ts';

/** How often one principal may call an operation: `burst` at once, `perSecond` in the long run. */
export interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}
export type Rates = Readonly<Partial<Record<OperationName, Rate>>>;

interface Bucket {
  tokens: number;
  atMs: number;
}

const PRUNE_ABOVE = 10_000;

export class Throttle {
  readonly #rates: Rates;
  readonly #clock: Clock;
  readonly #buckets = new Map<string, Bucket>();

  constructor(rates: Rates, clock: Clock) {
    this.#rates = rates;
    this.#clock = clock;
  }

  /**
   * Takes one call from the bucket. Words and wait are ours. GUESS: throttle-answer
   * @throws DomainError `THROTTLED` with the seconds after which a call will get through
   */
  take(principal: string, operation: OperationName): void {
    const rate = this.#rates[operation];
    if (rate === undefined) return;
    const atMs = this.#clock.monotonicMs();
    const key = `${operation} ${principal}`;
    const bucket = this.#buckets.get(key) ?? { tokens: rate.burst, atMs };
    bucket.tokens = filled(bucket, rate, atMs);
    bucket.atMs = atMs;
    this.#buckets.set(key, bucket);
    if (bucket.tokens < 1) {
      const retryAfterSeconds = Math.max(1, Math.ceil((1 - bucket.tokens) / rate.perSecond));
      throw new DomainError('THROTTLED', 'Rate exceeded', {
        details: { retryAfterSeconds, Reason: 'CallerRateLimitExceeded' },
      });
    }
    bucket.tokens -= 1;
    if (this.#buckets.size > PRUNE_ABOVE) this.#prune(atMs);
  }

  #prune(atMs: number): void {
    for (const [key, bucket] of this.#buckets) {
      const rate = this.#rates[key.slice(0, key.indexOf(' ')) as OperationName];
      if (rate === undefined || filled(bucket, rate, atMs) >= rate.burst) this.#buckets.delete(key);
    }
  }
}

function filled(bucket: Bucket, rate: Rate, atMs: number): number {
  return Math.min(rate.burst, bucket.tokens + ((atMs - bucket.atMs) / 1000) * rate.perSecond);
}
