/**
 * Bytes on their way to a client. What is put in within one turn leaves in one piece: a head and a small body make one TLS
 * record and one system call. Bulk goes out at once, through a few blocks that are used again and again: a new buffer for each
 * piece would have the garbage collector run several times a second.
 *
 * Invariant: a block is filled again only when the socket said that it wrote what was in it, and belongs to one connection.
 */
import type { Socket } from 'node:net';

/** Smaller pieces wait for others of the same turn. */
const LARGE_BYTES = 16_384;
/** A frame of the guest's link with the frame of its chunk. */
const BLOCK_BYTES = 65_536 + 1024;
const KEPT_BLOCKS = 8;
/** More than this waits for nobody but a client that reads slowly. */
const ENOUGH_BYTES = 262_144;

export class Outbox {
  readonly #socket: Socket;
  #waiting: (string | Buffer)[] = [];
  #length = 0;
  #isScheduled = false;
  #blocks: Buffer[] = [];
  readonly #onTurnEnd = (): void => {
    this.#isScheduled = false;
    this.flush();
  };

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Latin-1. */
  text(text: string): void {
    this.#add(text);
  }

  /** The bytes are copied. False when the client has had enough for now. */
  bytes(chunk: Buffer): boolean {
    if (chunk.length < LARGE_BYTES) this.#add(Buffer.from(chunk));
    else this.#bulk(chunk);
    // The socket says `drain` when all of it is written, as it does for what is above its own mark, which is far lower.
    return this.#socket.writableLength < ENOUGH_BYTES;
  }

  flush(): void {
    const waiting = this.#waiting;
    const [first] = waiting;
    if (first === undefined) return;
    const length = this.#length;
    this.#waiting = [];
    this.#length = 0;
    if (!this.#socket.writable) return;
    if (waiting.length === 1) {
      this.#socket.write(first, 'latin1');
      return;
    }
    const whole = Buffer.allocUnsafe(length);
    fill(whole, waiting);
    this.#socket.write(whole);
  }

  /** Nothing large is expected for a while. */
  rest(): void {
    this.#blocks = [];
  }

  #add(part: string | Buffer): void {
    this.#waiting.push(part);
    this.#length += part.length;
    if (this.#length >= LARGE_BYTES) this.flush();
    else if (!this.#isScheduled) {
      this.#isScheduled = true;
      process.nextTick(this.#onTurnEnd);
    }
  }

  #bulk(chunk: Buffer): void {
    if (this.#length + Math.min(chunk.length, BLOCK_BYTES) > BLOCK_BYTES) this.flush();
    for (let from = 0; from < chunk.length; ) {
      const block = this.#blocks.pop() ?? Buffer.allocUnsafeSlow(BLOCK_BYTES);
      const at = fill(block, this.#waiting);
      this.#waiting = [];
      this.#length = 0;
      const copied = chunk.copy(block, at, from);
      from += copied;
      this.#send(block, at + copied);
    }
  }

  #send(block: Buffer, length: number): void {
    if (!this.#socket.writable) return;
    this.#socket.write(block.subarray(0, length), (error) => {
      if (!error && this.#blocks.length < KEPT_BLOCKS) this.#blocks.push(block);
    });
  }
}

function fill(buffer: Buffer, parts: readonly (string | Buffer)[]): number {
  let at = 0;
  for (const part of parts) at += typeof part === 'string' ? buffer.write(part, at, 'latin1') : part.copy(buffer, at);
  return at;
}
