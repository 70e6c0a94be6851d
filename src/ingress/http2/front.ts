/**
 * HTTP/2 towards clients: one session per secure connection, each request handed on as a `ClientSide`.
 *
 * Hostile clients are bounded here and in nghttp2: streams per connection, header lists and CONTINUATION frames, unread
 * acknowledgements, invalid frames, and streams that are opened only to be reset (CVE-2023-44487). What a client sends and
 * nobody reads yet is bounded by its windows.
 * Invariant: every session is owned here and ends with its connection, when it was idle too long, or when shut down.
 */
import { constants, performServerHandshake, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { type Clock, type Logger, messageOf, Pace } from '../../lib/index.ts';
import type { Arrival } from '../doors.ts';
import type { RequestHead } from '../exchange.ts';
import type { Limits } from '../limits.ts';
import { serverNameOf } from '../terminator.ts';
import { Http2Client } from './client.ts';
import { isTooLarge, nativeLimits, requestHeadOf } from './head.ts';

/** One request, admitted by nobody yet. Whoever takes it answers it, whatever happens. */
export type ExchangeTaker = (client: Http2Client, arrival: Arrival, serverName: string | undefined) => void;

export interface Http2FrontOptions {
  readonly limits: Limits;
  readonly clock: Clock;
  readonly log: Logger;
  readonly take: ExchangeTaker;
  /** Answers what can't be taken for a request. */
  readonly refuse: (client: Http2Client, status: 400 | 431) => void;
}

/** Streams of one connection at a time; what browsers and gRPC clients find elsewhere. */
const STREAMS = 128;
/** Streams that a client may break off: twice all it can have at once, and half of that every second. */
const RESETS = { burst: 2 * STREAMS, perSecond: STREAMS / 2 };
/** Of one stream; a connection's own window is a few of these, so that one slow stream does not stop the others. */
const STREAM_WINDOW = 256 * 1024;
const CONNECTION_WINDOW = 1024 * 1024;
/** A client that was told to go gets this long to close its connection. */
const LINGER_MS = 5000;

export class Http2Front {
  readonly #options: Http2FrontOptions;
  readonly #sessions = new Set<Session>();

  constructor(options: Http2FrontOptions) {
    this.#options = options;
  }

  take(socket: TLSSocket, arrival: Arrival): void {
    const session = new Session(socket, arrival, this.#options);
    this.#sessions.add(session);
    socket.once('close', () => {
      this.#sessions.delete(session);
      session.closed();
    });
  }

  /** Tells every client to open no more streams; those under way go on. */
  shut(): void {
    for (const session of this.#sessions) session.close();
  }

  /** The same for those of one microVM, whose connections are about to be cut. Resolves when they could be told. */
  async forget(microvmId: string): Promise<void> {
    let any = false;
    for (const session of this.#sessions) {
      if (session.microvmId !== microvmId) continue;
      any = true;
      session.close();
    }
    // Node writes what is queued in this turn of the event loop.
    if (any) await new Promise((resolve) => setImmediate(resolve));
  }
}

class Session {
  readonly microvmId: string | undefined;
  readonly #socket: TLSSocket;
  readonly #arrival: Arrival;
  readonly #options: Http2FrontOptions;
  readonly #session: ServerHttp2Session;
  readonly #resets: Pace;
  #streams = 0;
  #timer: Disposable | undefined;

  constructor(socket: TLSSocket, arrival: Arrival, options: Http2FrontOptions) {
    const { limits, clock } = options;
    this.#socket = socket;
    this.#arrival = arrival;
    this.#options = options;
    this.#resets = new Pace({ ...RESETS, now: () => clock.monotonicMs() });
    const name = serverNameOf(socket);
    const destination = arrival.destinationOf(name, name);
    this.microvmId = destination.kind === 'microvm' ? destination.microvmId : undefined;
    const { listSize, listPairs } = nativeLimits(limits);
    this.#session = performServerHandshake(socket, {
      settings: {
        maxConcurrentStreams: STREAMS,
        maxHeaderListSize: listSize,
        initialWindowSize: STREAM_WINDOW,
        enableConnectProtocol: false,
      },
      maxHeaderListPairs: listPairs,
      // A net under ours, which sees resets only when all that was read at once has been taken apart.
      streamResetBurst: 16 * RESETS.burst,
      streamResetRate: 16 * RESETS.perSecond,
      strictSingleValueFields: false,
    });
    this.#session.setLocalWindowSize(CONNECTION_WINDOW);
    this.#session.setTimeout(limits.silentMs, () => this.#session.destroy());
    this.#session.on('error', (error) => options.log.debug({ error: messageOf(error) }, 'HTTP/2 session failed'));
    this.#session.on('stream', (stream, _headers, _flags, raw) => this.#onStream(stream, raw));
    this.#waitFor(limits.headersMs);
  }

  close(): void {
    if (!this.#session.closed) this.#session.close();
    if (this.#streams === 0) this.#cutLater();
  }

  closed(): void {
    this.#timer?.[Symbol.dispose]();
  }

  #onStream(stream: ServerHttp2Stream, raw: readonly string[]): void {
    this.#streams += 1;
    this.#timer?.[Symbol.dispose]();
    const head = isTooLarge(raw, this.#options.limits) ? 431 : (requestHeadOf(raw, stream.endAfterHeaders) ?? 400);
    const client = new Http2Client(stream, typeof head === 'number' ? noRequest(stream) : head);
    stream.once('close', () => this.#ended(client.wasCutByClient));
    if (stream.destroyed) return;
    if (typeof head === 'number') this.#options.refuse(client, head);
    else this.#options.take(client, this.#arrival, serverNameOf(this.#socket));
  }

  #ended(wasted: boolean): void {
    this.#streams -= 1;
    if (wasted && !this.#session.destroyed && this.#resets.take(1) > 0) {
      this.#options.log.debug({ microvmId: this.microvmId }, 'HTTP/2 client resets too many streams');
      this.#session.destroy(new Error('too many resets'), constants.NGHTTP2_ENHANCE_YOUR_CALM);
      this.#cutLater();
      return;
    }
    if (this.#streams > 0) return;
    if (this.#session.closed) this.#cutLater();
    else this.#waitFor(this.#options.limits.keepAliveMs);
  }

  /** A connection without a request is closed then, whatever bytes come meanwhile. */
  #waitFor(idleMs: number): void {
    this.#timer = this.#options.clock.after(idleMs, () => this.close());
  }

  #cutLater(): void {
    this.#timer?.[Symbol.dispose]();
    this.#timer = this.#options.clock.after(LINGER_MS, () => this.#socket.destroy());
  }
}

/** Stands for what is refused unseen. */
function noRequest(stream: ServerHttp2Stream): RequestHead {
  const hasBody = !stream.endAfterHeaders;
  const nothing = { method: 'GET', path: '/', headers: [], bodyLength: undefined, expectsContinue: false };
  return { protocol: 'h2', hasBody, ...nothing };
}
