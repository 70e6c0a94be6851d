/** Requests per second of each microVM: a bucket of tokens for each that is limited. */
import type { Clock } from '../lib/index.ts';
import type { RequestRate } from './limits.ts';

interface Bucket {
  readonly rate: RequestRate;
  tokens: number;
  atMs: number;
}

export class Rates {
  readonly #clock: Clock;
  readonly #buckets = new Map<string, Bucket>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  set(microvmId: string, rate: RequestRate): void {
    if (this.#buckets.has(microvmId)) return;
    this.#buckets.set(microvmId, { rate, tokens: rate.burst, atMs: this.#clock.monotonicMs() });
  }

  delete(microvmId: string): void {
    this.#buckets.delete(microvmId);
  }

  /** Counts one request; false: one too many. */
  take(microvmId: string): boolean {
    const bucket = this.#buckets.get(microvmId);
    if (bucket === undefined) return true;
    const { perSecond, burst } = bucket.rate;
    const atMs = this.#clock.monotonicMs();
    bucket.tokens = Math.min(burst, bucket.tokens + ((atMs - bucket.atMs) / 1000) * perSecond);
    bucket.atMs = atMs;
    if (bucket.tokens < 1) return false;
    bucket.tokens -= 1;
    return true;
  }
}
