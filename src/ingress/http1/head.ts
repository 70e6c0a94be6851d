/**
 * Heads of HTTP/1.1 messages: finding their end, taking them apart, refusing what two readers could read differently.
 *
 * Strict on purpose (RFC 9112 §2.2, §5, §11.2): an app behind the proxy may be lenient, and whatever it would see as a second
 * request was never admitted. So bare CR or LF, folded lines, blanks before a colon, NUL and other control characters end
 * the connection.
 */
import type { RawHeaders } from '../headers.ts';

/** What came is not a message; `status` is what a client is told. */
export class MalformedMessage extends Error {
  readonly status: 400 | 408 | 417 | 431;

  constructor(message: string, status: 400 | 408 | 417 | 431 = 400) {
    super(message);
    this.status = status;
  }
}

const CR = 13;
const LF = 10;
const END = Buffer.from('\r\n\r\n');
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
/** Anywhere in a head. A tab is allowed; of CR and LF see `lineEnd`. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const FORBIDDEN = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f]/;
/** A request target: no blanks, no control characters. */
export const TARGET = /^[^\0-\x20\x7f]+$/;
const FIRST_BYTES = 1024;

/**
 * Gathers a head that comes in pieces, up to and without its empty line. The usual head comes in one piece and is not copied.
 * What is held is bounded by `maxBytes`, and every byte is looked at a bounded number of times.
 */
export class HeadBuffer {
  readonly #maxBytes: number;
  #held: Buffer | undefined;
  #length = 0;
  /** The last head, each of its lines with its end. */
  text = '';

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get isEmpty(): boolean {
    return this.#length === 0;
  }

