/**
 * HTTP/1.1 into a guest: requests written to tunnels, answers read from them, tunnels kept for the next request.
 *
 * Invariant: a tunnel is used again only when request and answer both ended exactly where they said; anything else, and any
 * byte nobody asked for, ends it. So no answer can ever reach another request than its own.
 */
import type { Duplex } from 'node:stream';
import { type Clock, type DirectRead, directRead } from '../../lib/index.ts';
import type { Machine } from '../../microvms/index.ts';
import type { AnswerHead, AnswerSink, BodySink, Caller, Outgoing, RequestHead, Upstream } from '../exchange.ts';
import type { RawHeaders } from '../headers.ts';
import { Turn } from '../turns.ts';
import { AnswerReader, type AnswerTaker } from './answer.ts';
import { encodeChunk, lastChunk } from './body.ts';
import { checkCharacters, isToken, MalformedMessage, TARGET } from './head.ts';
import { type Keepable, Tunnels } from './tunnels.ts';

const MAX_ANSWER_HEAD_BYTES = 65_536;
const IDEMPOTENT = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE']);

export class Http1Upstreams implements Disposable {
  readonly #machine: Pick<Machine, 'connect'>;
  readonly #tunnels: Tunnels<Tunnel>;

  constructor(machine: Pick<Machine, 'connect'>, clock: Clock) {
    this.#machine = machine;
    this.#tunnels = new Tunnels(clock);
  }

  to(port: number): Upstream {
    return { send: (head, headers, answer, caller) => this.#send(port, head, headers, answer, caller) };
  }

  [Symbol.dispose](): void {
    this.#tunnels[Symbol.dispose]();
  }

  async #send(
    port: number,
    head: RequestHead,
    headers: RawHeaders,
    answer: AnswerSink,
    caller: Caller,
  ): Promise<Outgoing> {
    const text = encodeHead(head, headers);
    const { tunnel, isKept } = await this.#next(port, caller);
    tunnel.begin(head, text, answer, isKept);
    return tunnel;
  }

  /** One that another request has done with, or a fresh one. */
  async #next(port: number, caller: Caller): Promise<{ tunnel: Tunnel; isKept: boolean }> {
    const kept = this.#tunnels.take(port);
    if (kept !== undefined) return { tunnel: kept, isKept: true };
    const { signal } = caller;
    for (;;) {
      const got = await this.#tunnels.turns(port).next(signal);
      if (got instanceof Turn) return { tunnel: await this.#open(port, signal, got), isKept: false };
      if (signal.aborted) this.#tunnels.keep(port, got);
      signal.throwIfAborted();
      // Its app may have hung up just when it was handed over.
      if (!got.isGone) return { tunnel: got, isKept: true };
    }
  }

  async #open(port: number, signal: AbortSignal, turn: Turn): Promise<Tunnel> {
    try {
      const stream = await this.#machine.connect(port, { signal });
      if (signal.aborted) {
        stream.destroy();
        signal.throwIfAborted();
      }
      turn.opened();
      const tunnel = new Tunnel(stream, port, this.#tunnels, turn);
      this.#tunnels.add(tunnel);
      return tunnel;
    } catch (error) {
      turn[Symbol.dispose]();
      throw error;
    }
  }
}

/** One connection to an app. It is its own Outgoing: at most one exchange is under way in it. */
class Tunnel implements Outgoing, AnswerTaker, Keepable {
  readonly body: BodySink;
  readonly #stream: Duplex;
  readonly #port: number;
  readonly #pool: Tunnels<Tunnel>;
  readonly #reader: AnswerReader;
  readonly #direct: DirectRead | undefined;
  /** Until the app has said something. */
  #turn: Turn | undefined;
  /** The answer's taker had enough of what came. */
  #isFull = false;
  #answer: AnswerSink | undefined;
  #request: RequestHead | undefined;
  #wasKept = false;
  #hasHeard = false;
  #isSending = false;
  /** Of the body, when it has a length. */
  #left = 0;
  #onDrain: (() => void) | undefined;

