/**
 * Build logs: one bounded file per build, written while it happens, readable meanwhile and ever after.
 *
 * Invariant: what a reader got is a prefix of the file; a follower ends when the build does.
 */
import { createHash } from 'node:crypto';
import { type FileHandle, mkdir, open, rm } from 'node:fs/promises';
import path from 'node:path';
import { type Logger, messageOf } from '../lib/index.ts';
import type { LineSink } from '../logs/index.ts';

const MAX_BYTES = 16 * 1024 * 1024;
const READ_BYTES = 64 * 1024;
const TRUNCATED = Buffer.from('\n[rekindle] the log is full; the rest is left out\n');

export interface BuildLogWriter extends AsyncDisposable {
  write(chunk: Buffer | string): void;
  /** The log so far, as it is on disk. */
  written(): Promise<{ readonly bytes: number; readonly sha256: string }>;
}

interface Open {
  /** Resolved and replaced whenever more was written, or the log ended. */
  changed: PromiseWithResolvers<void>;
  ended: boolean;
}

export class BuildLogs {
  readonly #folder: string;
  readonly #log: Logger;
  readonly #open = new Map<string, Open>();

  constructor(folder: string, log: Logger) {
    this.#folder = folder;
    this.#log = log;
  }

  /** A build will come: followers wait for it from now on. */
  expect(buildId: string): void {
    if (!this.#open.has(buildId)) this.#open.set(buildId, { changed: Promise.withResolvers(), ended: false });
  }

  /** Disposing the writer ends the log. `lines` gets the same. */
  async writer(buildId: string, lines?: LineSink): Promise<BuildLogWriter> {
    this.expect(buildId);
    await mkdir(this.#folder, { recursive: true });
    const file = await open(this.#fileOf(buildId), 'w', 0o600);
    return new Writer(file, this.#log.child({ buildId }), {
      written: () => this.#changed(buildId, false),
      ended: () => this.#changed(buildId, true),
      lines,
    });
  }

  /** The build was given up before it wrote anything. */
  end(buildId: string): void {
    this.#changed(buildId, true);
  }

  /** Its version is gone. Idempotent. */
  async remove(buildId: string): Promise<void> {
    await rm(this.#fileOf(buildId), { force: true });
  }

  async *read(buildId: string, options: { follow?: boolean; signal?: AbortSignal }): AsyncIterable<Buffer> {
    const { signal } = options;
    const state = options.follow === true ? this.#open.get(buildId) : undefined;
    await using stack = new AsyncDisposableStack();
    let file: FileHandle | undefined;
    let position = 0;
    while (!isAborted(signal)) {
      // Taken before reading, so that what is written in between is not slept through.
      const changed = state?.changed.promise;
      const ended = state?.ended ?? true;
      file ??= await this.#openForReading(buildId, stack);
      for (;;) {
        const { bytesRead, buffer } = (await file?.read(Buffer.alloc(READ_BYTES), 0, READ_BYTES, position)) ?? NOTHING;
        if (bytesRead === 0) break;
        position += bytesRead;
        yield buffer.subarray(0, bytesRead);
        if (isAborted(signal)) return;
      }
      if (ended || changed === undefined) return;
      await untilAborted(changed, signal);
    }
  }

  async #openForReading(buildId: string, stack: AsyncDisposableStack): Promise<FileHandle | undefined> {
    try {
      return stack.use(await open(this.#fileOf(buildId), 'r'));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  }

  #changed(buildId: string, ended: boolean): void {
    const state = this.#open.get(buildId);
    if (state === undefined) return;
    const { changed } = state;
    state.changed = Promise.withResolvers();
    state.ended = ended;
    if (ended) this.#open.delete(buildId);
    changed.resolve();
  }

  #fileOf(buildId: string): string {
    return path.join(this.#folder, `${buildId}.log`);
  }
}

const NOTHING = { bytesRead: 0, buffer: Buffer.alloc(0) };

interface WriterEvents {
  written(): void;
  ended(): void;
  readonly lines: LineSink | undefined;
}

class Writer implements BuildLogWriter {
  readonly #file: FileHandle;
  readonly #log: Logger;
  readonly #events: WriterEvents;
  #pending: Buffer[] = [];
  #bytes = 0;
  readonly #hash = createHash('sha256');
  #work: Promise<void> = Promise.resolve();
  #ended = false;

  constructor(file: FileHandle, log: Logger, events: WriterEvents) {
    this.#file = file;
    this.#log = log;
    this.#events = events;
  }

  write(chunk: Buffer | string): void {
    if (this.#ended || this.#bytes >= MAX_BYTES) return;
    // A copy: the caller may reuse its buffer.
    const bytes = Buffer.from(chunk as Buffer);
    this.#bytes += bytes.length;
    this.#add(bytes);
    this.#events.lines?.write(bytes);
    if (this.#bytes >= MAX_BYTES) this.#add(TRUNCATED);
    this.#work = this.#work.then(() => this.#flush());
  }

  async written(): Promise<{ bytes: number; sha256: string }> {
    await this.#work;
    const { size } = await this.#file.stat();
    return { bytes: size, sha256: this.#hash.copy().digest('hex') };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    await this.#work;
    await this.#file.close();
    this.#events.lines?.end();
    this.#events.ended();
  }

  #add(bytes: Buffer): void {
    this.#hash.update(bytes);
    this.#pending.push(bytes);
  }

  async #flush(): Promise<void> {
    if (this.#pending.length === 0) return;
    const bytes = Buffer.concat(this.#pending);
    this.#pending = [];
    try {
      await this.#file.appendFile(bytes);
    } catch (error) {
      this.#log.warn({ error: messageOf(error) }, 'part of a build log was lost');
    }
    this.#events.written();
  }
}

function isAborted(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true;
}

async function untilAborted(work: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return work;
  const aborted = Promise.withResolvers<void>();
  const onAbort = () => aborted.resolve();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    await Promise.race([work, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
