/**
 * What a VMM or its guest prints: the last of it in memory as evidence, the first of it in a log file.
 *
 * Both are bounded, because a guest can make either print without end (its console; the VMM's complaints about it). The
 * stream is always read, so nobody who prints is held up, except at a rate that only a flood reaches. A later server goes on
 * with both.
 */
import { appendFileSync, readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { Pace } from '../../../lib/index.ts';

/** In the run folder. */
export const VMM_LOG = 'vmm.log';
export const CONSOLE_LOG = 'console.log';

const TAIL_BYTES = 8192;
const LOG_BYTES = 256 * 1024;
/** A kernel's panic with its registers and calls is 45. */
const LINES = 60;
const READ_BYTES = { perSecond: 4 * 1024 * 1024, burst: 16 * 1024 * 1024 };

export class Tail {
  readonly #logFile: string;
  #tail = '';
  #logged = 0;

  constructor(stream: Readable, logFile: string) {
    this.#logFile = logFile;
    const before = writtenTo(logFile);
    this.#tail = before.toString('utf8', Math.max(0, before.length - TAIL_BYTES));
    this.#logged = before.length;
    const pace = new Pace(READ_BYTES);
    stream.on('data', (chunk: Buffer) => {
      this.#take(chunk);
      const waitMs = pace.take(chunk.length);
      if (waitMs === 0) return;
      stream.pause();
      setTimeout(() => stream.resume(), waitMs).unref();
    });
    stream.on('error', () => {});
  }

  /** The last lines. */
  lines(): string[] {
    return this.#tail.trimEnd().split(/\r?\n/).filter(Boolean).slice(-LINES);
  }

  #take(chunk: Buffer): void {
    this.#tail = (this.#tail + chunk.toString('utf8', Math.max(0, chunk.length - TAIL_BYTES))).slice(-TAIL_BYTES);
    if (this.#logged >= LOG_BYTES) return;
    this.#logged += chunk.length;
    try {
      appendFileSync(this.#logFile, chunk.subarray(0, LOG_BYTES), { mode: 0o600 });
    } catch {
      // The run folder is gone or the disk full: the evidence in memory is what counts.
      this.#logged = LOG_BYTES;
    }
  }
}

/** By an earlier server; as bounded as everything in it. */
function writtenTo(logFile: string): Buffer {
  try {
    return readFileSync(logFile);
  } catch {
    return Buffer.alloc(0);
  }
}
