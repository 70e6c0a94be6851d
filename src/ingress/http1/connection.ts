/**
 * One client connection: requests are read one at a time and answered in their order, whatever the client sends ahead.
 *
 * Invariants: bytes behind a request are not looked at until its answer is complete and its body consumed; what is held of
 * them is one read. An answer that can't be completed ends the connection.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../../lib/index.ts';
import type { AnswerHead, BodySink, ClientSide, RequestHead } from '../exchange.ts';
import type { RawHeaders } from '../headers.ts';
import type { Limits } from '../limits.ts';
import { AnswerWriter } from './answer-writer.ts';
import { BodyReader } from './body.ts';
import { readBulk } from './bulk-reads.ts';
import { HeadBuffer, MalformedMessage } from './head.ts';
import { type Http1RequestHead, parseRequestHead } from './request-head.ts';

export interface Surroundings {
  readonly limits: Limits;
  readonly clock: Clock;
  isShut(): boolean;
  request(client: ClientSide): void;
  upgrade(request: RequestHead, head: Buffer): void;
  malformed(error: MalformedMessage): string;
  closed(): void;
}

/** A client whose body nobody reads gets this long to notice the answer, one that was told goodbye to hang up. */
const LINGER_MS = 5000;
/** A client that sends no more and waits, or is gone: so long it may be silent here too before it is asked. */
const PROBE_MS = 500;
const PROBES = 2;
const KEEP_ALIVE_MS = 30_000;
/** A connection that has sent so much in large pieces is read with a buffer of its own. */
const BULK_BYTES = 1024 * 1024;
const LARGE_BYTES = 4096;
const NOTHING = Buffer.alloc(0);
const CONTINUE = 'HTTP/1.1 100 Continue\r\n\r\n';
const CR = 13;
const LF = 10;

export class Connection {
  readonly #socket: Socket;
  readonly #around: Surroundings;
  readonly #head: HeadBuffer;
  readonly #writer: AnswerWriter;
  /** Received and not looked at yet. */
  #rest: Buffer = NOTHING;
  #exchange: Exchange | undefined;
  #deadlineAt: number;
  #isReading = false;
  #hasEnded = false;
  #probes = 0;
  #isClosing = false;
  #largeBytes = 0;
  #isHandedOver = false;

