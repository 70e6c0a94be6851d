/**
 * The memory of all microVMs that have not ended, against the account's quota. Kept in memory and filled from the records
 * at start; a launch takes its share before its record is written, in the same tick as it is checked, so that launches at
 * once cannot overrun the quota together.
 */
import { DomainError } from '../lib/index.ts';

export class MemoryQuota {
  readonly #limitMiB: number;
  readonly #held = new Map<string, number>();
  #totalMiB = 0;

  constructor(limitMiB: number | undefined) {
    this.#limitMiB = limitMiB ?? Number.POSITIVE_INFINITY;
  }

  /** Takes `memoryMiB` for `id`, instead of what it held. @throws DomainError `QUOTA` in the recorded words */
  take(id: string, memoryMiB: number): void {
    this.release(id);
    if (this.#totalMiB + memoryMiB > this.#limitMiB) {
      throw new DomainError('QUOTA', 'The base maximum allocated memory limit has been reached for this account.');
    }
    this.hold(id, memoryMiB);
  }

  /** It was launched before, whatever the quota is now. */
  hold(id: string, memoryMiB: number): void {
    this.release(id);
    this.#held.set(id, memoryMiB);
    this.#totalMiB += memoryMiB;
  }

  /** Idempotent. */
  release(id: string): void {
    this.#totalMiB -= this.#held.get(id) ?? 0;
    this.#held.delete(id);
  }
}
