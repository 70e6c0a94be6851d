/**
 * Whose build is next: as many at once as there are slots, and those who wait take turns. Of those who wait, who has the
 * fewest builds under way comes first, then who was served the longest ago; one's own builds keep their order.
 */
export class Turns {
  #free: number;
  #served = 0;
  readonly #owners = new Map<string, Owner>();

  constructor(slots: number) {
    this.#free = slots;
  }

  /** Resolves with a slot; disposing it lets the next one in. Rejects with the signal's reason when it aborts first. */
  acquire(owner: string, options: { signal: AbortSignal }): Promise<Disposable> {
    const { signal } = options;
    if (signal.aborted) return Promise.reject(signal.reason);
    const mine = this.#owners.get(owner) ?? { waiting: new Set(), held: 0, servedAt: 0 };
    this.#owners.set(owner, mine);
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        mine.waiting.delete(admit);
        this.#forget(owner, mine);
        reject(signal.reason);
      };
      const admit = () => {
        signal.removeEventListener('abort', onAbort);
        resolve(this.#slot(owner, mine));
      };
      signal.addEventListener('abort', onAbort, { once: true });
      mine.waiting.add(admit);
      this.#next();
    });
  }

  #next(): void {
    while (this.#free > 0) {
      let first: Owner | undefined;
      for (const owner of this.#owners.values()) {
        if (owner.waiting.size > 0 && (first === undefined || comesBefore(owner, first))) first = owner;
      }
      const [admit] = first?.waiting ?? [];
      if (first === undefined || admit === undefined) return;
      first.waiting.delete(admit);
      first.held += 1;
      first.servedAt = ++this.#served;
      this.#free -= 1;
      admit();
    }
  }

  #slot(owner: string, mine: Owner): Disposable {
    let isHeld = true;
    return {
      [Symbol.dispose]: () => {
        if (!isHeld) return;
        isHeld = false;
        mine.held -= 1;
        this.#free += 1;
        this.#next();
        this.#forget(owner, mine);
      },
    };
  }

  /** Nothing is kept of who neither has nor wants a slot. */
  #forget(owner: string, mine: Owner): void {
    if (mine.waiting.size === 0 && mine.held === 0 && this.#owners.get(owner) === mine) this.#owners.delete(owner);
  }
}

interface Owner {
  readonly waiting: Set<() => void>;
  held: number;
  servedAt: number;
}

function comesBefore(a: Owner, b: Owner): boolean {
  return a.held === b.held ? a.servedAt < b.servedAt : a.held < b.held;
}
