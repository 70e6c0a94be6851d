/**
 * HTTP/2 sessions into one port of one machine, shared by requests.
 *
 * A session counts as standing once the app's SETTINGS came: an app that does not speak HTTP/2 is found out before any
 * request was sent to it. The guest is hostile: header lists, settings, pushes and unread acknowledgements are bounded by
 * nghttp2, and no session outlives the pool.
 */
import { type ClientHttp2Session, connect as http2Connect } from 'node:http2';
import type { Duplex } from 'node:stream';
import { type Clock, MachineError, messageOf } from '../../lib/index.ts';
import { type HeadLimits, nativeLimits } from './head.ts';
import { Shielded } from './shielded.ts';

export interface SessionPoolOptions extends HeadLimits {
  /** Opens a byte stream on which the app expects HTTP/2. */
  readonly connect: (signal: AbortSignal) => Promise<Duplex>;
  readonly clock: Clock;
}

/** Connecting has a bound of its own; an app whose guest is slow may take as long again. */
const CONNECT_MS = 120_000;
const IDLE_MS = 30_000;
/** What most servers allow; beyond it another session is opened. */
const STREAMS_PER_SESSION = 100;
/** Beyond them, requests queue in the sessions there are. */
const MAX_SESSIONS = 16;
const STREAM_WINDOW = 256 * 1024;
const SESSION_WINDOW = 1024 * 1024;

export class SessionPool implements Disposable {
  readonly #options: SessionPoolOptions;
  readonly #sessions = new Set<PooledSession>();
  readonly #over = new AbortController();
  #opening: Promise<PooledSession> | undefined;

  constructor(options: SessionPoolOptions) {
    this.#options = options;
  }

  /** A session with room for a request, or (when there are as many as may be) the least busy one. @throws MachineError, Error */
  async take(signal: AbortSignal): Promise<PooledSession> {
    for (;;) {
      signal.throwIfAborted();
      const session = this.#best();
      if (session !== undefined && (session.hasRoom || this.#sessions.size >= MAX_SESSIONS)) return session;
      // Many requests at once wait for one session; those that find no room in it open the next.
      this.#opening ??= this.#open().finally(() => {
        this.#opening = undefined;
      });
      await abortable(this.#opening, signal);
    }
  }

  [Symbol.dispose](): void {
    this.#over.abort(new MachineError('exited', 'the machine is gone'));
    for (const session of this.#sessions) session.destroy();
  }

  #best(): PooledSession | undefined {
    let best: PooledSession | undefined;
    for (const session of this.#sessions) if (best === undefined || session.active < best.active) best = session;
    return best;
  }

  async #open(): Promise<PooledSession> {
    const { clock } = this.#options;
    const deadline = new AbortController();
    using _timer = clock.after(CONNECT_MS, () =>
      deadline.abort(new MachineError('timeout', `the app did not agree to HTTP/2 within ${CONNECT_MS} ms`)),
    );
    const signal = AbortSignal.any([deadline.signal, this.#over.signal]);
    const stream = await this.#options.connect(signal);
    const session = new PooledSession(stream, this.#options);
    try {
      await abortable(session.standing, signal);
    } catch (error) {
      session.destroy();
      throw error;
    }
    this.#sessions.add(session);
    void session.over.then(() => this.#sessions.delete(session));
    return session;
  }
}

export class PooledSession {
  readonly session: ClientHttp2Session;
  readonly limits: HeadLimits;
  /** Resolves with the app's first SETTINGS. */
  readonly standing: Promise<void>;
  /** Resolves when no new stream may be opened any more. */
  readonly over: Promise<void>;
  readonly #clock: Clock;
  readonly #stream: Shielded;
  readonly #cuts = new Set<() => void>();
  #idle: Disposable | undefined;
  #isOver = false;
  active = 0;
  /** An earlier request went through it, so that the app may be about to give it up. */
  wasUsed = false;

  constructor(tunnel: Duplex, options: SessionPoolOptions) {
    this.#clock = options.clock;
    const stream = new Shielded(tunnel);
    this.#stream = stream;
    this.limits = options;
    const { listSize, listPairs } = nativeLimits(options);
    const session = http2Connect('http://localhost', {
      createConnection: () => stream,
      settings: { enablePush: false, initialWindowSize: STREAM_WINDOW, maxHeaderListSize: listSize },
      maxHeaderListPairs: listPairs,
      ...LENIENT,
    });
    this.session = session;
    const standing = Promise.withResolvers<void>();
    const over = Promise.withResolvers<void>();
    this.standing = standing.promise;
    this.over = over.promise;
    // Nobody may be waiting any more when it fails.
    standing.promise.catch(() => {});
    session.once('remoteSettings', () => {
      session.setLocalWindowSize(SESSION_WINDOW);
      standing.resolve();
    });
    let failure: unknown;
    session.on('error', (error) => {
      failure = error;
    });
    const end = (why: string) => {
      standing.reject(new Error(`the app does not speak HTTP/2: ${failure === undefined ? why : messageOf(failure)}`));
      over.resolve();
      this.#isOver = true;
      if (this.active === 0) this.destroy();
    };
    session.once('goaway', () => end('it said goodbye'));
    session.once('close', () => end('it ended the session'));
    // The app said its last: what it answered in full may still be read, the rest will not come. Node takes what was handed
    // to it within this turn of the event loop.
    void stream.over.then(() =>
      setImmediate(() => {
        for (const cut of this.#cuts) cut();
        end('it closed the connection');
      }),
    );
  }

  get hasRoom(): boolean {
    const { maxConcurrentStreams = STREAMS_PER_SESSION } = this.session.remoteSettings;
    return this.active < Math.min(STREAMS_PER_SESSION, maxConcurrentStreams);
  }

  /** A request begins; `cut` is called when no more can come of it. What it returns is called when it ended. */
  begin(cut: () => void): () => void {
    this.active += 1;
    this.wasUsed = true;
    this.#cuts.add(cut);
    this.#idle?.[Symbol.dispose]();
    return () => {
      this.active -= 1;
      this.#cuts.delete(cut);
      if (this.active > 0) return;
      if (this.#isOver) this.destroy();
      else this.#idle = this.#clock.after(IDLE_MS, () => this.destroy());
    };
  }

  destroy(): void {
    this.#idle?.[Symbol.dispose]();
    this.session.destroy();
    // A session that waits for its last frames to be taken would keep the tunnel.
    this.#stream.destroy();
  }
}

/** Headers pass as they are, repeated ones too. Node takes the option, its types know it for servers only. */
const LENIENT = { strictSingleValueFields: false };

function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  if (signal.aborted) return Promise.reject(signal.reason);
  const { promise: result, resolve, reject } = Promise.withResolvers<T>();
  const onAbort = () => reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  return result;
}
