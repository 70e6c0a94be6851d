/** Notices that files changed, by their size, times and place: polled, because watching misses files that are replaced. */
import { stat } from 'node:fs/promises';
import type { Clock } from '../../lib/index.ts';

const POLL_MS = 1000;

export class WatchedFiles implements Disposable {
  readonly #clock: Clock;
  readonly #onChange: (paths: ReadonlySet<string>) => Promise<void>;
  #marks = new Map<string, string>();
  #timer: Disposable | undefined;
  #disposed = false;

  constructor(clock: Clock, onChange: (paths: ReadonlySet<string>) => Promise<void>) {
    this.#clock = clock;
    this.#onChange = onChange;
  }

  /** Watches these from now on, and no others. What was watched already is not looked at anew. */
  async watch(paths: Iterable<string>): Promise<void> {
    const marks = new Map<string, string>();
    for (const path of paths) marks.set(path, this.#marks.get(path) ?? (await markOf(path)));
    this.#marks = marks;
    this.#timer ??= this.#arm();
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#timer?.[Symbol.dispose]();
  }

  #arm(): Disposable {
    return this.#clock.after(POLL_MS, () => {
      void this.#look().finally(() => {
        if (!this.#disposed) this.#timer = this.#arm();
      });
    });
  }

  async #look(): Promise<void> {
    const changed = new Set<string>();
    for (const [path, before] of this.#marks) {
      const mark = await markOf(path);
      if (mark === before) continue;
      this.#marks.set(path, mark);
      changed.add(path);
    }
    if (changed.size > 0 && !this.#disposed) await this.#onChange(changed);
  }
}

async function markOf(path: string): Promise<string> {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
    return [dev, ino, size, mtimeNs, ctimeNs].join(' ');
  } catch (error) {
    return String((error as NodeJS.ErrnoException).code);
  }
}
