/**
 * Bytes that came in pieces, taken out in records. Pieces are kept as they came and joined once, when a whole record is there:
 * joining at every piece would let a sender of single bytes make each of them cost as much as all before it.
 */

/** Pieces below this are copied together, so that single bytes do not each keep a buffer alive. */
const BLOCK_BYTES = 4096;

export class ByteQueue {
  #pieces: Buffer[] = [];
  /** Room left in the last piece, when it is a block of ours. */
  #block: Buffer | undefined;
  #blockUsed = 0;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(part: Buffer): void {
    if (part.length === 0) return;
    this.#length += part.length;
    if (part.length >= BLOCK_BYTES) {
      this.#block = undefined;
      this.#pieces.push(Buffer.from(part));
      return;
    }
    for (let at = 0; at < part.length; ) {
      if (this.#block === undefined || this.#blockUsed === BLOCK_BYTES) {
        this.#block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
        this.#blockUsed = 0;
        this.#pieces.push(this.#block.subarray(0, 0));
      }
      const copied = part.copy(this.#block, this.#blockUsed, at);
      this.#blockUsed += copied;
      at += copied;
      const last = this.#pieces.at(-1) ?? Buffer.alloc(0);
      // The piece grows within its block; it may have lost its beginning already.
      const from = this.#blockUsed - copied - last.length;
      this.#pieces[this.#pieces.length - 1] = this.#block.subarray(from, this.#blockUsed);
    }
  }

  /** The first `count` bytes, which must be there. */
  take(count: number): Buffer {
    const taken: Buffer[] = [];
    for (let left = count; left > 0; ) {
      const piece = this.#pieces[0];
      if (piece === undefined) throw new RangeError('more bytes than there are');
      const part = piece.subarray(0, left);
      taken.push(part);
      left -= part.length;
      if (part.length < piece.length) this.#pieces[0] = piece.subarray(part.length);
      else {
        this.#pieces.shift();
        if (this.#pieces.length === 0) this.#block = undefined;
      }
    }
    this.#length -= count;
    const [only] = taken;
    return only !== undefined && taken.length === 1 ? only : Buffer.concat(taken, count);
  }
}
