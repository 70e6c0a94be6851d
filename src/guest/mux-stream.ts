/**
 * One stream of the multiplexer as a Node Duplex: half-close is END, destroy is RESET, backpressure is CREDIT.
 *
 * Invariant: at most the granted credit is held for a reader that does not read, in blocks of our own size, however
 * small the pieces it came in.
 */
import { Duplex } from 'node:stream';
import { type DirectRead, MachineError, type Taker } from '../lib/index.ts';
import {
  ACCEPT,
  END,
  encodeCredit,
  encodeFrame,
  INITIAL_CREDIT_BYTES,
  MAX_PAYLOAD_BYTES,
  quoted,
  RESET,
  violation,
} from './frames.ts';

/** What a stream needs of its multiplexer. */
export interface MuxOutput {
  /** Sends bytes as DATA; they are copied. */
  sendData(stream: MuxStream, bytes: Buffer): void;
  sendControl(frame: Buffer): void;
  readonly isWritable: boolean;
  /** Calls the stream's `flush` at the next drain. */
  waitWritable(stream: MuxStream): void;
  forget(stream: MuxStream): void;
  /** Counts what is held for a reader; false when that is too much for one session. */
  hold(bytes: number): boolean;
  /** A block to hold bytes in. */
  takeBlock(): Buffer;
  /** Nobody has a view of the block any more: it may be filled again. */
  spareBlock(block: Buffer): void;
}

const GRANT_BYTES = INITIAL_CREDIT_BYTES / 4;
/** What is held is held in blocks of this size. */
export const BLOCK_BYTES = 16_384;

type Callback = (error?: Error | null) => void;

export class MuxStream extends Duplex implements DirectRead {
  readonly id: number;
  /** Resolves when the other side accepted the stream; rejects with why not. */
  readonly accepted: Promise<void>;
  readonly #mux: MuxOutput;
  readonly #accept = Promise.withResolvers<void>();
  #isAccepted = false;
  #isGone = false;
  #sendCredit = INITIAL_CREDIT_BYTES;
  #receiveCredit = INITIAL_CREDIT_BYTES;
  #consumed = 0;
  #hasEnded = false;
  #hasSentEnd = false;
  /** The reader asked and has got nothing yet. */
  #isReading = false;
  /** Reads instead of the stream's own queue. */
  #taker: Taker | undefined;
  #isTaking = false;
  /** Received while the reader was busy; the last block may have room left. */
  #blocks: Buffer[] = [];
  #lastBlockLength = 0;
  #heldBytes = 0;
  #outgoing: Buffer | undefined;
  #outgoingDone: Callback | undefined;
  /** Given and not sent yet; before what is outgoing. */
  #given: { readonly block: Buffer; from: number; to: number }[] = [];
  #owesDrain = false;

  constructor(id: number, mux: MuxOutput) {
    super({ allowHalfOpen: true, readableHighWaterMark: BLOCK_BYTES, writableHighWaterMark: MAX_PAYLOAD_BYTES });
    this.id = id;
    this.#mux = mux;
    this.accepted = this.#accept.promise;
    this.accepted.catch(() => {});
    // A stream's failure is told to whoever uses it; nobody may be listening yet, or any more.
    this.on('error', () => {});
  }

  get isAccepted(): boolean {
    return this.#isAccepted;
  }

  /** Agent side: takes the stream. */
  accept(): void {
    this.#isAccepted = true;
    this.#mux.sendControl(encodeFrame(ACCEPT, this.id));
  }

  /** Ends the stream both ways with a code of the protocol. */
  refuse(code: string, message: string): void {
    this.#sendReset(`${code}: ${message}`);
    this.destroy();
  }