  constructor(stream: Duplex, port: number, pool: Tunnels<Tunnel>, turn: Turn) {
    this.#turn = turn;
    this.#stream = stream;
    this.#port = port;
    this.#pool = pool;
    this.#reader = new AnswerReader(MAX_ANSWER_HEAD_BYTES, this);
    this.body = {
      data: (chunk) => this.#sendData(chunk),
      end: (trailers) => this.#sendEnd(trailers),
      abort: () => this.cancel(),
    };
    stream.on('drain', () => this.#onDrain?.());
    this.#direct = directRead(stream);
    if (this.#direct === undefined) {
      stream.on('data', (chunk: Buffer) => {
        if (!this.#received(chunk)) stream.pause();
      });
      stream.on('end', () => this.#ended());
    } else this.#direct.takeInto({ data: (part) => this.#received(part), end: () => this.#ended() });
    stream.on('error', (error) => this.#over(error));
    stream.on('close', () => this.#over(new Error('the app closed the connection')));
  }

  get isGone(): boolean {
    return this.#stream.destroyed;
  }

  get hintMs(): number | undefined {
    return this.#reader.hintMs;
  }

  /** Sends the head; `text` is its encoding. */
  begin(request: RequestHead, text: string, answer: AnswerSink, wasKept: boolean): void {
    this.#request = request;
    this.#answer = answer;
    this.#wasKept = wasKept;
    this.#hasHeard = false;
    this.#isSending = request.hasBody;
    this.#left = request.bodyLength ?? 0;
    this.#onDrain = undefined;
    this.#reader.begin(request.method, false);
    this.#stream.write(Buffer.from(text, 'latin1'));
  }

  onDrain(listener: () => void): void {
    this.#onDrain = listener;
  }

  resumeAnswer(): void {
    if (!this.#isFull) return;
    this.#isFull = false;
    if (this.#direct === undefined) this.#stream.resume();
    else this.#direct.resumeTaking();
  }

  cancel(): void {
    this.#answer = undefined;
    this.destroy();
  }

  destroy(): void {
    this.#endTurn();
    this.#pool.remove(this.#port, this);
    this.#stream.destroy();
  }

  interim(status: number, headers: RawHeaders): void {
    this.#answer?.interim(status, headers);
  }

  switched(): void {
    throw new MalformedMessage('a protocol nobody asked for');
  }

  head(head: AnswerHead): void {
    this.#answer?.head(head);
  }

  data(part: Buffer): void {
    if (this.#answer?.data(part) === false) this.#isFull = true;
  }

  /** The answer is whole. A body still under way goes on to an app that keeps the connection, else nobody wants it. */
  end(trailers: RawHeaders): void {
    const answer = this.#answer;
    this.#answer = undefined;
    if (!this.#reader.mayKeep) this.destroy();
    else if (!this.#isSending) this.#release();
    answer?.end(trailers);
  }

  #release(): void {
    this.resumeAnswer();
    this.#onDrain = undefined;
    this.#pool.keep(this.#port, this);
  }

  /** False when the answer's taker has had enough. */
  #received(chunk: Buffer): boolean {
    this.#hasHeard = true;
    if (this.#turn !== undefined) this.#endTurn();
    try {
      this.#reader.push(chunk);
    } catch (error) {
      this.#over(error instanceof Error ? error : new Error(String(error)));
    }
    return !this.#isFull;
  }

  #endTurn(): void {
    this.#turn?.[Symbol.dispose]();
    this.#turn = undefined;
  }

  #ended(): void {
    if (!this.#reader.close()) this.#over(new Error('the app closed the connection early'));
  }

  #over(error: Error): void {
    const answer = this.#answer;
    const method = this.#request?.method ?? '';
    this.#answer = undefined;
    this.destroy();
    // An app may close a connection it keeps just when the next request is on its way.
    const isStale = this.#wasKept && !this.#hasHeard && this.#request?.hasBody === false && IDEMPOTENT.has(method);
    if (isStale && answer !== undefined) this.#pool.dropIdle(this.#port);
    answer?.failed(error, isStale);
  }

  #sendData(chunk: Buffer): boolean {
    if (this.#stream.destroyed || chunk.length === 0) return true;
    if (this.#request?.bodyLength === undefined) return this.#stream.write(encodeChunk(chunk));
    this.#left -= chunk.length;
    if (this.#left >= 0) return this.#direct?.give(chunk) ?? this.#stream.write(Buffer.from(chunk));
    this.#over(new Error('the body is longer than its length'));
    return true;
  }

  #sendEnd(trailers: RawHeaders): void {
    if (this.#stream.destroyed) return;
    if (this.#request?.bodyLength === undefined) this.#stream.write(Buffer.from(lastChunk(trailers), 'latin1'));
    else if (this.#left > 0) return void this.#over(new Error('the body is shorter than its length'));
    this.#isSending = false;
    if (!this.#reader.isOpen) this.#release();
  }
}

/**
 * The head as the app gets it, its framing stated once.
 * @throws MalformedMessage for what another protocol let pass and HTTP/1.1 can't carry
 */
export function encodeHead(head: RequestHead, headers: RawHeaders): string {
  const { bodyLength, hasBody, method } = head;
  let lines = '';
  let hasLength = false;
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i] ?? '';
    if (name.length === 14 && name.toLowerCase() === 'content-length') {
      if (hasLength || bodyLength === undefined) continue;
      hasLength = true;
      lines += `${name}: ${bodyLength}\r\n`;
    } else lines += `${name}: ${headers[i + 1]}\r\n`;
  }
  if (hasBody && bodyLength === undefined) lines += 'Transfer-Encoding: chunked\r\n';
  else if (!hasLength && (hasBody || mayHaveBody(method))) lines += `Content-Length: ${bodyLength ?? 0}\r\n`;
  const text = `${method} ${head.path} HTTP/1.1\r\n${lines}\r\n`;
  if (head.protocol === 'h2') checkForeign(head, headers, text);
  return text;
}

function mayHaveBody(method: string): boolean {
  return method === 'POST' || method === 'PUT' || method === 'PATCH';
}

/** What the HTTP/1.1 parser has checked already. */
function checkForeign(head: RequestHead, headers: RawHeaders, text: string): void {
  checkCharacters(text);
  const isLine = isToken(head.method) && TARGET.test(head.path);
  if (!isLine || !headers.every((part, i) => (i % 2 === 0 ? isToken(part) : !LINE_END.test(part)))) {
    throw new MalformedMessage('a request that HTTP/1.1 cannot carry');
  }
}

const LINE_END = /[\r\n]/;
