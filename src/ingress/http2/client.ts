/**
 * A client's HTTP/2 stream as a `ClientSide`.
 *
 * Invariant: an answer that broke off ends in RST_STREAM with a code other than NO_ERROR, and a body that broke off never
 * reaches its sink as ended.
 */
import { constants, type ServerHttp2Stream } from 'node:http2';
import type { AnswerHead, BodySink, ClientSide, RequestHead } from '../exchange.ts';
import type { RawHeaders } from '../headers.ts';
import { grouped, lowered } from './head.ts';
import { reset, resetCodeOf } from './reset.ts';

/** Interim answers are headers, which no flow control holds back; an app must not pile them up for a client that reads none. */
const MAX_INTERIM = 32;

export class Http2Client implements ClientSide {
  readonly request: RequestHead;
  readonly #stream: ServerHttp2Stream;
  #hasAnswered = false;
  /** The answer ended or broke off, or the client is gone. */
  #isOver = false;
  #isGone = false;
  /** It was broken off from here. */
  #isCut = false;
  #interims = 0;
  #sink: BodySink | undefined;
  #requestTrailers: RawHeaders = [];
  #answerTrailers: RawHeaders = [];
  #onGone: (() => void) | undefined;
  #onDrain: (() => void) | undefined;

  constructor(stream: ServerHttp2Stream, request: RequestHead) {
    this.#stream = stream;
    this.request = request;
    stream.on('error', () => {});
    stream.on('drain', () => this.#onDrain?.());
    stream.once('close', () => this.#closed());
    stream.once('trailers', (_headers, _flags, raw) => {
      this.#requestTrailers = raw;
    });
    stream.once('wantTrailers', () => this.#sendTrailers());
  }

  get hasAnswered(): boolean {
    return this.#hasAnswered;
  }

  /** Of a stream that closed: whether the client, and not the app or we, broke it off. */
  get wasCutByClient(): boolean {
    return this.#isGone || (this.#stream.rstCode !== constants.NGHTTP2_NO_ERROR && !this.#isCut);
  }

  readBody(sink: BodySink): void {
    this.#sink = sink;
    const stream = this.#stream;
    if (stream.destroyed) return;
    stream.on('data', (chunk: Buffer) => {
      if (this.#sink !== undefined && !this.#sink.data(chunk)) stream.pause();
    });
    stream.once('end', () => {
      // Node also ends the body of a stream that was reset with NO_ERROR; `close` follows.
      if (!stream.aborted) this.#takeSink()?.end(this.#requestTrailers);
    });
  }

  resumeBody(): void {
    this.#stream.resume();
  }

  discardBody(): void {
    this.#sink = undefined;
    this.#stream.resume();
    if (this.#isOver) this.#stopUpload();
  }

  sendContinue(): void {
    if (this.request.expectsContinue) this.interim(constants.HTTP_STATUS_CONTINUE, []);
  }

  /** @throws Error when HTTP/2 can't carry it */
  interim(status: number, headers: RawHeaders): void {
    if (this.#isOver || this.#hasAnswered || this.#stream.destroyed) return;
    this.#interims += 1;
    if (this.#interims > MAX_INTERIM) throw new Error(`the app sent more than ${MAX_INTERIM} interim answers`);
    this.#stream.additionalHeaders({ ...grouped(headers), ':status': status });
  }

  /** @throws Error when HTTP/2 can't carry it */
  head({ status, headers, bodyLength }: AnswerHead): void {
    if (this.#isOver || this.#stream.destroyed) return;
    const raw = [':status', String(status), ...lowered(headers)];
    // Trailers cost a frame, so that they are only waited for where there can be any.
    const options = { ...RESPOND, endStream: bodyLength === 0, waitForTrailers: bodyLength === undefined };
    try {
      this.#stream.respond(raw, options);
    } catch (error) {
      // A head that got half way leaves nothing to say.
      if (this.#stream.headersSent) this.failed(new Error('half a head'));
      throw error;
    }
    this.#hasAnswered = true;
  }

  data(chunk: Buffer): boolean {
    const stream = this.#stream;
    return this.#isOver || stream.destroyed || stream.writableEnded || stream.write(Buffer.from(chunk));
  }

  end(trailers: RawHeaders): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#answerTrailers = trailers;
    const stream = this.#stream;
    stream.end();
    if (this.#sink === undefined && this.request.hasBody) this.#stopUpload();
  }

  failed(error: Error): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#takeSink();
    this.#cut(resetCodeOf(error));
  }

  onGone(listener: () => void): void {
    this.#onGone = listener;
    if (this.#isGone) listener();
  }

  onDrain(listener: () => void): void {
    this.#onDrain = listener;
  }

  #closed(): void {
    const sink = this.#takeSink();
    if (!this.#isOver) {
      this.#isOver = true;
      this.#isGone = true;
      this.#onGone?.();
    }
    sink?.abort();
  }

  #takeSink(): BodySink | undefined {
    const sink = this.#sink;
    this.#sink = undefined;
    return sink;
  }

  #sendTrailers(): void {
    try {
      this.#stream.sendTrailers(grouped(this.#answerTrailers));
    } catch {
      this.#cut(constants.NGHTTP2_INTERNAL_ERROR);
    }
  }

  #cut(code: number): void {
    this.#isCut = true;
    reset(this.#stream, code);
  }

  /** Once a whole answer went out and nobody wants the rest of the request (RFC 9113 §8.1). */
  #stopUpload(): void {
    const stream = this.#stream;
    if (stream.readableEnded || stream.closed || stream.destroyed) return;
    // A reset overtakes what nghttp2 has not sent yet, so that it waits for the stream's end to be on its way.
    if (stream.writableFinished && stream.state.localClose === 1) stream.close(constants.NGHTTP2_NO_ERROR);
    else if (stream.writableFinished) setImmediate(() => this.#stopUpload());
    else stream.once('finish', () => this.#stopUpload());
  }
}

/** The app's own `Date` is passed on, and no other is made up. Node takes the option, its types do not know it. */
const RESPOND = { sendDate: false };
