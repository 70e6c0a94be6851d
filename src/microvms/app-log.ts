/**
 * The app's output, kept on the host: a bounded copy per microVM that can be read while it runs, while it is suspended
 * and after it ended. One JSON line per line of output; when the file is full it becomes `<id>.log.1` and the one before
 * that is forgotten.
 *
 * Cursors are the machine's own: they go on over suspend and resume, and lines already kept are not kept twice.
 */
import { appendFile, mkdir, readFile, rename, stat } from 'node:fs/promises';
import path from 'node:path';
import type { LogLine, Machine } from '../engine/index.ts';
import { type Logger, messageOf, sleep } from '../lib/index.ts';
import type { LogSink } from '../logs/index.ts';

const MAX_FILE_BYTES = 1024 * 1024;
/** How long an ending machine's last lines are waited for. */
const LAST_LINES_MS = 500;

/** Where the lines of a microVM go besides. */
export type SinkSource = (microvmId: string) => Promise<LogSink | undefined>;

type Listener = (line: LogLine | undefined) => void;

export class AppLogs {
  readonly #folder: string;
  readonly #log: Logger;
  readonly #sinkOf: SinkSource;
  readonly #writers = new Map<string, Writer>();

  constructor(folder: string, log: Logger, sinkOf: SinkSource = async () => undefined) {
    this.#folder = folder;
    this.#log = log;
    this.#sinkOf = sinkOf;
  }

