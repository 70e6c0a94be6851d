/**
 * The networks file as it is now: read at start, and again whenever it changes. A change that can't be read is logged and
 * leaves what held before, so that a slip of the pen neither opens nor closes a network.
 */
import { readFile, stat } from 'node:fs/promises';
import { type Clock, DomainError, type Logger, messageOf } from '../lib/index.ts';
import { type NetworkPlan, noNetworks, parseNetworks } from './networks-file.ts';

export interface Networks extends Disposable {
  current(): NetworkPlan;
  /** Called after `current` changed, until the result is disposed. */
  onChange(listener: () => void): Disposable;
}

const POLL_MS = 2000;
const MAX_BYTES = 4 * 1024 * 1024;

export interface NetworksOptions {
  /** Undefined: no networks of the operator's. */
  readonly file: string | undefined;
  /** Wins over the file's own. */
  readonly defaultEgress: 'aws' | 'deny' | undefined;
  readonly clock: Clock;
  readonly log: Logger;
}

/** @throws DomainError INVALID when the file can't be read or says something wrong */
export async function openNetworks({ file, defaultEgress, clock, log }: NetworksOptions): Promise<Networks> {
  if (file === undefined) return fixedNetworks(noNetworks(defaultEgress));
  const stamp = await stampOf(file);
  const plan = parseNetworks(await readText(file), defaultEgress);
  return new WatchedFile({ file, clock, log, parse: (text) => parseNetworks(text, defaultEgress) }, plan, stamp);
}

/** A plan that never changes. */
export function fixedNetworks(plan: NetworkPlan): Networks {
  const nothing = { [Symbol.dispose]: () => {} };
  return { current: () => plan, onChange: () => nothing, ...nothing };
}

interface Watch {
  readonly file: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly parse: (text: string) => NetworkPlan;
}

class WatchedFile implements Networks {
  readonly #watch: Watch;
  readonly #listeners = new Set<() => void>();
  #plan: NetworkPlan;
  #stamp: string;
  #timer: Disposable | undefined;
  #disposed = false;

  constructor(watch: Watch, plan: NetworkPlan, stamp: string) {
    this.#watch = watch;
    this.#plan = plan;
    this.#stamp = stamp;
    this.#lookLater();
  }

  current(): NetworkPlan {
    return this.#plan;
  }

  onChange(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#timer?.[Symbol.dispose]();
  }

  #lookLater(): void {
    if (this.#disposed) return;
    this.#timer = this.#watch.clock.after(POLL_MS, () => void this.#look().finally(() => this.#lookLater()));
  }

  async #look(): Promise<void> {
    const { file, log, parse } = this.#watch;
    let stamp = 'missing';
    try {
      stamp = await stampOf(file);
      if (stamp === this.#stamp) return;
      this.#plan = parse(await readText(file));
      log.info({ file }, 'networks file read again');
    } catch (error) {
      if (stamp !== this.#stamp) {
        log.error({ file, error: messageOf(error) }, 'the networks file is wrong; what it said before still holds');
      }
      return;
    } finally {
      // What was refused is not read again until it changes.
      this.#stamp = stamp;
    }
    for (const listener of this.#listeners) listener();
  }
}

/** Changes whenever the file does. */
async function stampOf(file: string): Promise<string> {
  try {
    const { mtimeMs, size, ino } = await stat(file);
    return `${mtimeMs} ${size} ${ino}`;
  } catch (error) {
    throw unreadable(error);
  }
}

async function readText(file: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    throw unreadable(error);
  }
  if (text.length > MAX_BYTES) throw new DomainError('INVALID', 'The networks file is larger than 4 MiB.');
  return text;
}

function unreadable(error: unknown): DomainError {
  return new DomainError('INVALID', `The networks file cannot be read: ${messageOf(error)}`, { cause: error });
}