  /** Where in `chunk` the head's empty line ends; -1: it has not come yet. @throws MalformedMessage */
  push(chunk: Buffer, from: number): number {
    if (this.#length === 0) {
      const at = chunk.indexOf(END, from);
      if (at >= 0) {
        if (at + 2 - from > this.#maxBytes) throw tooLarge();
        this.text = chunk.toString('latin1', from, at + 2);
        return at + 4;
      }
    }
    const before = this.#length;
    this.#append(chunk, from);
    const held = this.#held ?? END;
    const at = held.subarray(0, this.#length).indexOf(END, Math.max(0, before - 3));
    if (at >= 0 && at + 2 <= this.#maxBytes) {
      this.text = held.toString('latin1', 0, at + 2);
      this.#held = undefined;
      this.#length = 0;
      return from + at + 4 - before;
    }
    if (this.#length > this.#maxBytes) throw tooLarge();
    refuseBareLineEnds(held, before, this.#length);
    return -1;
  }

  #append(chunk: Buffer, from: number): void {
    // Bytes beyond the limit (and the empty line behind it) decide nothing.
    const wanted = Math.min(this.#length + chunk.length - from, this.#maxBytes + 4);
    let held = this.#held;
    if (held === undefined || held.length < wanted) {
      const grown = Buffer.allocUnsafe(Math.max(FIRST_BYTES, wanted, Math.min(2 * this.#length, this.#maxBytes + 4)));
      held?.copy(grown, 0, 0, this.#length);
      held = grown;
      this.#held = grown;
    }
    chunk.copy(held, this.#length, from, from + wanted - this.#length);
    this.#length = wanted;
  }
}

function tooLarge(): MalformedMessage {
  return new MalformedMessage('Request headers too large', 431);
}

/** A head that ends its lines with LF alone never ends: it is refused at once, not at its deadline. */
function refuseBareLineEnds(held: Buffer, from: number, end: number): void {
  for (let at = held.indexOf(LF, from); at >= 0 && at < end; at = held.indexOf(LF, at + 1)) {
    if (at === 0 || held[at - 1] !== CR) throw new MalformedMessage('a line ends without CR');
  }
}

/** Where the line from `from` ends, before its CRLF. @throws MalformedMessage for CR or LF alone */
export function lineEnd(text: string, from: number): number {
  const end = text.indexOf('\r', from);
  if (end < 0 || text.indexOf('\n', from) !== end + 1) throw new MalformedMessage('a line that ends without CRLF');
  return end;
}

/** @throws MalformedMessage for control characters that no head may have */
export function checkCharacters(text: string): void {
  if (FORBIDDEN.test(text)) throw new MalformedMessage('a character that no head may have');
}

/**
 * The header lines of a checked text from `at` to its end, as name, value, name, value.
 * @throws MalformedMessage
 */
export function parseHeaderLines(text: string, at: number, maxCount: number): string[] {
  const headers: string[] = [];
  let from = at;
  while (from < text.length) {
    const end = lineEnd(text, from);
    const colon = text.indexOf(':', from);
    if (colon < 0 || colon >= end) throw new MalformedMessage('a header line without a colon');
    const name = text.slice(from, colon);
    if (!TOKEN.test(name)) throw new MalformedMessage('a header name that is none');
    headers.push(name, trimmed(text, colon + 1, end));
    if (headers.length > 2 * maxCount) throw tooLarge();
    from = end + 2;
  }
  return headers;
}

function trimmed(text: string, from: number, to: number): string {
  let first = from;
  let last = to;
  while (first < last && isBlank(text.charCodeAt(first))) first++;
  while (last > first && isBlank(text.charCodeAt(last - 1))) last--;
  return text.slice(first, last);
}

function isBlank(code: number): boolean {
  return code === 32 || code === 9;
}

export function isToken(text: string): boolean {
  return TOKEN.test(text);
}

/** What the headers that matter to a hop say; read in one pass. */
export interface Hop {
  /** Values of `Content-Length` and `Transfer-Encoding`, as they came. */
  contentLength: string | undefined;
  transferEncoding: string | undefined;
  connection: string | undefined;
  keepAlive: string | undefined;
  host: string | undefined;
  expect: string | undefined;
  upgrade: string | undefined;
}

/** @throws MalformedMessage when a header that frames or routes comes twice */
export function readHop(headers: RawHeaders): Hop {
  const hop: Hop = {
    contentLength: undefined,
    transferEncoding: undefined,
    connection: undefined,
    keepAlive: undefined,
    host: undefined,
    expect: undefined,
    upgrade: undefined,
  };
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i] ?? '';
    const value = headers[i + 1] ?? '';
    // The length tells nearly all other names apart, for less than a comparison.
    switch (name.length) {
      case 4:
        if (name.toLowerCase() === 'host') hop.host = once(hop.host, value);
        break;
      case 6:
        if (name.toLowerCase() === 'expect') hop.expect = joined(hop.expect, value);
        break;
      case 7:
        if (name.toLowerCase() === 'upgrade') hop.upgrade = joined(hop.upgrade, value);
        break;
      case 10: {
        const lower = name.toLowerCase();
        if (lower === 'connection') hop.connection = joined(hop.connection, value);
        else if (lower === 'keep-alive') hop.keepAlive = joined(hop.keepAlive, value);
        break;
      }
      case 14:
        if (name.toLowerCase() === 'content-length') hop.contentLength = once(hop.contentLength, value);
        break;
      case 17:
        if (name.toLowerCase() === 'transfer-encoding') hop.transferEncoding = once(hop.transferEncoding, value);
        break;
    }
  }
  return hop;
}

function once(before: string | undefined, value: string): string {
  if (before !== undefined) throw new MalformedMessage('a header that frames or routes comes twice');
  return value;
}

function joined(before: string | undefined, value: string): string {
  return before === undefined ? value : `${before}, ${value}`;
}

/** Whether a list such as `Connection`'s has the token. */
export function lists(value: string | undefined, token: string): boolean {
  if (value === undefined) return false;
  const lower = value.toLowerCase();
  if (lower === token) return true;
  return lower.includes(token) && lower.split(',').some((part) => part.trim() === token);
}

/**
 * How a body is framed: a length, chunks, or (undefined) neither was said.
 * @throws MalformedMessage for two framings, and for any that is not plainly one
 */
export function framingOf(hop: Hop, minorVersion: number): number | 'chunked' | undefined {
  const { contentLength, transferEncoding } = hop;
  if (transferEncoding !== undefined) {
    if (contentLength !== undefined) throw new MalformedMessage('both Content-Length and Transfer-Encoding');
    if (minorVersion === 0) throw new MalformedMessage('Transfer-Encoding in HTTP/1.0');
    if (transferEncoding.toLowerCase() !== 'chunked') throw new MalformedMessage('an unknown Transfer-Encoding');
    return 'chunked';
  }
  if (contentLength === undefined) return undefined;
  if (!/^\d{1,15}$/.test(contentLength)) throw new MalformedMessage('a Content-Length that is no number');
  return Number(contentLength);
}
