/**
 * Whether a sealed snapshot still is what was sealed. All its parts are read when it is first launched from after the
 * server's start, beside the VMM's own start and before the guest runs; afterwards a file is known by its identity, which
 * costs a launch one `stat` a part. A slow scrub reads what is in use again, because media rot without telling.
 *
 * What an identity tells: nobody can write to a file, or exchange it, and keep its change time, except by setting the host's
 * clock back or writing to the device below the file system. It says nothing of the medium.
 */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { type Clock, KeyedLock, type Logger, MachineError, messageOf } from '../../lib/index.ts';
import type { SnapshotDamage } from '../engine.ts';
import type { VmmDriver } from '../vmm/vmm.ts';
import { type DigestedChunk, digestChunks } from './digest.ts';
import type { Keyring } from './encryption.ts';
import { type Manifest, type Part, readManifest } from './manifest.ts';

/** One snapshot is read again at a time; each at most once in `SCRUB_AGE_MS`. */
const SCRUB_EVERY_MS = 10 * 60_000;
const SCRUB_AGE_MS = 24 * 3600_000;
/** A hundredth of a core, and far below what a disk gives. */
const SCRUB_BYTES_PER_SECOND = 16 * 1024 * 1024;

export const PART_NAMES = ['ram', 'state', 'disk', 'changes'] as const;
export type PartName = (typeof PART_NAMES)[number];

export interface IntegrityOptions {
  readonly mapper: string;
  readonly clock: Clock;
  readonly log: Logger;
  /** Opens the manifests of encrypted snapshots. */
  readonly keyring?: Keyring | undefined;
}

interface Known {
  readonly parts: Manifest['parts'];
  readonly identities: Map<PartName, string>;
  checkedAtMs: number;
}

export class Integrity implements Disposable {
  readonly #o: IntegrityOptions;
  readonly #known = new Map<string, Known>();
  readonly #checks = new KeyedLock();
  readonly #listeners = new Set<(damage: SnapshotDamage) => void>();
  readonly #over = new AbortController();
  #timer: Disposable | undefined;

  constructor(options: IntegrityOptions) {
    this.#o = options;
  }

  /** Reads what is in use again, from time to time, until disposed. */
  startScrub(): void {
    this.#timer = this.#o.clock.after(SCRUB_EVERY_MS, () => {
      this.scrub()
        .catch((error: unknown) => {
          if (!this.#over.signal.aborted) this.#o.log.warn({ error: messageOf(error) }, 'the scrub ended early');
        })
        .finally(() => {
          if (!this.#over.signal.aborted) this.startScrub();
        });
    });
  }

