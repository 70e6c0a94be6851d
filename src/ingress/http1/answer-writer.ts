/**
 * Answers onto a client connection. What is written in one turn leaves in one piece: a head and a small body make one TLS
 * record and one system call.
 */
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { AnswerHead, RequestHead } from '../exchange.ts';
import type { RawHeaders } from '../headers.ts';
import { headerLines, lastChunk } from './body.ts';

/** A body piece of this size goes out at once. */
const LARGE_BYTES = 16_384;

export class AnswerWriter {
  readonly #socket: Socket;
  #parts: (string | Buffer)[] = [];
  #length = 0;
  #isScheduled = false;
  #isOld = false;
  #isHead = false;
  #isChunked = false;
  #hasBody = false;
  /** Bytes still owed to a body of a known length. */
  #left = 0;
  /** Only the connection's end tells where the body ends. */
  isUntilClose = false;
  /** Something of the final answer was written. */
  hasBegun = false;
  readonly #flush = (): void => {
    this.#isScheduled = false;
    this.flush();
  };

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** The next answer is to this request. */
  begin(request: RequestHead): void {
    this.#isOld = request.protocol === 'http/1.0';
    this.#isHead = request.method === 'HEAD';
    this.hasBegun = false;
  }

  raw(text: string): void {
    this.#add(text, text.length);
    this.flush();
  }

  interim(status: number, headers: RawHeaders): void {
    if (this.#isOld) return;
    this.raw(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${headerLines(headers)}\r\n`);
  }

  /** Whether the connection can be used again. */
  head(head: AnswerHead, mayKeep: boolean): boolean {
    const { status, bodyLength, headers } = head;
    this.hasBegun = true;
    const mayHaveBody = !this.#isHead && status !== 204 && status !== 304;
    this.#hasBody = mayHaveBody && bodyLength !== 0;
    this.#isChunked = this.#hasBody && bodyLength === undefined && !this.#isOld;
    this.#left = bodyLength ?? 0;
    this.isUntilClose = this.#hasBody && bodyLength === undefined && this.#isOld;
    const keeps = mayKeep && !this.isUntilClose;
    let text = `HTTP/1.1 ${status} ${head.reason === '' ? (STATUS_CODES[status] ?? '') : head.reason}\r\n`;
    let hasDate = false;
    let hasLength = false;
    for (let i = 0; i < headers.length; i += 2) {
      const name = headers[i] ?? '';
      if (name.length === 4 && name.toLowerCase() === 'date') hasDate = true;
      else if (name.length === 14 && name.toLowerCase() === 'content-length') hasLength = true;
      text += `${name}: ${headers[i + 1]}\r\n`;
    }
    if (!hasDate) text += `Date: ${httpDate()}\r\n`;
    if (this.#isChunked) text += 'Transfer-Encoding: chunked\r\n';
    else if (mayHaveBody && !hasLength && bodyLength !== undefined) text += `Content-Length: ${bodyLength}\r\n`;
    if (!keeps) text += 'Connection: close\r\n';
    else if (this.#isOld) text += 'Connection: keep-alive\r\n';
    text += '\r\n';
    this.#add(text, text.length);
    this.#schedule();
    return keeps;
  }

  /** False when the client has had enough for now. */
  data(chunk: Buffer): boolean {
    if (!this.#hasBody || chunk.length === 0) return true;
    if (this.#isChunked) {
      const size = `${chunk.length.toString(16)}\r\n`;
      this.#add(size, size.length);
      this.#add(chunk, chunk.length);
      this.#add('\r\n', 2);
    } else {
      this.#left -= chunk.length;
      this.#add(chunk, chunk.length);
    }
    if (this.#length >= LARGE_BYTES) return this.flush();
    this.#schedule();
    return !this.#socket.writableNeedDrain;
  }

  end(trailers: RawHeaders): void {
    if (this.#isChunked) {
      const text = lastChunk(trailers);
      this.#add(text, text.length);
    }
    this.flush();
  }

  /** The answer is incomplete. True when its framing shows that, so that what came of it may still be delivered. */
  breakOff(): boolean {
    this.flush();
    return this.hasBegun && this.#hasBody && (this.#isChunked || this.#left > 0);
  }

  flush(): boolean {
    const parts = this.#parts;
    const [first] = parts;
    if (first === undefined) return true;
    const length = this.#length;
    this.#parts = [];
    this.#length = 0;
    if (!this.#socket.writable) return true;
    if (parts.length === 1) {
      return typeof first === 'string' ? this.#socket.write(first, 'latin1') : this.#socket.write(first);
    }
    const whole = Buffer.allocUnsafe(length);
    let at = 0;
    for (const part of parts) at += typeof part === 'string' ? whole.write(part, at, 'latin1') : part.copy(whole, at);
    return this.#socket.write(whole);
  }

  #add(part: string | Buffer, length: number): void {
    this.#parts.push(part);
    this.#length += length;
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    process.nextTick(this.#flush);
  }
}

let dateText = '';
let dateUntil = 0;

function httpDate(): string {
  const now = Date.now();
  if (now >= dateUntil) {
    dateText = new Date(now).toUTCString();
    dateUntil = now - (now % 1000) + 1000;
  }
  return dateText;
}
