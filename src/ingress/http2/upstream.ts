/**
 * An app that speaks HTTP/2, in the clear or inside TLS: each request is a stream of a shared session.
 *
 * Invariant: an answer counts as whole only when the app ended its stream itself; one that broke off, with whatever code,
 * is a failure.
 */
import { type ClientHttp2Stream, constants } from 'node:http2';
import { messageOf } from '../../lib/index.ts';
import type { AnswerSink, BodySink, Caller, Outgoing, RequestHead, Upstream } from '../exchange.ts';
import { pairsOf, type RawHeaders } from '../headers.ts';
import { grouped, isTooLarge, lowered, plainHeaders } from './head.ts';
import { reset, StreamReset } from './reset.ts';
import type { PooledSession, SessionPool } from './sessions.ts';

export class Http2Upstream implements Upstream {
  readonly #pool: SessionPool;
  readonly #scheme: 'http' | 'https';

  constructor(pool: SessionPool, scheme: 'http' | 'https') {
    this.#pool = pool;
    this.#scheme = scheme;
  }

  async send(head: RequestHead, headers: RawHeaders, answer: AnswerSink, caller: Caller): Promise<Outgoing> {
    const session = await this.#pool.take(caller.signal);
    return new Http2Outgoing(session, { head, headers: this.#headersFor(head, headers), answer });
  }

  #headersFor(head: RequestHead, headers: RawHeaders): string[] {
    let authority = '';
    const rest: string[] = [];
    for (const [name, value] of pairsOf(lowered(headers))) {
      if (name === 'host') authority = value;
      else rest.push(name, value);
    }
    // gRPC servers insist on it; it is the only value that HTTP/2 allows.
    if (wantsTrailers(head.headers)) rest.push('te', 'trailers');
    return [':method', head.method, ':scheme', this.#scheme, ':authority', authority, ':path', head.path, ...rest];
  }
}

function wantsTrailers(headers: RawHeaders): boolean {
  for (const [name, value] of pairsOf(headers)) {
    if (name.length === 2 && name.toLowerCase() === 'te' && /(?:^|,)[\t ]*trailers[\t ]*(?:[,;]|$)/i.test(value))
      return true;
  }
  return false;
}

class Http2Outgoing implements Outgoing {
  readonly body: BodySink;
  readonly #pooled: PooledSession;
  readonly #stream: ClientHttp2Stream;
  readonly #head: RequestHead;
  readonly #answer: AnswerSink;
  readonly #isReused: boolean;
  /** The answer ended, failed, or nobody wants it. */
  #isOver = false;
  #hasAnswered = false;
  /** The app ended its stream; Node ends the readable side of one that was reset too. */
  #isWhole = false;
  #error: Error | undefined;
  #onDrain: (() => void) | undefined;
  #requestTrailers: RawHeaders = [];
  #answerTrailers: RawHeaders = [];

  constructor(pooled: PooledSession, request: { head: RequestHead; headers: readonly string[]; answer: AnswerSink }) {
    const { head, headers, answer } = request;
    this.#pooled = pooled;
    this.#head = head;
    this.#answer = answer;
    this.#isReused = pooled.wasUsed;
    const waitForTrailers = head.hasBody && head.bodyLength === undefined;
    const stream = pooled.session.request(headers, { endStream: !head.hasBody, waitForTrailers });
    this.#stream = stream;
    stream.once(
      'close',
      pooled.begin(() => {
        if (!this.#isWhole) stream.destroy();
      }),
    );
    this.#watchEnd();
    stream.on('headers', ({ ':status': status = 0 }, _flags, raw) => this.#interim(status, raw));
    stream.once('response', ({ ':status': status = 0 }, flags, raw) => this.#respond(status, flags, raw));
    stream.once('trailers', (_headers, _flags, raw) => {
      this.#guard(() => this.#bounded(raw));
      this.#answerTrailers = raw;
    });
    stream.once('end', () => this.#end());
    stream.on('error', (error) => {
      this.#error = error;
    });
    stream.once('close', () => this.#closed());
    stream.on('drain', () => this.#onDrain?.());
    stream.once('wantTrailers', () => this.#sendTrailers());
    this.body = {
      data: (chunk) => stream.destroyed || stream.write(Buffer.from(chunk)),
      end: (trailers) => {
        this.#requestTrailers = trailers;
        stream.end();
      },
      abort: () => reset(stream, constants.NGHTTP2_CANCEL),
    };
  }

  onDrain(listener: () => void): void {
    this.#onDrain = listener;
  }

  resumeAnswer(): void {
    this.#stream.resume();
  }

  cancel(): void {
    this.#isOver = true;
    reset(this.#stream, constants.NGHTTP2_CANCEL);
  }

  /** The first end of the readable side comes from the app unless the stream is closed already. */
  #watchEnd(): void {
    const stream = this.#stream;
    const push = stream.push.bind(stream);
    stream.push = (chunk: unknown, encoding?: BufferEncoding) => {
      if (chunk === null && !stream.closed) this.#isWhole = true;
      return push(chunk, encoding);
    };
  }

  #interim(status: number, raw: RawHeaders): void {
    if (this.#isOver || status === 101) return;
    this.#guard(() => this.#answer.interim(status, this.#bounded(raw)));
  }

  #respond(status: number, flags: number, raw: RawHeaders): void {
    if (this.#isOver) return;
    this.#hasAnswered = true;
    const endsHere = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
    this.#guard(() => {
      const headers = this.#bounded(raw);
      const isEmpty = endsHere || isBodyless(this.#head.method, status);
      this.#answer.head({ status, reason: '', headers, bodyLength: isEmpty ? 0 : lengthOf(headers) });
    });
    // Not before: Node may tell of data first, and of the head it came after later.
    this.#stream.on('data', (chunk: Buffer) => {
      if (!this.#isOver && !this.#answer.data(chunk)) this.#stream.pause();
    });
  }

  /** @throws Error when there are too many headers, or too long ones */
  #bounded(raw: RawHeaders): RawHeaders {
    if (isTooLarge(raw, this.#pooled.limits)) throw new Error('the app sent too many or too long headers');
    return plainHeaders(raw);
  }

  #end(): void {
    if (this.#isOver || !this.#isWhole || !this.#hasAnswered) return;
    this.#isOver = true;
    this.#answer.end(this.#answerTrailers);
    // It may have answered without reading all of the request.
    if (!this.#stream.writableEnded) reset(this.#stream, constants.NGHTTP2_CANCEL);
  }

  #closed(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const { rstCode } = this.#stream;
    const { session } = this.#pooled;
    const error = session.destroyed && this.#error !== undefined ? this.#error : new StreamReset(rstCode);
    this.#answer.failed(error, !this.#hasAnswered && this.#mayRepeat(session.destroyed, rstCode));
  }

  /** Refused (RFC 9113 §8.7), or on a session that the app may have given up just before, and harmless to repeat. */
  #mayRepeat(sessionDied: boolean, rstCode: number): boolean {
    // A body is read as soon as there is a way for it, and can't be read again.
    if (this.#head.hasBody) return false;
    if (this.#stream.id === undefined || rstCode === constants.NGHTTP2_REFUSED_STREAM) return true;
    return sessionDied && this.#isReused && SAFE.has(this.#head.method);
  }

  /** What the client's side can't carry ends the exchange there and here. */
  #guard(pass: () => void): void {
    try {
      pass();
    } catch (error) {
      this.#isOver = true;
      reset(this.#stream, constants.NGHTTP2_CANCEL);
      this.#answer.failed(error instanceof Error ? error : new Error(messageOf(error)), false);
    }
  }

  #sendTrailers(): void {
    try {
      this.#stream.sendTrailers(grouped(this.#requestTrailers));
    } catch {
      reset(this.#stream, constants.NGHTTP2_CANCEL);
    }
  }
}

const SAFE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE']);

/** nghttp2 resets a stream that has one all the same. */
function isBodyless(method: string, status: number): boolean {
  return method === 'HEAD' || status === 204 || status === 304;
}

function lengthOf(headers: RawHeaders): number | undefined {
  for (const [name, value] of pairsOf(headers)) if (name === 'content-length') return Number(value);
  return undefined;
}
