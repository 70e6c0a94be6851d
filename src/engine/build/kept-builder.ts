/**
 * The machine of the last build that succeeded, paused: the next build of its owner finds the daemon up, what it read in memory and the
 * programs translated, which for a small change is most of the work under software emulation.
 *
 * Invariant: it serves one owner, over the builder it was launched from. One at most is kept, and it goes when its time is over, it ends,
 * or its room is wanted.
 */
import { type Clock, type Logger, messageOf } from '../../lib/index.ts';
import type { Stay } from '../engine.ts';
import type { BuilderMachine } from './builder-run.ts';
import type { CacheLease } from './caches.ts';

/** A machine with its disks. Disposing it ends the machine and throws away what of the cache was not kept. */
export interface BuildSession extends AsyncDisposable {
  readonly owner: string;
  /** Of the builder. */
  readonly key: string;
  readonly machine: BuilderMachine;
  readonly cache: CacheLease;
  readonly contextDisk: string;
  readonly outDisk: string;
}

interface Kept {
  readonly session: BuildSession;
  /** Its cache is being copied until then. */
  readonly copied: Promise<void>;
  readonly ends: DisposableStack;
}

export class KeptBuilder implements AsyncDisposable {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #ending = new Set<Promise<void>>();
  #kept: Kept | undefined;
  #isClosed = false;

  constructor({ clock, log }: { clock: Clock; log: Logger }) {
    this.#clock = clock;
    this.#log = log;
  }

  /** The caller owns it then. Undefined when none is kept that suits. */
  async take(owner: string, key: string): Promise<BuildSession | undefined> {
    const kept = this.#kept;
    if (kept?.session.owner !== owner || kept.session.key !== key) return undefined;
    this.#forget();
    await kept.copied;
    return kept.session;
  }

  /** From now on it is owned here. Instead of another one. */
  keep(session: BuildSession, copied: Promise<void>, { forMs, lend }: Stay): void {
    this.#endSoon();
    const ends = new DisposableStack();
    const kept = { session, copied, ends };
    this.#kept = kept;
    const endIt = () => this.#kept === kept && this.#endSoon();
    ends.use(this.#clock.after(forMs, endIt));
    ends.use(lend(endIt));
    void session.machine.exited.then(endIt);
    if (this.#isClosed) this.#endSoon();
  }

  /** Ends the one that is kept. Never rejects. */
  async end(): Promise<void> {
    this.#endSoon();
    await Promise.all(this.#ending);
  }

  /** And those to come. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    await this.end();
  }

  #forget(): void {
    const kept = this.#kept;
    this.#kept = undefined;
    kept?.ends.dispose();
  }

  #endSoon(): void {
    const kept = this.#kept;
    if (kept === undefined) return;
    this.#forget();
    const ending = this.#end(kept).finally(() => this.#ending.delete(ending));
    this.#ending.add(ending);
  }

  async #end({ session, copied }: Kept): Promise<void> {
    await copied;
    try {
      await session[Symbol.asyncDispose]();
    } catch (error) {
      this.#log.warn({ error: messageOf(error) }, 'a builder that was kept could not be ended');
    }
  }
}