  /** Calls `listener` with every damage found from now on. */
  watch(listener: (damage: SnapshotDamage) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** Somebody else found it. */
  report(damage: SnapshotDamage): void {
    this.#known.delete(damage.snapshotDir);
    this.#o.log.error({ ...damage }, 'a sealed snapshot is damaged');
    for (const listener of this.#listeners) listener(damage);
  }

  /** @throws MachineError as `readManifest` does; damage is reported */
  async manifestOf(snapshotDir: string, driver: VmmDriver): Promise<Manifest> {
    try {
      return await readManifest(snapshotDir, driver, this.#o.keyring);
    } catch (error) {
      if (error instanceof MachineError && error.kind === 'corrupt') this.report({ snapshotDir, part: 'manifest' });
      throw error;
    }
  }

  /** The parts were just written and digested by this process. */
  async trust(snapshotDir: string, parts: Manifest['parts']): Promise<void> {
    const known = this.#knownOf(snapshotDir, parts);
    for (const name of PART_NAMES) known.identities.set(name, await identityOf(path.join(snapshotDir, name)));
  }

  forget(snapshotDir: string): void {
    this.#known.delete(snapshotDir);
  }

  /**
   * Reads what is not known yet. Calls for one snapshot share the work. Without urgency it takes fewer of Node's threads, which
   * are four for all files. @throws MachineError `corrupt`, `failed`
   */
  async verify(snapshotDir: string, parts: Manifest['parts'], { isUrgent = true } = {}): Promise<void> {
    await this.#checks.run(snapshotDir, async () => {
      const known = this.#knownOf(snapshotDir, parts);
      const startedMs = this.#o.clock.monotonicMs();
      const pace = isUrgent ? undefined : async () => {};
      const read = await Promise.all(PART_NAMES.map((name) => this.#verifyPart(snapshotDir, name, known, pace)));
      const bytes = read.reduce((sum, part) => sum + part, 0);
      if (bytes === 0) return;
      known.checkedAtMs = this.#o.clock.monotonicMs();
      this.#o.log.debug({ snapshotDir, tookMs: known.checkedAtMs - startedMs }, 'sealed snapshot verified');
    });
  }

  /** Reads one part, whatever is known of it. What it holds, when it is whole. */
  async chunksIfWhole(
    snapshotDir: string,
    part: PartName,
    expected: Part,
  ): Promise<readonly DigestedChunk[] | undefined> {
    const options = { mapper: this.#o.mapper, signal: this.#over.signal };
    const found = await digestOrNothing(path.join(snapshotDir, part), options);
    return found?.bytes === expected.bytes && found.sha256 === expected.sha256 ? found.chunks : undefined;
  }

  /** Reads the snapshot that was not read for longest, slowly. Resolves when that is done or nothing is due. */
  async scrub(): Promise<void> {
    const [snapshotDir, known] = [...this.#known].sort(([, a], [, b]) => a.checkedAtMs - b.checkedAtMs)[0] ?? [];
    if (snapshotDir === undefined || known === undefined) return;
    if (this.#o.clock.monotonicMs() - known.checkedAtMs < SCRUB_AGE_MS) return;
    for (const name of PART_NAMES) {
      await this.#compare(snapshotDir, name, known.parts[name], (bytes) => this.#rest(bytes));
    }
    known.checkedAtMs = this.#o.clock.monotonicMs();
    this.#o.log.debug({ snapshotDir }, 'sealed snapshot scrubbed');
  }

  [Symbol.dispose](): void {
    this.#timer?.[Symbol.dispose]();
    this.#over.abort(new MachineError('exited', 'the engine was closed'));
  }

  #knownOf(snapshotDir: string, parts: Manifest['parts']): Known {
    const known = this.#known.get(snapshotDir);
    if (known !== undefined && PART_NAMES.every((name) => known.parts[name].sha256 === parts[name].sha256))
      return known;
    const fresh = { parts, identities: new Map<PartName, string>(), checkedAtMs: this.#o.clock.monotonicMs() };
    this.#known.set(snapshotDir, fresh);
    return fresh;
  }

  /** Bytes that had to be read for it. */
  async #verifyPart(
    snapshotDir: string,
    name: PartName,
    known: Known,
    pace?: (bytes: number) => Promise<void>,
  ): Promise<number> {
    const file = path.join(snapshotDir, name);
    const before = await identityOrDamage(file);
    if (before !== undefined && before === known.identities.get(name)) return 0;
    await this.#compare(snapshotDir, name, known.parts[name], pace);
    // Only what did not change while it was read.
    if (before !== undefined && before === (await identityOrDamage(file))) known.identities.set(name, before);
    return known.parts[name].bytes;
  }

  async #compare(
    snapshotDir: string,
    part: PartName,
    expected: Part,
    pace?: (bytes: number) => Promise<void>,
  ): Promise<void> {
    const found = await digestOrNothing(path.join(snapshotDir, part), {
      mapper: this.#o.mapper,
      signal: this.#over.signal,
      ...(pace === undefined ? {} : { pace }),
    });
    if (found?.bytes === expected.bytes && found.sha256 === expected.sha256) return;
    this.report({ snapshotDir, part });
    throw new MachineError('corrupt', `the sealed snapshot is damaged: its ${part} is not as it was written`);
  }

  #rest(bytes: number): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = this.#o.clock.after((bytes / SCRUB_BYTES_PER_SECOND) * 1000, resolve);
    const { signal } = this.#over;
    const onAbort = () => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    return promise.finally(() => {
      timer[Symbol.dispose]();
      signal.removeEventListener('abort', onAbort);
    });
  }
}

/** A file that is gone is damage; one that cannot be read for another reason is a failure. */
async function digestOrNothing(
  ...args: Parameters<typeof digestChunks>
): Promise<Awaited<ReturnType<typeof digestChunks>> | undefined> {
  try {
    return await digestChunks(...args);
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'EIO'))
      return undefined;
    throw error;
  }
}

async function identityOrDamage(file: string): Promise<string | undefined> {
  return identityOf(file).catch(() => undefined);
}

async function identityOf(file: string): Promise<string> {
  const { dev, ino, size, mtimeNs, ctimeNs } = await stat(file, { bigint: true });
  return `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`;
}
