/**
 * Answers of an app as they come over one connection, one after the other. The app is hostile: whatever it sends becomes
 * events of this reader or a MalformedMessage, in bounded memory.
 */
import type { AnswerHead } from '../exchange.ts';
import type { RawHeaders } from '../headers.ts';
import { BodyReader, UNTIL_CLOSE } from './body.ts';
import {
  checkCharacters,
  framingOf,
  HeadBuffer,
  type Hop,
  lists,
  MalformedMessage,
  parseHeaderLines,
  readHop,
} from './head.ts';

const STATUS_LINE = /^HTTP\/1\.([01]) ([1-9]\d\d)(?: ([^\r\n]*))?\r\n/;
const MAX_HEADERS = 1000;
/** An app that goes on announcing answers never gives one. */
const MAX_INTERIM = 32;

export interface AnswerTaker {
  interim(status: number, headers: RawHeaders): void;
  /** 101; the bytes behind it are no longer HTTP. */
  switched(head: AnswerHead, rest: Buffer): void;
  head(head: AnswerHead): void;
  data(part: Buffer): void;
  end(trailers: RawHeaders): void;
}

export class AnswerReader {
  readonly #head: HeadBuffer;
  readonly #taker: AnswerTaker;
  #body: BodyReader | undefined;
  #method = '';
  #mayUpgrade = false;
  #interims = 0;
  #isOpen = false;
  #isUntilClose = false;
  /** The connection may carry another exchange after this one. */
  mayKeep = false;
  /** What `Keep-Alive: timeout` leaves, less a second for the way. */
  hintMs: number | undefined;
  readonly #data: (part: Buffer) => void;

  constructor(maxHeadBytes: number, taker: AnswerTaker) {
    this.#head = new HeadBuffer(maxHeadBytes);
    this.#taker = taker;
    this.#data = (part) => taker.data(part);
  }

  /** The next answer is to this method. */
  begin(method: string, mayUpgrade: boolean): void {
    this.#method = method;
    this.#mayUpgrade = mayUpgrade;
    this.#interims = 0;
    this.#isOpen = true;
    this.#isUntilClose = false;
    this.mayKeep = false;
    this.hintMs = undefined;
  }

  /** Between `begin` and the answer's end. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** @throws MalformedMessage also for bytes that belong to no answer */
  push(chunk: Buffer): void {
    let at = 0;
    while (this.#isOpen && at < chunk.length) {
      if (this.#body === undefined) at = this.#pushHead(chunk, at);
      else {
        at = this.#body.push(chunk, at, this.#data);
        this.#endIfDone();
      }
    }
    if (at < chunk.length) throw new MalformedMessage('bytes behind the answer');
  }

  /** The app sends no more. True when that ends the answer as it should. */
  close(): boolean {
    if (!this.#isOpen || this.#body === undefined || !this.#isUntilClose) return false;
    this.#finish([]);
    return true;
  }

  #pushHead(chunk: Buffer, from: number): number {
    const at = this.#head.push(chunk, from);
    if (at < 0) return chunk.length;
    const { text } = this.#head;
    checkCharacters(text);
    const line = STATUS_LINE.exec(text);
    if (line === null) throw new MalformedMessage('a status line that is none');
    const minor = Number(line[1]);
    const status = Number(line[2]);
    const headers = parseHeaderLines(text, line[0].length, MAX_HEADERS);
    const hop = readHop(headers);
    if (status === 101) return this.#switch({ status, reason: line[3] ?? '', headers, bodyLength: 0 }, chunk, at);
    if (status < 200) {
      if (++this.#interims > MAX_INTERIM) throw new MalformedMessage('interim answers without end');
      this.#taker.interim(status, headers);
      return at;
    }
    this.#final(status, line[3] ?? '', headers, hop, minor);
    return at;
  }

  #switch(head: AnswerHead, chunk: Buffer, at: number): number {
    if (!this.#mayUpgrade) throw new MalformedMessage('101 that nobody asked for');
    this.#isOpen = false;
    this.#taker.switched(head, chunk.subarray(at));
    return chunk.length;
  }

  #final(status: number, reason: string, headers: string[], hop: Hop, minor: number): void {
    const said = framingOf(hop, minor);
    const hasBody = this.#method !== 'HEAD' && status !== 204 && status !== 304;
    const framing = hasBody ? (said ?? UNTIL_CLOSE) : 0;
    this.#isUntilClose = framing === UNTIL_CLOSE;
    const wantsClose = minor === 0 ? !lists(hop.connection, 'keep-alive') : lists(hop.connection, 'close');
    this.mayKeep = !wantsClose && !this.#isUntilClose;
    this.hintMs = hintOf(hop.keepAlive);
    this.#body = new BodyReader(framing);
    const bodyLength = typeof framing === 'number' && framing !== UNTIL_CLOSE ? framing : undefined;
    this.#taker.head({ status, reason, headers, bodyLength });
    this.#endIfDone();
  }

  #endIfDone(): void {
    if (this.#body?.isDone === true) this.#finish(this.#body.trailers);
  }

  #finish(trailers: RawHeaders): void {
    this.#body = undefined;
    this.#isOpen = false;
    this.#taker.end(trailers);
  }
}

function hintOf(keepAlive: string | undefined): number | undefined {
  const seconds = keepAlive === undefined ? undefined : /\btimeout=(\d{1,6})/i.exec(keepAlive)?.[1];
  return seconds === undefined ? undefined : Number(seconds) * 1000 - 1000;
}
