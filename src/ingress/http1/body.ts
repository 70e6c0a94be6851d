/**
 * Bodies of HTTP/1.1 messages: taken out of the bytes that frame them, and put into chunks again.
 *
 * Invariant: nothing of the body is held, each piece is handed on as it came; framing that is not exactly as RFC 9112 §7.1
 * has it is refused, because a lenient reader behind us could see its end somewhere else.
 */
import type { RawHeaders } from '../headers.ts';
import { checkCharacters, HeadBuffer, MalformedMessage, parseHeaderLines } from './head.ts';

export const UNTIL_CLOSE = -1;
/** A length, chunks, or everything until the connection ends. */
export type Framing = number | 'chunked';

const SIZE = 0;
const EXTENSION = 1;
const SIZE_LF = 2;
const DATA = 3;
const DATA_CR = 4;
const DATA_LF = 5;
const TRAILERS = 6;
const DONE = 7;

/** 2^52 bytes in a chunk; more digits than that are no size. */
const MAX_SIZE_DIGITS = 13;
const MAX_EXTENSION_BYTES = 256;
const MAX_TRAILER_BYTES = 16_384;
const MAX_TRAILERS = 100;
const CRLF = Buffer.from('\r\n');
const CR = 13;
const LF = 10;

export class BodyReader {
  #state: number;
  readonly #isChunked: boolean;
  /** Bytes of the chunk, or of the whole, still to come; meaningless when the body ends with the connection. */
  #left: number;
  #digits = 0;
  #extension = 0;
  #tail: HeadBuffer | undefined;
  trailers: RawHeaders = [];

  /** @param framing UNTIL_CLOSE: `isDone` never becomes true */
  constructor(framing: Framing) {
    this.#isChunked = framing === 'chunked';
    this.#left = typeof framing === 'number' ? framing : 0;
    this.#state = this.#isChunked ? SIZE : framing === 0 ? DONE : DATA;
  }

  get isDone(): boolean {
    return this.#state === DONE;
  }

  /** Hands body bytes of `chunk` on, beginning at `from`; returns where it stopped, which is behind the body's end. */
  push(chunk: Buffer, from: number, take: (part: Buffer) => void): number {
    if (this.#isChunked) return this.#pushChunked(chunk, from, take);
    if (this.#state === DONE) return from;
    if (this.#left === UNTIL_CLOSE) {
      if (from < chunk.length) take(from === 0 ? chunk : chunk.subarray(from));
      return chunk.length;
    }
    return this.#data(chunk, from, take);
  }

  #data(chunk: Buffer, from: number, take: (part: Buffer) => void): number {
    const end = Math.min(chunk.length, from + this.#left);
    this.#left -= end - from;
    if (this.#left === 0) this.#state = this.#isChunked ? DATA_CR : DONE;
    if (end > from) take(from === 0 && end === chunk.length ? chunk : chunk.subarray(from, end));
    return end;
  }

  #pushChunked(chunk: Buffer, from: number, take: (part: Buffer) => void): number {
    let at = from;
    while (at < chunk.length && this.#state !== DONE) {
      if (this.#state === DATA) at = this.#data(chunk, at, take);
      else if (this.#state === TRAILERS) at = this.#trailers(chunk, at);
      else this.#frame(chunk[at++] ?? 0);
    }
    return at;
  }

  /** One byte between two chunks. */
  #frame(byte: number): void {
    switch (this.#state) {
      case SIZE:
        return void this.#size(byte);
      case EXTENSION:
        if (byte === CR) this.#state = SIZE_LF;
        else if ((byte < 32 && byte !== 9) || byte === 127) throw new MalformedMessage('a broken chunk extension');
        else if (++this.#extension > MAX_EXTENSION_BYTES) throw new MalformedMessage('a long chunk extension');
        return;
      case SIZE_LF:
        if (byte !== LF) throw new MalformedMessage('a chunk size that does not end with CRLF');
        this.#digits = 0;
        this.#extension = 0;
        if (this.#left > 0) this.#state = DATA;
        else this.#beginTrailers();
        return;
      case DATA_CR:
        if (byte !== CR) throw new MalformedMessage('a chunk longer than its size');
        this.#state = DATA_LF;
        return;
      default:
        if (byte !== LF) throw new MalformedMessage('a chunk that does not end with CRLF');
        this.#state = SIZE;
    }
  }

  #size(byte: number): void {
    const digit = hexDigit(byte);
    if (digit >= 0) {
      if (++this.#digits > MAX_SIZE_DIGITS) throw new MalformedMessage('a chunk size too large');
      this.#left = this.#left * 16 + digit;
      return;
    }
    if (this.#digits === 0) throw new MalformedMessage('a chunk without a size');
    if (byte === CR) this.#state = SIZE_LF;
    else if (byte === 59) this.#state = EXTENSION;
    else throw new MalformedMessage('a chunk size that is no number');
  }

  /** The last chunk's line end counts as the first line of the trailers, so that their end always looks alike. */
  #beginTrailers(): void {
    this.#state = TRAILERS;
    this.#tail = new HeadBuffer(MAX_TRAILER_BYTES);
    this.#tail.push(CRLF, 0);
  }

  #trailers(chunk: Buffer, from: number): number {
    const tail = this.#tail;
    const at = tail?.push(chunk, from) ?? -1;
    if (tail === undefined || at < 0) return chunk.length;
    this.#tail = undefined;
    this.#state = DONE;
    if (tail.text.length > 2) {
      checkCharacters(tail.text);
      this.trailers = parseHeaderLines(tail.text, 2, MAX_TRAILERS);
    }
    return at;
  }
}

function hexDigit(byte: number): number {
  if (byte >= 48 && byte <= 57) return byte - 48;
  const lower = byte | 32;
  return lower >= 97 && lower <= 102 ? lower - 87 : -1;
}

/** A chunk of the body with its frame, in one piece. */
export function encodeChunk(data: Buffer): Buffer {
  const size = data.length.toString(16);
  const framed = Buffer.allocUnsafe(size.length + data.length + 4);
  framed.write(size, 0, 'latin1');
  framed.write('\r\n', size.length, 'latin1');
  data.copy(framed, size.length + 2);
  framed.write('\r\n', framed.length - 2, 'latin1');
  return framed;
}

/** The end of a chunked body. */
export function lastChunk(trailers: RawHeaders): string {
  return trailers.length === 0 ? '0\r\n\r\n' : `0\r\n${headerLines(trailers)}\r\n`;
}

export function headerLines(headers: RawHeaders): string {
  let text = '';
  for (let i = 0; i < headers.length; i += 2) text += `${headers[i]}: ${headers[i + 1]}\r\n`;
  return text;
}