  /** Copies what the machine prints from now on (and printed already). Disposing stops; call `finish` for the last lines. */
  collect(machine: Machine): LogCollection {
    const writer = this.#writerOf(machine.id);
    const stop = new AbortController();
    const done = this.#copy(machine, writer, { follow: true, signal: stop.signal });
    return {
      finish: async () => {
        stop.abort();
        await bounded(done);
        await bounded(this.#copy(machine, writer, { follow: false, signal: AbortSignal.timeout(LAST_LINES_MS) }));
        await writer.flush();
      },
      stop: async () => {
        stop.abort();
        await bounded(done);
        await writer.flush();
      },
    };
  }

  /** No more lines will come: followers end. */
  end(id: string): void {
    this.#writers.get(id)?.end();
    this.#writers.delete(id);
  }

  /** `hasEnded` is asked once a follower listens, so that it does not wait for an end that was before. */
  async *read(
    id: string,
    options: { cursor?: number; follow?: boolean; signal?: AbortSignal; hasEnded: () => Promise<boolean> },
  ): AsyncIterable<LogLine> {
    const { signal } = options;
    const queue: (LogLine | undefined)[] = [];
    let wake = Promise.withResolvers<void>();
    const listener: Listener = (line) => {
      queue.push(line);
      wake.resolve();
    };
    const onAbort = () => wake.resolve();
    const writer = options.follow === true ? this.#writerOf(id) : this.#writers.get(id);
    if (options.follow === true) writer?.listeners.add(listener);
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      await writer?.flush();
      const follow = options.follow === true && !(await options.hasEnded());
      // `end` came before: nobody else would take away what this reader put in the map.
      if (options.follow === true && !follow) this.#writers.delete(id);
      let next = options.cursor ?? 0;
      for (const line of await readKept(this.#folder, id)) {
        if (line.cursor < next) continue;
        next = line.cursor + 1;
        yield line;
      }
      while (follow && signal?.aborted !== true) {
        const line = queue.shift();
        if (line !== undefined) {
          if (line.cursor < next) continue;
          next = line.cursor + 1;
          yield line;
        } else if (writer?.ended === true) {
          return;
        } else {
          wake = Promise.withResolvers<void>();
          if (queue.length === 0) await wake.promise;
        }
      }
    } finally {
      writer?.listeners.delete(listener);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  async #copy(machine: Machine, writer: Writer, options: { follow: boolean; signal: AbortSignal }): Promise<void> {
    try {
      await writer.ready();
      for await (const line of machine.logs({ ...options, cursor: writer.nextCursor })) writer.append(line);
    } catch (error) {
      if (options.signal.aborted) return;
      this.#log.debug({ microvmId: machine.id, error: messageOf(error) }, 'the app log ended early');
    }
  }

  #writerOf(id: string): Writer {
    let writer = this.#writers.get(id);
    if (writer === undefined) {
      writer = new Writer(this.#folder, id, this.#log, this.#sinkOf);
      this.#writers.set(id, writer);
    }
    return writer;
  }
}

export interface LogCollection {
  /** Takes what is there to the last line, bounded, then stops. */
  finish(): Promise<void>;
  stop(): Promise<void>;
}

class Writer {
  readonly listeners = new Set<Listener>();
  nextCursor = 0;
  ended = false;
  readonly #folder: string;
  readonly #id: string;
  readonly #log: Logger;
  readonly #sinkOf: SinkSource;
  #sink: LogSink | undefined;
  #bytes = 0;
  #pending: string[] = [];
  #work: Promise<void> = Promise.resolve();
  #ready: Promise<void> | undefined;

  constructor(folder: string, id: string, log: Logger, sinkOf: SinkSource) {
    this.#folder = folder;
    this.#id = id;
    this.#log = log;
    this.#sinkOf = sinkOf;
  }

  /** Finds where the kept copy ends. */
  ready(): Promise<void> {
    this.#ready ??= (async () => {
      await mkdir(this.#folder, { recursive: true });
      const kept = await readKept(this.#folder, this.#id);
      this.nextCursor = (kept.at(-1)?.cursor ?? -1) + 1;
      this.#bytes = await stat(this.#file).then(
        (found) => found.size,
        () => 0,
      );
      this.#sink = await this.#sinkOf(this.#id);
    })();
    return this.#ready;
  }

  append(line: LogLine): void {
    if (line.cursor < this.nextCursor) return;
    this.#pass(line);
    this.nextCursor = line.cursor + 1;
    this.#pending.push(`${JSON.stringify(line)}\n`);
    for (const listener of this.listeners) listener(line);
    if (this.#pending.length === 1) this.#work = this.#work.then(() => this.#write());
  }

  #pass({ cursor, at, text }: LogLine): void {
    // A guest that prints faster than the link carries keeps only its newest lines.
    const lost = this.nextCursor === 0 ? 0 : cursor - this.nextCursor;
    if (lost > 0) this.#sink?.write({ at, message: `[rekindle] ${lost} lines before this one were lost` });
    if (text !== '') this.#sink?.write({ at, message: text });
  }

  end(): void {
    this.ended = true;
    for (const listener of this.listeners) listener(undefined);
  }

  get #file(): string {
    return path.join(this.#folder, `${this.#id}.log`);
  }

  flush(): Promise<void> {
    return this.#work;
  }

  async #write(): Promise<void> {
    const lines = this.#pending;
    this.#pending = [];
    try {
      for (let from = 0; from < lines.length; ) {
        const [text, next] = this.#fitting(lines, from);
        if (next === from) {
          await rename(this.#file, `${this.#file}.1`);
          this.#bytes = 0;
          continue;
        }
        await appendFile(this.#file, text, { mode: 0o600 });
        this.#bytes += Buffer.byteLength(text);
        from = next;
      }
    } catch (error) {
      this.#log.warn({ microvmId: this.#id, error: messageOf(error) }, 'lines of the app log were lost');
    }
  }

  /** The lines from `from` on that the file still has room for, and the first that has none. An empty file takes any line. */
  #fitting(lines: readonly string[], from: number): [text: string, next: number] {
    let text = '';
    let bytes = this.#bytes;
    for (let at = from; at < lines.length; at++) {
      const line = lines[at] ?? '';
      const length = Buffer.byteLength(line);
      if (bytes > 0 && bytes + length > MAX_FILE_BYTES) return [text, at];
      text += line;
      bytes += length;
    }
    return [text, lines.length];
  }
}

/** Waits for work on a machine that may be dead, but not for long. */
async function bounded(work: Promise<void>): Promise<void> {
  const stop = new AbortController();
  await Promise.race([work, sleep(LAST_LINES_MS, { signal: stop.signal }).catch(() => {})]);
  stop.abort();
}

async function readKept(folder: string, id: string): Promise<LogLine[]> {
  const lines: LogLine[] = [];
  for (const name of [`${id}.log.1`, `${id}.log`]) {
    let text: string;
    try {
      text = await readFile(path.join(folder, name), 'utf8');
    } catch {
      continue; // never written, or not yet
    }
    for (const line of text.split('\n')) {
      try {
        if (line !== '') lines.push(JSON.parse(line) as LogLine);
      } catch {
        // A line cut by a crash; the next one begins a line of its own only if the file ended with one.
      }
    }
  }
  return lines;
}
