/**
 * A shell in the guest as a Node Duplex: what is written is typed, what is read was shown, destroy ends the shell
 * (spec/agent-protocol.md §5).
 *
 * Invariant: nothing is gathered but a record's head and the exit code; the other side's sizes are only counted down.
 */
import { Duplex } from 'node:stream';
import { violation } from './frames.ts';

export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

const BYTES = 1;
const EXIT = 2;
const RESIZE = 3;
const HEAD_BYTES = 5;
const MAX_RECORD_BYTES = 65_536;

type Callback = (error?: Error | null) => void;

export class GuestShell extends Duplex {
  /** Resolves with the exit code once everything the shell printed was passed on; never rejects: `close` comes in any case. */
  readonly exited: Promise<number>;
  readonly #stream: Duplex;
  readonly #exit = Promise.withResolvers<number>();
  #head = Buffer.alloc(0);
  #kind = 0;
  /** Bytes of the current record still to come. */
  #left = 0;
  #code = Buffer.alloc(0);
  #exitCode: number | undefined;
  /** Waits until what was typed before is on its way; only the last one counts. */
  #nextSize: TerminalSize | undefined;

  constructor(stream: Duplex) {
    super({ allowHalfOpen: true, readableHighWaterMark: MAX_RECORD_BYTES, writableHighWaterMark: MAX_RECORD_BYTES });
    this.exited = this.#exit.promise;
    this.#stream = stream;
    this.on('error', () => {});
    stream.on('data', (chunk: Buffer) => this.#receive(chunk));
    stream.on('drain', () => this.#sendSize());
    stream.on('end', () => this.#end());
    stream.on('error', (error) => this.destroy(error));
    stream.on('close', () => {
      if (this.#exitCode === undefined) this.destroy(violation('a shell ended without an exit code'));
    });
  }

  /** The window's size from now on. */
  resize(size: TerminalSize): void {
    this.#nextSize = size;
    if (!this.#stream.writableNeedDrain) this.#sendSize();
  }

  override _read(): void {
    this.#stream.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: Callback): void {
    let isTaken = true;
    for (let at = 0; at < chunk.length; at += MAX_RECORD_BYTES) {
      isTaken = this.#stream.write(record(BYTES, chunk.subarray(at, at + MAX_RECORD_BYTES)));
    }
    if (isTaken) done();
    else this.#stream.once('drain', done);
  }

  override _final(done: Callback): void {
    this.#stream.end();
    done();
  }

  override _destroy(error: Error | null, done: Callback): void {
    this.#stream.destroy();
    done(error);
  }

  #sendSize(): void {
    const size = this.#nextSize;
    this.#nextSize = undefined;
    if (size === undefined || !this.#stream.writable) return;
    const body = Buffer.alloc(4);
    body.writeUInt16BE(size.cols, 0);
    body.writeUInt16BE(size.rows, 2);
    this.#stream.write(record(RESIZE, body));
  }

  #receive(chunk: Buffer): void {
    let at = 0;
    let isTaken = true;
    while (at < chunk.length && !this.destroyed) {
      if (this.#left === 0) {
        const missing = HEAD_BYTES - this.#head.length;
        this.#head = Buffer.concat([this.#head, chunk.subarray(at, at + missing)]);
        at = Math.min(chunk.length, at + missing);
        if (this.#head.length === HEAD_BYTES) this.#begin();
      } else {
        const part = chunk.subarray(at, at + this.#left);
        at += part.length;
        this.#left -= part.length;
        if (this.#kind === BYTES) isTaken = this.push(part);
        else this.#code = Buffer.concat([this.#code, part]);
        if (this.#left === 0 && this.#kind === EXIT) this.#exitCode = this.#code.readUInt32BE(0);
      }
    }
    if (!isTaken) this.#stream.pause();
  }

  #begin(): void {
    this.#kind = this.#head[0] ?? 0;
    this.#left = this.#head.readUInt32BE(1);
    this.#head = Buffer.alloc(0);
    const isKnown = this.#kind === BYTES ? this.#left <= MAX_RECORD_BYTES : this.#kind === EXIT && this.#left === 4;
    if (!isKnown || this.#exitCode !== undefined) this.destroy(violation('a shell sends what is no record of it'));
  }

  #end(): void {
    if (this.#exitCode === undefined || this.#left > 0 || this.#head.length > 0) {
      this.destroy(violation('a shell ended without an exit code'));
      return;
    }
    const exitCode = this.#exitCode;
    this.once('end', () => this.#exit.resolve(exitCode));
    this.push(null);
    this.#stream.end();
  }
}

function record(kind: number, body: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(HEAD_BYTES + body.length);
  bytes[0] = kind;
  bytes.writeUInt32BE(body.length, 1);
  body.copy(bytes, HEAD_BYTES);
  return bytes;
}
