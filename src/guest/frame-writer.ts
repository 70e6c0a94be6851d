/**
 * Frames on their way to the other side, gathered in blocks that are used again: bulk makes no garbage, what is sent within one turn
 * of the event loop wakes the guest once, and small pieces of a stream become one frame.
 *
 * Invariant: at most one block that is not full waits for the channel, so what waits takes little more memory than it has bytes.
 */
import type { Writable } from 'node:stream';
import { DATA, HEADER_BYTES, MAX_PAYLOAD_BYTES, writeHeader } from './frames.ts';

/** A frame of the largest size. */
const BLOCK_BYTES = HEADER_BYTES + MAX_PAYLOAD_BYTES;
/** A frame smaller than this at the end of a block costs more than it brings. */
const MIN_DATA_BYTES = 512;
/** Kept by all links together. */
const SPARE_BLOCKS = 32;
const spareBlocks: Buffer[] = [];

export class FrameWriter {
  readonly #out: Writable;
  #block: Buffer | undefined;
  #length = 0;
  /** The block ends with a DATA frame of this stream, which may grow; 0 when it does not. */
  #stream = 0;
  #frameAt = 0;
  #writing = 0;
  #isScheduled = false;
  readonly #onTurnEnd = (): void => {
    this.#isScheduled = false;
    if (this.#writing === 0) this.#write();
  };

  constructor(out: Writable) {
    this.#out = out;
  }

  /** What waits for the other side to read. */
  get queuedBytes(): number {
    return this.#out.writableLength + this.#length;
  }

  /** A whole frame. The bytes are copied. */
  frame(bytes: Buffer): void {
    this.#stream = 0;
    for (let at = 0; at < bytes.length; ) {
      const copied = bytes.copy(this.#room(1), this.#length, at);
      this.#length += copied;
      at += copied;
    }
    this.#schedule();
  }

  /** Bytes of a stream, in as many frames as they need. They are copied. */
  data(stream: number, bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      if (this.#stream !== stream || this.#length === BLOCK_BYTES) this.#begin(stream);
      const copied = bytes.copy(this.#room(1), this.#length, at);
      this.#length += copied;
      at += copied;
      this.#block?.writeUInt32BE(this.#length - this.#frameAt - HEADER_BYTES, this.#frameAt + 8);
    }
    this.#schedule();
  }

  #begin(stream: number): void {
    const block = this.#room(HEADER_BYTES + MIN_DATA_BYTES);
    this.#stream = stream;
    this.#frameAt = this.#length;
    this.#length += HEADER_BYTES;
    writeHeader(block, this.#frameAt, DATA, stream, 0);
  }

  /** The block, with room for so many bytes at least. */
  #room(bytes: number): Buffer {
    if (this.#length + bytes > BLOCK_BYTES) this.#write();
    this.#block ??= spareBlocks.pop() ?? Buffer.allocUnsafeSlow(BLOCK_BYTES);
    return this.#block;
  }

  #schedule(): void {
    if (this.#length === BLOCK_BYTES) return void this.#write();
    if (this.#isScheduled || this.#writing > 0) return;
    this.#isScheduled = true;
    setImmediate(this.#onTurnEnd);
  }

  #write(): void {
    const block = this.#block;
    if (block === undefined) return;
    const part = block.subarray(0, this.#length);
    this.#block = undefined;
    this.#length = 0;
    this.#stream = 0;
    this.#writing += 1;
    this.#out.write(part, () => {
      this.#writing -= 1;
      if (spareBlocks.length < SPARE_BLOCKS) spareBlocks.push(block);
      if (this.#writing === 0) this.#write();
    });
  }
}
