/** Answers onto a client connection, framed as the client's version of the protocol has it. */
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { AnswerHead, RequestHead } from '../exchange.ts';
import type { RawHeaders } from '../headers.ts';
import { headerLines, lastChunk } from './body.ts';
import { Outbox } from './outbox.ts';

export class AnswerWriter {
  readonly #outbox: Outbox;
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

  constructor(socket: Socket) {
    this.#outbox = new Outbox(socket);
  }

  /** The next answer is to this request. */
  begin(request: RequestHead): void {
    this.#isOld = request.protocol === 'http/1.0';
    this.#isHead = request.method === 'HEAD';
    this.hasBegun = false;
  }

  raw(text: string): void {
    this.#outbox.text(text);
    this.#outbox.flush();
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
    this.#outbox.text(text);
    return keeps;
  }

  /** False when the client has had enough for now. The bytes are copied. */
  data(chunk: Buffer): boolean {
    if (!this.#hasBody || chunk.length === 0) return true;
    if (!this.#isChunked) {
      this.#left -= chunk.length;
      return this.#outbox.bytes(chunk);
    }
    this.#outbox.text(`${chunk.length.toString(16)}\r\n`);
    const isReady = this.#outbox.bytes(chunk);
    this.#outbox.text('\r\n');
    return isReady;
  }

  end(trailers: RawHeaders): void {
    if (this.#isChunked) this.#outbox.text(lastChunk(trailers));
    this.#outbox.flush();
    this.#outbox.rest();
  }

  /** The answer is incomplete. True when its framing shows that, so that what came of it may still be delivered. */
  breakOff(): boolean {
    this.#outbox.flush();
    return this.hasBegun && this.#hasBody && (this.#isChunked || this.#left > 0);
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
