/** Followers of live events. Each holds a bounded number of them; what a slow one misses is left out, never waited for. */
import type { Matcher } from './filter-pattern.ts';
import type { TailEvent, TailOptions } from './types.ts';

/** CloudWatch hands on 500 a second at most. */
const MAX_WAITING = 5_000;

interface Follower {
  wants(event: TailEvent): boolean;
  readonly waiting: TailEvent[];
  wake: PromiseWithResolvers<void>;
}

export class Tails {
  readonly #followers = new Set<Follower>();
  #isOver = false;

  offer(events: readonly TailEvent[]): void {
    for (const follower of this.#followers) {
      const before = follower.waiting.length;
      for (const event of events) {
        if (follower.waiting.length >= MAX_WAITING) break;
        if (follower.wants(event)) follower.waiting.push(event);
      }
      if (follower.waiting.length > before) follower.wake.resolve();
    }
  }

  end(): void {
    this.#isOver = true;
    for (const { wake } of this.#followers) wake.resolve();
  }

  async *follow(
    groups: readonly string[],
    matches: Matcher,
    { streams, streamPrefixes, signal }: TailOptions,
  ): AsyncIterable<readonly TailEvent[]> {
    const isOfStream = (name: string) =>
      (streams === undefined || streams.includes(name)) &&
      (streamPrefixes === undefined || streamPrefixes.some((prefix) => name.startsWith(prefix)));
    const follower: Follower = {
      wants: (event) => groups.includes(event.group) && isOfStream(event.stream) && matches(event.message),
      waiting: [],
      wake: Promise.withResolvers(),
    };
    const onAbort = () => follower.wake.resolve();
    signal.addEventListener('abort', onAbort, { once: true });
    this.#followers.add(follower);
    try {
      while (!signal.aborted && !this.#isOver) {
        await follower.wake.promise;
        follower.wake = Promise.withResolvers();
        const events = follower.waiting.splice(0);
        if (events.length > 0) yield events;
      }
    } finally {
      this.#followers.delete(follower);
      signal.removeEventListener('abort', onAbort);
    }
  }
}