  receiveAccept(): void {
    if (this.#isAccepted) throw violation('a stream was accepted twice');
    this.#isAccepted = true;
    this.#accept.resolve();
  }

  receiveData(part: Buffer): void {
    if (!this.#isAccepted || this.#hasEnded) throw violation('data outside the life of its stream');
    this.#receiveCredit -= part.length;
    if (this.#receiveCredit < 0) {
      this.#sendReset('flow: more data than credit');
      this.destroy(violation('the guest sent more data than it had credit for'));
      return;
    }
    if (this.#taker !== undefined && this.#isTaking && this.#blocks.length === 0) {
      this.#isTaking = this.#taker.data(part);
      this.#grant(part.length);
      return;
    }
    const isDirect =
      this.#taker === undefined && (this.#isReading || (this.readableFlowing === true && this.readableLength === 0));
    if (this.#blocks.length === 0 && isDirect) {
      this.#isReading = false;
      this.push(Buffer.from(part));
      this.#grant(part.length);
    } else this.#hold(part);
  }

  /** What was sent and taken is granted again, never more: a grant of nothing, or beyond the window, is no grant. */
  receiveCredit(bytes: number): void {
    this.#sendCredit += bytes;
    if (bytes === 0 || this.#sendCredit > INITIAL_CREDIT_BYTES) throw violation('credit for what was never sent');
    this.flush();
  }

  receiveEnd(): void {
    if (!this.#isAccepted || this.#hasEnded) throw violation('a second end of a stream');
    this.#hasEnded = true;
    if (this.#blocks.length === 0) this.#endReading();
    this.#forgetWhenDone();
  }

  receiveReset(text: string): void {
    this.#isGone = true;
    this.destroy(resetError(text));
  }

  /** The session is over; nothing can be sent any more. */
  abandon(error: Error): void {
    this.#isGone = true;
    this.destroy(error);
  }

  /** Sends what credit and channel allow of what was given, then of the write under way. */
  flush(): void {
    for (let first = this.#given[0]; first !== undefined; first = this.#given[0]) {
      first.from += this.#send(first.block.subarray(first.from, first.to));
      if (first.from < first.to) return;
      this.#given.shift();
      this.#mux.spareBlock(first.block);
    }
    if (this.#outgoing !== undefined) {
      const left = this.#outgoing.subarray(this.#send(this.#outgoing));
      this.#outgoing = left.length === 0 ? undefined : left;
      if (left.length > 0) return;
    }
    const done = this.#outgoingDone;
    this.#outgoingDone = undefined;
    done?.();
    if (!this.#owesDrain) return;
    this.#owesDrain = false;
    this.emit('drain');
  }

  /** Returns how many of the bytes credit and channel allowed to be sent. */
  #send(bytes: Buffer): number {
    let at = 0;
    while (at < bytes.length && this.#sendCredit > 0) {
      if (!this.#mux.isWritable) {
        this.#mux.waitWritable(this);
        break;
      }
      const end = Math.min(bytes.length, at + this.#sendCredit, at + MAX_PAYLOAD_BYTES);
      this.#sendCredit -= end - at;
      this.#mux.sendData(this, bytes.subarray(at, end));
      at = end;
    }
    return at;
  }

  takeInto(taker: Taker): void {
    this.#taker = taker;
    this.resumeTaking();
  }

  resumeTaking(): void {
    const taker = this.#taker;
    if (taker === undefined || this.#isTaking) return;
    this.#isTaking = true;
    while (this.#isTaking && this.#blocks.length > 0) {
      const block = this.#blocks[0];
      this.#isTaking = taker.data(this.#nextBlock());
      if (block !== undefined) this.#mux.spareBlock(block);
    }
    if (this.#hasEnded && this.#blocks.length === 0) this.#endReading();
  }

  give(part: Buffer): boolean {
    if (this.writableLength > 0 || !this.writable) return this.write(Buffer.from(part));
    let at = this.#given.length === 0 ? this.#send(part) : 0;
    if (at === part.length) return true;
    while (at < part.length) {
      let last = this.#given.at(-1);
      if (last === undefined || last.to === last.block.length) {
        last = { block: this.#mux.takeBlock(), from: 0, to: 0 };
        this.#given.push(last);
      }
      const copied = part.copy(last.block, last.to, at);
      last.to += copied;
      at += copied;
    }
    this.#owesDrain = true;
    return false;
  }

  #endReading(): void {
    if (this.#taker === undefined) this.push(null);
    else this.#taker.end();
  }

  /** The oldest of what is held, of which there must be something. */
  #nextBlock(): Buffer {
    const isLast = this.#blocks.length === 1;
    const block = this.#blocks.shift() ?? Buffer.alloc(0);
    const part = isLast ? block.subarray(0, this.#lastBlockLength) : block;
    this.#letGo(part.length);
    this.#grant(part.length);
    return part;
  }

  override _read(): void {
    this.#isReading = this.#blocks.length === 0;
    while (this.#blocks.length > 0) if (!this.push(this.#nextBlock())) break;
    if (this.#blocks.length === 0 && this.#hasEnded && !this.readableEnded) this.push(null);
  }

  override _write(chunk: Buffer, _encoding: string, done: Callback): void {
    this.#outgoing = chunk.length === 0 ? undefined : chunk;
    this.#outgoingDone = done;
    this.flush();
  }

  override _writev(chunks: { chunk: Buffer }[], done: Callback): void {
    this._write(
      chunks.length === 1 && chunks[0] ? chunks[0].chunk : Buffer.concat(chunks.map((c) => c.chunk)),
      '',
      done,
    );
  }

  override _final(done: Callback): void {
    this.#outgoingDone = () => {
      this.#hasSentEnd = true;
      this.#mux.sendControl(encodeFrame(END, this.id));
      this.#forgetWhenDone();
      done();
    };
    this.flush();
  }

  override _destroy(error: Error | null, done: Callback): void {
    if (!(this.#hasEnded && this.#hasSentEnd)) this.#sendReset('cancelled: closed by the other side');
    this.#isGone = true;
    this.#mux.forget(this);
    this.#blocks = [];
    this.#letGo(this.#heldBytes);
    this.#outgoing = undefined;
    this.#outgoingDone = undefined;
    this.#given = [];
    if (!this.#isAccepted) this.#accept.reject(error ?? new MachineError('failed', 'the stream was closed'));
    done(error);
  }

  #sendReset(text: string): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#mux.sendControl(encodeFrame(RESET, this.id, Buffer.from(text).subarray(0, 1024)));
  }

  #forgetWhenDone(): void {
    if (this.#hasEnded && this.#hasSentEnd) this.#mux.forget(this);
  }

  #grant(bytes: number): void {
    this.#consumed += bytes;
    if (this.#consumed < GRANT_BYTES || this.#isGone || this.#hasEnded) return;
    this.#receiveCredit += this.#consumed;
    this.#mux.sendControl(encodeCredit(this.id, this.#consumed));
    this.#consumed = 0;
  }

  #letGo(bytes: number): void {
    this.#heldBytes -= bytes;
    this.#mux.hold(-bytes);
  }

  #hold(part: Buffer): void {
    this.#heldBytes += part.length;
    if (!this.#mux.hold(part.length)) {
      this.#sendReset('flow: too much is waiting to be read');
      this.destroy(new MachineError('failed', 'too much of this microVM waits for readers that do not read'));
      return;
    }
    let at = 0;
    while (at < part.length) {
      let block = this.#blocks.at(-1);
      if (block === undefined || this.#lastBlockLength === block.length) {
        block = this.#mux.takeBlock();
        this.#blocks.push(block);
        this.#lastBlockLength = 0;
      }
      const copied = part.copy(block, this.#lastBlockLength, at);
      this.#lastBlockLength += copied;
      at += copied;
    }
  }
}

/** What a RESET of the other side means here. The text is the guest's: cut, and never more than a message. */
export function resetError(text: string): MachineError {
  const [code = ''] = text.split(':', 1);
  const message = quoted(text.slice(code.length + 1));
  if (code === 'refused') return new MachineError('failed', message === '' ? 'nothing listens there' : message);
  if (code === 'invalid' || code === 'flow') return new MachineError('protocol', `the agent refused: ${message}`);
  return new MachineError('failed', message === '' ? `the agent reset the stream (${quoted(code, 20)})` : message);
}
