/**
 * Reads what a guest needs first (`working-set.ts`) while its VMM starts, when it is not in the host's memory any more: one
 * page after the other, each waited for by the guest, takes a disk many times as long.
 *
 * Whether it is in memory is tried with a few pages: the kernel counts what had to come from a disk. A launch whose files are in memory
 * pays those few reads. Bounded: `AT_ONCE` snapshots at a time, `LANES` reads of `BLOCK_BYTES` each; launches of one
 * snapshot share them, and they end with the last of those.
 */
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { type Clock, type Logger, MachineError, messageOf } from '../../lib/index.ts';
import type { Range } from './extents.ts';
import type { Manifest } from './manifest.ts';
import { readWorkingSet, removeWorkingSet } from './working-set.ts';

const AT_ONCE = 2;
/** Leaves threads to the launch itself, which are four for all files of the process. */
const LANES = 2;
const BLOCK_BYTES = 1024 * 1024;
/** What is evicted mostly goes in one piece; a tenth gone is seen by four of five tries. */
const SAMPLES = 16;
const PAGE_BYTES = 4096;

export interface ReadAheadOptions {
  readonly clock: Pick<Clock, 'monotonicMs'>;
  readonly log: Logger;
  /** Bytes that had to come from a disk for this process, since its start; undefined where nobody counts. */
  readonly fromDisk?: () => Promise<number | undefined>;
}

interface Running {
  readonly over: AbortController;
  users: number;
}

export class ReadAhead implements AsyncDisposable {
  readonly #o: ReadAheadOptions;
  readonly #running = new Map<string, Running>();
  readonly #all = new Set<Promise<void>>();

  constructor(options: ReadAheadOptions) {
    this.#o = options;
  }

  /**
   * Begins, or takes part in what has begun. It ends by itself, and when all who began it dispose what they got.
   * @param after what reads all of it anyway, if that has to be
   */
  begin(
    snapshotDir: string,
    { encryption, parts }: Pick<Manifest, 'encryption' | 'parts'>,
    ram: string,
    after: Promise<unknown> = Promise.resolve(),
  ): Disposable {
    // What is decrypted is in memory, and stays there while it is used.
    if (encryption !== undefined) return { [Symbol.dispose]: () => {} };
    let running = this.#running.get(snapshotDir);
    if (running === undefined) {
      if (this.#all.size >= AT_ONCE) return { [Symbol.dispose]: () => {} };
      running = this.#begun(snapshotDir, parts, ram, after);
    }
    const mine = running;
    mine.users += 1;
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (!held) return;
        held = false;
        mine.users -= 1;
        if (mine.users > 0) return;
        mine.over.abort();
        this.#forget(snapshotDir, mine);
      },
    };
  }

  /** Resolves when nothing is read any more. */
  async idle(): Promise<void> {
    await Promise.all(this.#all);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { over } of this.#running.values()) over.abort();
    await this.idle();
  }

  #begun(snapshotDir: string, parts: Manifest['parts'], ram: string, after: Promise<unknown>): Running {
    const running = { over: new AbortController(), users: 0 };
    this.#running.set(snapshotDir, running);
    const done = after
      .then(
        () => this.#run(snapshotDir, parts, ram, running.over.signal),
        () => {},
      )
      .finally(() => {
        this.#all.delete(done);
        this.#forget(snapshotDir, running);
      });
    this.#all.add(done);
    return running;
  }

  #forget(snapshotDir: string, running: Running): void {
    if (this.#running.get(snapshotDir) === running) this.#running.delete(snapshotDir);
  }

  /** Never rejects: a launch without is only slower. */
  async #run(snapshotDir: string, parts: Manifest['parts'], ram: string, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#o;
    try {
      const startedMs = clock.monotonicMs();
      if (signal.aborted) return;
      const ranges = await readWorkingSet(snapshotDir, parts.ram);
      if (ranges === undefined || ranges.length === 0) return;
      await using file = await open(ram, 'r');
      if (!(await this.#isCold(file, ranges))) return;
      const bytes = await readRanges(file, ranges, signal);
      log.debug({ snapshotDir, bytes, tookMs: clock.monotonicMs() - startedMs }, 'memory read ahead');
    } catch (error) {
      log.warn({ snapshotDir, error: messageOf(error) }, 'nothing was read ahead');
      if (error instanceof MachineError && error.kind === 'corrupt')
        await removeWorkingSet(snapshotDir).catch(() => {});
    }
  }

  async #isCold(file: FileHandle, ranges: readonly Range[]): Promise<boolean> {
    const { fromDisk = readByThisProcess } = this.#o;
    const before = await fromDisk();
    if (before === undefined) return false;
    const [first = 0, ...others] = samplesOf(ranges);
    const buffer = Buffer.allocUnsafe(PAGE_BYTES);
    // Mostly one tells: then the others need not be waited for, one after the other.
    for (const some of [[first], others]) {
      for (const at of some) await file.read(buffer, 0, PAGE_BYTES, at);
      // Others may have read meanwhile: then it is read from memory, for nothing.
      if (((await fromDisk()) ?? before) > before) return true;
    }
    return false;
  }
}

/** Pages spread over all of it; not those at the edges, which the kernel may have read with their neighbours. */
export function samplesOf(ranges: readonly Range[]): number[] {
  const total = ranges.reduce((sum, { bytes }) => sum + bytes, 0);
  const samples: number[] = [];
  let before = 0;
  for (const { at, bytes } of ranges) {
    for (let next = nextSample(); next < before + bytes; next = nextSample()) {
      samples.push(at + Math.floor((next - before) / PAGE_BYTES) * PAGE_BYTES);
    }
    before += bytes;
  }
  return samples;

  function nextSample(): number {
    return samples.length === SAMPLES ? Number.POSITIVE_INFINITY : ((samples.length + 0.5) * total) / SAMPLES;
  }
}

/** In their order, by a few at a time. Returns the bytes that were read before the signal aborted. */
async function readRanges(file: FileHandle, ranges: readonly Range[], signal: AbortSignal): Promise<number> {
  const blocks = blocksOf(ranges);
  let bytes = 0;
  const lane = async () => {
    const buffer = Buffer.allocUnsafeSlow(BLOCK_BYTES);
    for (let block = blocks.next(); !block.done && !signal.aborted; block = blocks.next()) {
      const { bytesRead } = await file.read(buffer, 0, block.value.bytes, block.value.at);
      bytes += bytesRead;
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  return bytes;
}

function* blocksOf(ranges: readonly Range[]): Generator<Range> {
  for (const { at, bytes } of ranges) {
    for (let done = 0; done < bytes; done += BLOCK_BYTES) {
      yield { at: at + done, bytes: Math.min(BLOCK_BYTES, bytes - done) };
    }
  }
}

async function readByThisProcess(): Promise<number | undefined> {
  const text = await readFile('/proc/self/io', 'latin1').catch(() => '');
  const found = /^read_bytes: (\d+)$/m.exec(text)?.[1];
  return found === undefined ? undefined : Number(found);
}
