/**
 * Who works on what outside the records: imports, seals anew, exports. Also the order between making a record that takes a
 * name and clearing away what has none: both run under the image's lock, so neither sees half of the other.
 */
import { KeyedLock } from '../../lib/index.ts';

export class Holds {
  readonly #counts = new Map<string, number>();
  readonly #names = new KeyedLock();

  has(id: string): boolean {
    return this.#counts.has(id);
  }

  /** Until the result is disposed nothing of `id` counts as left behind. */
  take(id: string): Disposable {
    this.#counts.set(id, (this.#counts.get(id) ?? 0) + 1);
    let isHeld = true;
    return {
      [Symbol.dispose]: () => {
        if (!isHeld) return;
        isHeld = false;
        const left = (this.#counts.get(id) ?? 1) - 1;
        if (left === 0) this.#counts.delete(id);
        else this.#counts.set(id, left);
      },
    };
  }

  /** Writing records of an image that were not there, or removing what no record of it owns. */
  withImage<T>(arn: string, work: () => Promise<T>): Promise<T> {
    return this.#names.run(arn, work);
  }
}
