/** Where the time of a build goes, for the end of its log. */
import type { Clock } from '../../lib/index.ts';

export class Phases {
  readonly #clock: Clock;
  readonly #took = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** What failed took its time too; what is done more than once is added up. */
  async time<T>(name: string, work: () => Promise<T>): Promise<T> {
    const startedMs = this.#clock.monotonicMs();
    try {
      return await work();
    } finally {
      this.#took.set(name, (this.#took.get(name) ?? 0) + this.#clock.monotonicMs() - startedMs);
    }
  }

  /** `fetch 0.1 s, unpack 0.0 s`, in the order in which they ended. */
  toString(): string {
    return [...this.#took].map(([name, ms]) => `${name} ${(ms / 1000).toFixed(1)} s`).join(', ');
  }
}

/** For work that may be watched. */
export function timed<T>(phases: Phases | undefined, name: string, work: () => Promise<T>): Promise<T> {
  return phases === undefined ? work() : phases.time(name, work);
}
