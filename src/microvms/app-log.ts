/**
 * The app's output, kept on the host: a bounded copy per microVM that can be read while it runs, while it is suspended
 * and after it ended. One JSON line per line of output; when the file is full it becomes `<id>.log.1` and the one before
 * that is forgotten.
 *
 * Cursors are the machine's own: they go on over suspend, resume and a restart of the server, and lines already kept are not
 * kept twice. Guests print as fast as they like and the server takes so much of it: a machine whose turn has not come keeps
 * its newest lines, and the cursors tell how many it had to drop.
 */
import { appendFile, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { LogLine, Machine } from '../engine/index.ts';
import { type Logger, messageOf, Pace, type PaceOptions, sleep } from '../lib/index.ts';
import type { ResumableSink } from '../logs/index.ts';

const MAX_FILE_BYTES = 1024 * 1024;
/** What taking a line costs besides its bytes, in bytes that cost as much: short lines are what makes work. */
const LINE_COST = 400;
/** What one machine, and all of them together, may make the server take: 5,000 and 10,000 short lines a second of some 15 µs each. */
const MACHINE_PACE: PaceOptions = { perSecond: 2 * 1024 * 1024, burst: 8 * 1024 * 1024 };
const HOST_PACE: PaceOptions = { perSecond: 4 * 1024 * 1024, burst: 16 * 1024 * 1024 };
/** Shorter waits are left for later: timers have their price too. */
const MIN_WAIT_MS = 20;
/** Lines that wait for a follower who reads slowly, and for the disk. */
const MAX_QUEUED = 2_000;
const RETRY_MS = 1000;
const NEWLINE = 10;
/** How long an ending machine's last lines are waited for. */
const LAST_LINES_MS = 500;

/** Of a machine, what is needed of it here. */
export type Printer = Pick<Machine, 'id' | 'logs'>;

/** Where the lines of a microVM go besides. */
export type SinkSource = (microvmId: string) => Promise<ResumableSink | undefined>;

type Listener = (line: LogLine | undefined) => void;

export class AppLogs {
  readonly #folder: string;
  readonly #log: Logger;
  readonly #sinkOf: SinkSource;
  readonly #writers = new Map<string, Writer>();
  readonly #pace: Pace;
  readonly #now: () => number;

  /** `now`: monotonic; for tests. */
  constructor(folder: string, log: Logger, sinkOf: SinkSource = async () => undefined, now = () => performance.now()) {
    this.#folder = folder;
    this.#log = log;
    this.#sinkOf = sinkOf;
    this.#now = now;
    this.#pace = new Pace({ ...HOST_PACE, now });
  }

  /** Copies what the machine prints from now on (and printed already). Disposing stops; call `finish` for the last lines. */
  collect(machine: Printer): LogCollection {
    const writer = this.#writerOf(machine.id);
    const stop = new AbortController();
    const done = this.#copy(machine, writer, { follow: true, signal: stop.signal });
    return {
      finish: async () => {
        stop.abort();
        await bounded(done);
        // Not paced: it is what the guest keeps at most, once.
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
    let queue: LogLine[] = [];
    let isBehind = true;
    let wake = Promise.withResolvers<void>();
    const listener: Listener = (line) => {
      if (line !== undefined) queue.push(line);
      if (queue.length > MAX_QUEUED) {
        // Read from the kept copy once there is time for it.
        queue = [];
        isBehind = true;
      }
      wake.resolve();
    };
    const onAbort = () => wake.resolve();
    const writer = options.follow === true ? this.#writerOf(id) : this.#writers.get(id);
    if (options.follow === true) writer?.listeners.add(listener);
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      const follow = options.follow === true && !(await options.hasEnded());
      // `end` came before: nobody else would take away what this reader put in the map.
      if (options.follow === true && !follow) this.#writers.delete(id);
      let next = options.cursor ?? 0;
      do {
        const hasEnded = writer?.ended === true;
        let lines = queue;
        queue = [];
        if (isBehind) {
          isBehind = false;
          await writer?.flush();
          lines = await readKept(this.#folder, id);
        }
        for (const line of lines) {
          if (line.cursor < next) continue;
          next = line.cursor + 1;
          yield line;
        }
        if (lines.length > 0 || isBehind) continue;
        if (!follow || hasEnded) return;
        await wake.promise;
        wake = Promise.withResolvers<void>();
      } while (signal?.aborted !== true);
    } finally {
      writer?.listeners.delete(listener);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  async #copy(machine: Printer, writer: Writer, options: { follow: boolean; signal: AbortSignal }): Promise<void> {
    try {
      await this.#untilReady(writer, machine.id, options);
      const pace = new Pace({ ...MACHINE_PACE, now: this.#now });
      const asked = writer.wanted;
      let isFirst = true;
      for await (const line of machine.logs({ ...options, cursor: asked })) {
        if (isFirst && line.cursor < asked) await writer.goBack(line.cursor);
        isFirst = false;
        writer.append(line);
        if (writer.queued > MAX_QUEUED) await writer.flush();
        if (!options.follow) continue;
        const cost = Buffer.byteLength(line.text) + LINE_COST;
        const waitMs = Math.max(pace.take(cost), this.#pace.take(cost));
        if (waitMs >= MIN_WAIT_MS) await sleep(waitMs, { signal: options.signal });
      }
    } catch (error) {
      if (options.signal.aborted) return;
      this.#log.debug({ microvmId: machine.id, error: messageOf(error) }, 'the app log ended early');
    }
  }

  /** A disk that can't be read or written now may be well again later; the machine keeps its newest lines until then. */
  async #untilReady(writer: Writer, id: string, { follow, signal }: { follow: boolean; signal: AbortSignal }) {
    for (;;) {
      try {
        return await writer.ready();
      } catch (error) {
        if (!follow) throw error;
        this.#log.warn({ microvmId: id, error: messageOf(error) }, 'the app log cannot be kept yet');
        // Nothing that a server which ends would wait for.
        await delay(RETRY_MS, undefined, { signal, ref: false });
      }
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
  ended = false;
  readonly #folder: string;
  readonly #id: string;
  readonly #log: Logger;
  readonly #sinkOf: SinkSource;
  #sink: ResumableSink | undefined;
  /** What comes next into the kept copy, and into the sink: after a killed server one of them may have got further. */
  #next = 0;
  #sinkNext = 0;
  #bytes = 0;
  #pending: string[] = [];
  #work: Promise<void> = Promise.resolve();
  #ready: Promise<void> | undefined;
  /** Made once: another attempt must not bring back what was removed meanwhile. */
  #hasFolder = false;

  constructor(folder: string, id: string, log: Logger, sinkOf: SinkSource) {
    this.#folder = folder;
    this.#id = id;
    this.#log = log;
    this.#sinkOf = sinkOf;
  }

  /** Finds where the kept copy ends. */
  ready(): Promise<void> {
    this.#ready ??= (async () => {
      if (!this.#hasFolder) await mkdir(this.#folder, { recursive: true });
      this.#hasFolder = true;
      const kept = await readKept(this.#folder, this.#id);
      this.#next = (kept.at(-1)?.cursor ?? -1) + 1;
      const bytes = await readFile(this.#file).catch(() => Buffer.alloc(0));
      this.#bytes = bytes.length;
      // Cut by a crash: what follows begins a line of its own.
      if (bytes.length > 0 && bytes.at(-1) !== NEWLINE) await appendFile(this.#file, '\n');
      this.#sink = await this.#sinkOf(this.#id);
      this.#sinkNext = this.#sink?.next() ?? this.#next;
    })().catch((error: unknown) => {
      this.#ready = undefined;
      throw error;
    });
    return this.#ready;
  }

  /** The first line that is not kept everywhere. */
  get wanted(): number {
    return this.#sink === undefined ? this.#next : Math.min(this.#next, this.#sinkNext);
  }

  /** Lines that wait for the disk. */
  get queued(): number {
    return this.#pending.length;
  }

  /** The machine is one that continues from a checkpoint: it counts on from there, and the copy forgets what came after. */
  async goBack(cursor: number): Promise<void> {
    await this.flush();
    const kept = (await readKept(this.#folder, this.#id)).filter((line) => line.cursor < cursor);
    const text = kept.map((line) => `${JSON.stringify(line)}\n`).join('');
    await rm(`${this.#file}.1`, { force: true });
    await writeFile(this.#file, text, { mode: 0o600 });
    this.#bytes = Buffer.byteLength(text);
    this.#next = this.#sinkNext = cursor;
  }

  append(line: LogLine): void {
    this.#pass(line);
    if (line.cursor < this.#next) return;
    this.#next = line.cursor + 1;
    this.#pending.push(`${JSON.stringify(line)}\n`);
    for (const listener of this.listeners) listener(line);
    if (this.#pending.length === 1) this.#work = this.#work.then(() => this.#write());
  }

  #pass({ cursor, at, text }: LogLine): void {
    const dropped = cursor - this.#sinkNext;
    if (this.#sink === undefined || dropped < 0) return;
    this.#sinkNext = cursor + 1;
    if (dropped > 0) this.#sink.write({ at, message: `[rekindle] ${dropped} lines dropped` }, cursor);
    if (text !== '') this.#sink.write({ at, message: text }, cursor + 1);
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
        // A line cut by a crash.
      }
    }
  }
  return lines;
}