  constructor(socket: Socket, around: Surroundings) {
    this.#socket = socket;
    this.#around = around;
    this.#head = new HeadBuffer(around.limits.headerBytes);
    this.#writer = new AnswerWriter(socket);
    this.#deadlineAt = around.clock.monotonicMs() + around.limits.headersMs;
    // A client may end its side and wait for its answer.
    socket.allowHalfOpen = true;
    socket.setTimeout(around.limits.silentMs, this.#onSilent);
    socket.on('data', this.#onData).on('end', this.#onEnd).on('drain', this.#onDrain);
    socket.on('error', this.#onError).on('close', this.#onClose);
  }

  /** Looks at the deadline; called now and then. */
  check(now: number): void {
    if (now < this.#deadlineAt) return;
    if (this.#exchange !== undefined && this.#hasEnded && !this.#isClosing) return void this.#probe();
    const isInHead = !this.#isClosing && this.#exchange === undefined && !this.#head.isEmpty;
    if (isInHead) this.#refuse(new MalformedMessage('the head took too long', 408));
    else this.destroy();
  }

  /**
   * A client that closed looks like one that ended its side only, until something is sent to it: a closed one resets the
   * connection, which the second write meets. `100 Continue` is what may be sent at any time before an answer.
   */
  #probe(): void {
    this.#exchange?.probe();
    this.#probes += 1;
    this.#deadlineAt = this.#probes < PROBES ? this.#around.clock.monotonicMs() + PROBE_MS : Number.POSITIVE_INFINITY;
  }

  endIfIdle(): void {
    if (this.#exchange === undefined && this.#head.isEmpty) this.#close();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** Called by an exchange that is over: the next request's turn. */
  next(mayKeep: boolean): void {
    this.#exchange = undefined;
    if (!mayKeep || this.#around.isShut()) return void this.#close();
    this.#deadlineAt = this.#around.clock.monotonicMs() + this.#around.limits.keepAliveMs;
    this.#resume();
    if (this.#rest.length > 0) process.nextTick(this.#parseRest);
    else if (this.#hasEnded) this.#close();
  }

  readonly #parseRest = (): void => {
    if (this.#rest.length > 0) this.#parse();
    else if (this.#hasEnded && this.#exchange === undefined) this.#close();
  };

  /** Somebody wants body bytes (again). */
  pull(): void {
    this.#resume();
    this.#parse();
  }

  #resume(): void {
    if (this.#socket.isPaused()) this.#socket.resume();
  }

  /** What is left of a body nobody wants has to come soon. */
  linger(): void {
    this.#deadlineAt = this.#around.clock.monotonicMs() + LINGER_MS;
  }

  /** Says goodbye: everything written goes out, then the connection ends, at the latest after a while. */
  #close(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    this.#rest = NOTHING;
    this.#exchange = undefined;
    this.linger();
    this.#socket.end();
    this.#resume();
    if (this.#hasEnded) this.#socket.destroySoon();
  }

  /** The answer breaks off: the client sees it incomplete. */
  cut(canShow: boolean): void {
    if (canShow) this.#close();
    else this.destroy();
  }

  readonly #onData = (chunk: Buffer): void => {
    if (chunk.length >= LARGE_BYTES && this.#largeBytes < BULK_BYTES) {
      this.#largeBytes += chunk.length;
      if (this.#largeBytes >= BULK_BYTES) readBulk(this.#socket, this.#onPart);
    }
    if (this.#isClosing) return;
    this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#parse();
  };

  /** Bytes that are valid during the call only. */
  readonly #onPart = (part: Buffer): boolean => {
    if (this.#isHandedOver) return this.#socket.push(Buffer.from(part));
    if (this.#isClosing) return true;
    const isBorrowed = this.#rest.length === 0;
    this.#rest = isBorrowed ? part : Buffer.concat([this.#rest, part]);
    this.#parse();
    if (isBorrowed && this.#rest.length > 0) this.#rest = Buffer.from(this.#rest);
    return true;
  };

  /** Goes as far as it can in what is there. */
  #parse(): void {
    if (this.#isReading) return;
    this.#isReading = true;
    try {
      while (this.#rest.length > 0 && !this.#isClosing) {
        if (this.#exchange === undefined) {
          if (!this.#parseHead()) break;
        } else {
          const taken = this.#exchange.takeBody(this.#rest);
          this.#rest = taken === this.#rest.length ? NOTHING : this.#rest.subarray(taken);
          // Nobody wants these bytes yet, or more of them.
          if (taken === 0 || this.#exchange?.isPaused) this.#socket.pause();
          if (taken === 0) break;
        }
      }
    } catch (error) {
      if (!(error instanceof MalformedMessage)) throw error;
      this.#refuse(error);
    } finally {
      this.#isReading = false;
    }
    if (this.#hasEnded && this.#rest.length === 0 && !this.#isClosing) this.#onEnd();
  }

  /** False when the connection is no longer ours. */
  #parseHead(): boolean {
    const rest = this.#rest;
    let from = 0;
    if (this.#head.isEmpty) {
      // An empty line before a request is of no meaning (RFC 9112 §2.2).
      if (rest[0] === CR && rest[1] === LF) from = 2;
      if (from === rest.length) {
        this.#rest = NOTHING;
        return true;
      }
    }
    const isFirst = this.#head.isEmpty;
    const at = this.#head.push(rest, from);
    this.#rest = at < 0 || at === rest.length ? NOTHING : rest.subarray(at);
    if (at < 0) {
      if (isFirst) this.#deadlineAt = this.#around.clock.monotonicMs() + this.#around.limits.headersMs;
      return true;
    }
    const head = parseRequestHead(this.#head.text, this.#around.limits.headerCount);
    this.#deadlineAt = Number.POSITIVE_INFINITY;
    if (head.isUpgrade) return this.#handOver(head);
    const exchange = new Exchange(this, head, this.#writer, this.#around);
    this.#exchange = exchange;
    this.#around.request(exchange);
    return true;
  }

  #handOver(head: Http1RequestHead): false {
    if (head.hasBody) throw new MalformedMessage('an upgrade with a body');
    const socket = this.#socket;
    socket.off('data', this.#onData).off('end', this.#onEnd).off('drain', this.#onDrain);
    socket.off('error', this.#onError).off('close', this.#onClose).off('timeout', this.#onSilent);
    socket.pause();
    const rest = Buffer.from(this.#rest);
    this.#rest = NOTHING;
    this.#isHandedOver = true;
    this.#around.upgrade(head, rest);
    return false;
  }

  #refuse(error: MalformedMessage): void {
    const exchange = this.#exchange;
    if (exchange !== undefined) {
      // The body is broken: the app must not take what came for all of it.
      exchange.broken();
      if (this.#writer.hasBegun) return void this.destroy();
    }
    this.#writer.raw(this.#around.malformed(error));
    this.#close();
  }

  readonly #onEnd = (): void => {
    this.#hasEnded = true;
    if (this.#exchange === undefined) {
      if (!this.#head.isEmpty) this.#refuse(new MalformedMessage('the request ends in its head'));
      else if (this.#rest.length === 0) this.#close();
      if (this.#isClosing) this.#socket.destroySoon();
    } else if (this.#rest.length === 0 && !this.#exchange.hasWholeBody) {
      this.#exchange.broken();
      this.destroy();
    } else {
      this.#socket.setKeepAlive(true, KEEP_ALIVE_MS);
      this.#deadlineAt = this.#around.clock.monotonicMs() + PROBE_MS;
    }
  };

  readonly #onDrain = (): void => this.#exchange?.drained();
  readonly #onSilent = (): void => this.destroy();
  readonly #onError = (): void => {};
  readonly #onClose = (): void => {
    const exchange = this.#exchange;
    this.#exchange = undefined;
    this.#isClosing = true;
    this.#rest = NOTHING;
    exchange?.gone();
    this.#around.closed();
  };
}

/** One request and its answer. */
class Exchange implements ClientSide {
  readonly request: RequestHead;
  readonly #connection: Connection;
  readonly #writer: AnswerWriter;
  readonly #around: Surroundings;
  readonly #body: BodyReader | undefined;
  readonly #wantsKeepAlive: boolean;
  hasAnswered = false;
  #sink: BodySink | undefined;
  #isDiscarding = false;
  #isPaused = false;
  #hasBodyEnded: boolean;
  #owesContinue: boolean;
  #mayKeep = true;
  #isDone = false;
  #isOver = false;
  #onGone: (() => void) | undefined;
  #onDrain: (() => void) | undefined;
  readonly #take = (part: Buffer): void => {
    if (this.#sink?.data(part) === false) this.#isPaused = true;
  };

  constructor(connection: Connection, head: Http1RequestHead, writer: AnswerWriter, around: Surroundings) {
    this.request = head;
    this.#connection = connection;
    this.#writer = writer;
    this.#around = around;
    this.#wantsKeepAlive = head.wantsKeepAlive;
    this.#owesContinue = head.expectsContinue && head.hasBody;
    this.#hasBodyEnded = !head.hasBody;
    this.#body = head.hasBody ? new BodyReader(head.bodyLength ?? 'chunked') : undefined;
    writer.begin(head);
  }

  get hasWholeBody(): boolean {
    return this.#hasBodyEnded;
  }

  readBody(sink: BodySink): void {
    this.#sink = sink;
    this.#connection.pull();
  }

  resumeBody(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.#connection.pull();
  }

  discardBody(): void {
    if (this.#hasBodyEnded) return;
    this.#sink = undefined;
    this.#isDiscarding = true;
    this.#isPaused = false;
    this.#connection.pull();
  }

  sendContinue(): void {
    if (!this.#owesContinue || this.hasAnswered || this.#isOver) return;
    this.#owesContinue = false;
    this.#writer.raw(CONTINUE);
  }

  probe(): void {
    if (this.request.protocol === 'http/1.1' && !this.hasAnswered) this.#writer.raw(CONTINUE);
  }

  onGone(listener: () => void): void {
    this.#onGone = listener;
  }

  onDrain(listener: () => void): void {
    this.#onDrain = listener;
  }

  interim(status: number, headers: RawHeaders): void {
    if (!this.#isOver) this.#writer.interim(status, headers);
  }

  head(head: AnswerHead): void {
    if (this.#isOver) return;
    this.hasAnswered = true;
    // A client that was not told to go on may leave the body out: what follows could be either.
    this.#mayKeep = this.#wantsKeepAlive && !this.#owesContinue && !this.#around.isShut();
    this.#mayKeep = this.#writer.head(head, this.#mayKeep);
  }

  data(chunk: Buffer): boolean {
    return this.#isOver || this.#writer.data(chunk);
  }

  end(trailers: RawHeaders): void {
    if (this.#isOver) return;
    this.#isDone = true;
    this.#writer.end(trailers);
    if (this.#hasBodyEnded || this.#owesContinue || this.#writer.isUntilClose) return void this.#finish();
    // The app may well read on after its answer.
    if (this.#sink !== undefined) return;
    if (!this.#mayKeep) return void this.#finish();
    this.discardBody();
    if (!this.#isOver) this.#connection.linger();
  }

  failed(_error: Error, _isRepeatable: boolean): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#connection.cut(this.#writer.breakOff());
  }

  /** Whoever reads the body has had enough for now. What was received already is given on all the same, as it would be copied to wait. */
  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** Gives body bytes to whoever reads it; returns how many were taken. */
  takeBody(rest: Buffer): number {
    if (this.#hasBodyEnded || this.#body === undefined) return 0;
    if (this.#sink === undefined && !this.#isDiscarding) return 0;
    const taken = this.#body.push(rest, 0, this.#take);
    if (this.#body.isDone) {
      this.#hasBodyEnded = true;
      const sink = this.#sink;
      this.#sink = undefined;
      sink?.end(this.#body.trailers);
      if (this.#isDone) this.#finish();
    }
    return taken;
  }

  drained(): void {
    this.#onDrain?.();
  }

  /** The rest of the body will not come. */
  broken(): void {
    const sink = this.#sink;
    this.#sink = undefined;
    this.#isOver = true;
    sink?.abort();
    if (!this.#isDone) this.#onGone?.();
  }

  gone(): void {
    if (!this.#isOver) this.broken();
  }

  #finish(): void {
    this.#isOver = true;
    this.#connection.next(this.#mayKeep);
  }
}
