/**
 * The host's end of one agent's link: keeps a session up and turns calls into streams.
 *
 * Invariant: at most one socket at a time; a session that died is replaced with the same secret, and only when that fails
 * does `closed` resolve. Streams of a dead session fail, except the two long ones (`waitApp`, followed logs), which go on
 * in the next.
 */
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { MachineError, Pace, sleep, withDeadline } from '../lib/index.ts';
import {
  booleanField,
  bytesField,
  exitCodeField,
  integerField,
  readAnswer,
  readExec,
  readLog,
  statusOf,
} from './answers.ts';
import { sealFor } from './credentials.ts';
import type { ContainerStart, ExecRequest, GuestLink, GuestLog, LinkOptions } from './link.ts';
import { Mux } from './mux.ts';
import type { MuxStream } from './mux-stream.ts';
import { openSession, type Session } from './session.ts';
import { GuestShell, type TerminalSize } from './shell.ts';

/** An agent that runs answers a preamble within a few ms; right after a restore every instruction runs for the first time. */
const PATIENCE_MS = 300;
const PATIENCE_RESTORED_MS = 1000;
/** Somebody waits and nothing at all was heard: ask, then give the session up. A starved guest may be silent for seconds. */
const SILENCE_ASK_MS = 2000;
const SILENCE_END_MS = 10_000;
const WATCH_INTERVAL_MS = 1000;
const REOPEN_TIMEOUT_MS = 15_000;
/** A session that ends sooner than this counts as a failed one; so many in a row end the link. */
const SHORT_SESSION_MS = 2000;
const MAX_SHORT_SESSIONS = 5;
/** A broken rule may be bytes lost around a reconnect. A few in the life of a link may, not more. */
const MAX_VIOLATIONS = 5;
/** Without its answer for so long, whatever else comes: an agent that lives answers. */
const PING_END_MS = 60_000;
/** What decoding frames may cost: a tenth of a core, and far more than anything but a flood needs. */
const FRAMES = { perSecond: 20_000, burst: 40_000 };
/** Lines are parsed and kept: the agent holds the newest 1 MiB of them, so a slower reader misses what a flood pushed out. */
const LOG_BYTES = { perSecond: 2 * 1024 * 1024, burst: 8 * 1024 * 1024 };

type CallOptions = { timeoutMs: number; signal?: AbortSignal };

/** Opens the link. @throws MachineError `timeout`, `failed`, `unsupported`, `protocol`; the signal's reason */
export async function openLink(options: LinkOptions): Promise<GuestLink> {
  const session = await openSession({
    socketPath: options.socketPath,
    secret: options.secret,
    restore: options.restore,
    deadlineAt: performance.now() + options.timeoutMs,
    patienceMs: options.patienceMs ?? (options.restore === undefined ? PATIENCE_MS : PATIENCE_RESTORED_MS),
    signal: options.signal,
  });
  return new AgentLink(options.socketPath, options.restore?.nextSecret ?? options.secret, session);
}

class AgentLink implements GuestLink {
  readonly generation: number;
  readonly closed: Promise<Error>;
  readonly #socketPath: string;
  readonly #secret: string;
  readonly #closing = Promise.withResolvers<Error>();
  readonly #abort = new AbortController();
  readonly #watch: NodeJS.Timeout;
  #socket: Socket;
  #mux: Mux;
  #openedAt = 0;
  #shortSessions = 0;
  #violations = 0;
  readonly #framePace = new Pace(FRAMES);
  readonly #logPace = new Pace(LOG_BYTES);
  /** While a session is being replaced: the next one. */
  #reopening: Promise<Mux> | undefined;
  #error: Error | undefined;
  /** For how long, as seen once a second, somebody has waited for the agent. */
  #waitingSince: number | undefined;

  constructor(socketPath: string, secret: string, session: Session) {
    this.#socketPath = socketPath;
    this.#secret = secret;
    this.generation = session.generation;
    this.closed = this.#closing.promise;
    this.#socket = session.socket;
    this.#mux = this.#attach(session);
    this.#watch = setInterval(() => this.#checkSilence(), WATCH_INTERVAL_MS).unref();
  }

  async ping({ timeoutMs, signal }: CallOptions): Promise<number> {
    return withDeadline('the ping of the agent', timeoutMs, () => this.#repeat((mux) => mux.ping()), { signal });
  }

  async mountRoot(options: CallOptions): Promise<{ usedBytes: number }> {
    const answer = await this.#call({ op: 'root.mount', disk: 'root', check: true }, options);
    return { usedBytes: integerField(answer, 'usedBytes', { min: 0, max: 2 ** 50 }) };
  }

  async startContainer(start: ContainerStart, options: CallOptions): Promise<void> {
    const { argv, env, cwd, user, capabilities } = start;
    await this.#call({ op: 'container.start', argv, env, cwd, user, capabilities }, options);
  }

  async waitApp({ signal }: { signal?: AbortSignal }): Promise<{ exitCode: number }> {
    return this.#repeat(async (mux) => {
      signal?.throwIfAborted();
      const stream = await this.#open(mux, { op: 'container.wait' }, signal);
      return { exitCode: exitCodeField(await readAll(stream, readAnswer, signal)) };
    });
  }

  async setClock(wallClockMs: () => number, { timeoutMs, signal }: CallOptions): Promise<number> {
    return withDeadline(
      'clock in the guest',
      timeoutMs,
      async (bounded) => {
        const mux = await this.#session();
        const target = Math.round(wallClockMs());
        const answer = await readAll(
          await this.#open(mux, { op: 'clock', wallClockMs: target }, bounded),
          readAnswer,
          bounded,
        );
        return integerField(answer, 'beforeMs', { min: -(2 ** 50), max: 2 ** 50 }) - target;
      },
      { signal },
    );
  }

  async appStatus(options: CallOptions) {
    return statusOf(await this.#call({ op: 'container.status' }, options));
  }

  async isListening(port: number, options: CallOptions): Promise<boolean> {
    return booleanField(await this.#call({ op: 'listening', port }, options), 'listening');
  }

  async setCredentials(document: Buffer, options: CallOptions): Promise<{ erasesFreed: boolean }> {
    return withDeadline(
      'pushing credentials to the guest',
      options.timeoutMs,
      async (signal) => {
        const bounded = { timeoutMs: options.timeoutMs, signal };
        const offer = await this.#call({ op: 'credentials.offer' }, bounded);
        const { key, sealed } = sealFor(bytesField(offer, 'key', 32), document);
        const push = { op: 'credentials.set', key: key.toString('base64'), sealed: sealed.toString('base64') };
        await this.#call(push, bounded);
        return { erasesFreed: booleanField(offer, 'erasesFreed') };
      },
      { signal: options.signal },
    );
  }

  async clearCredentials(options: CallOptions): Promise<void> {
    await this.#call({ op: 'credentials.clear' }, options);
  }

  async quiesce({ dropCaches, ...options }: { dropCaches: boolean } & CallOptions): Promise<void> {
    await this.#call({ op: 'quiesce', dropCaches }, options);
  }

  async exec(
    request: ExecRequest,
    { onOutput, timeoutMs, signal }: { onOutput(chunk: Buffer): void } & CallOptions,
  ): Promise<{ exitCode: number }> {
    const { argv, env, cwd } = request;
    return withDeadline(
      `${argv[0]} in the guest`,
      timeoutMs,
      async (bounded) => {
        const stream = await this.#open(await this.#session(), { op: 'exec', argv, env, cwd }, bounded);
        return readAll(stream, (s) => readExec(s, onOutput), bounded);
      },
      { signal },
    );
  }

  async *logs(options: { cursor?: number; follow?: boolean; signal?: AbortSignal }): AsyncIterable<GuestLog> {
    const { follow = false, signal } = options;
    let cursor = options.cursor ?? 0;
    for (;;) {
      const mux = await this.#session();
      try {
        const stream = await this.#open(mux, { op: 'logs', cursor, follow }, signal);
        const onAbort = () => stream.destroy(asError(signal?.reason));
        signal?.addEventListener('abort', onAbort, { once: true });
        try {
          for await (const line of readLog(stream, (bytes) => this.#logRest(bytes, signal))) {
            cursor = line.cursor + 1;
            yield line;
          }
        } finally {
          signal?.removeEventListener('abort', onAbort);
          stream.destroy();
        }
        return;
      } catch (error) {
        if (signal?.aborted) return;
        if (!mux.isOver) throw error;
      }
    }
  }

  async tunnel(port: number, { timeoutMs, signal }: CallOptions): Promise<Duplex> {
    return withDeadline(
      `the connection to port ${port}`,
      timeoutMs,
      (bounded) => this.#repeat((mux) => this.#open(mux, { op: 'tunnel', port }, bounded)),
      { signal },
    );
  }

  async shell({ cols, rows }: TerminalSize, { timeoutMs, signal }: CallOptions): Promise<GuestShell> {
    return withDeadline(
      'the shell in the guest',
      timeoutMs,
      async (bounded) => {
        const mux = await this.#session();
        try {
          return new GuestShell(await this.#open(mux, { op: 'shell', cols, rows }, bounded));
        } catch (error) {
          // The request is right, so who calls it wrong has never heard of it.
          const isUnknown = error instanceof MachineError && error.kind === 'protocol' && !mux.isOver;
          throw isUnknown
            ? new MachineError('unsupported', 'the image was built before shells were possible: rebuild it')
            : error;
        }
      },
      { signal },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end(new MachineError('failed', 'the link was closed'));
  }

  async #call(request: object, { timeoutMs, signal }: CallOptions): Promise<Readonly<Record<string, unknown>>> {
    const { op } = request as { op: string };
    return withDeadline(
      `${op} in the guest`,
      timeoutMs,
      async (bounded) => {
        const stream = await this.#open(await this.#session(), request, bounded);
        return readAll(stream, readAnswer, bounded);
      },
      { signal },
    );
  }

  /** For what may be done twice: goes on in the next session when the one it was begun in died. */
  async #repeat<T>(work: (mux: Mux) => Promise<T>): Promise<T> {
    for (;;) {
      const mux = await this.#session();
      try {
        return await work(mux);
      } catch (error) {
        if (!mux.isOver) throw error;
      }
    }
  }

  /** Opens a stream and waits until the agent took it. */
  async #open(mux: Mux, request: object, signal: AbortSignal | undefined): Promise<MuxStream> {
    signal?.throwIfAborted();
    const stream = mux.open(request);
    const onAbort = () => stream.destroy(asError(signal?.reason));
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      await stream.accepted;
      return stream;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  async #session(): Promise<Mux> {
    if (this.#error !== undefined) throw this.#error;
    return this.#reopening ?? this.#mux;
  }

  #attach(session: Session): Mux {
    const { socket } = session;
    const mux = new Mux(socket, { side: 'host' });
    this.#socket = socket;
    this.#mux = mux;
    this.#openedAt = performance.now();
    socket.on('error', (error) => mux.fail(new MachineError('exited', `the link broke: ${error.message}`)));
    socket.on('close', () => mux.fail(new MachineError('exited', 'the link was closed by the VMM')));
    session.onBytes((chunk) => this.#take(mux, socket, chunk));
    mux.ended.then((error) => this.#sessionEnded(mux, error));
    mux.receive(session.rest);
    return mux;
  }

  /** A flood of frames is read at a rate; only its own guest waits. */
  #take(mux: Mux, socket: Socket, chunk: Buffer): boolean {
    const waitMs = this.#framePace.take(mux.receive(chunk));
    if (waitMs === 0) return true;
    mux.isHeldBack = true;
    setTimeout(() => {
      mux.isHeldBack = false;
      mux.heardAt = performance.now();
      if (!mux.isOver) socket.resume();
    }, waitMs).unref();
    return false;
  }

  #logRest(bytes: number, signal: AbortSignal | undefined): Promise<void> | undefined {
    const waitMs = this.#logPace.take(bytes);
    return waitMs === 0 ? undefined : sleep(waitMs, { signal });
  }

  #sessionEnded(mux: Mux, error: Error): void {
    if (mux !== this.#mux || this.#error !== undefined) return;
    this.#socket.destroy();
    if (error instanceof MachineError && error.kind === 'protocol') this.#violations += 1;
    const isShort = performance.now() - this.#openedAt < SHORT_SESSION_MS;
    this.#shortSessions = isShort ? this.#shortSessions + 1 : 0;
    if (this.#shortSessions >= MAX_SHORT_SESSIONS || this.#violations >= MAX_VIOLATIONS) this.#end(error);
    else {
      this.#reopening = this.#reopen(error);
      this.#reopening.catch(() => {});
    }
  }

  async #reopen(reason: Error): Promise<Mux> {
    try {
      const session = await openSession({
        socketPath: this.#socketPath,
        secret: this.#secret,
        deadlineAt: performance.now() + REOPEN_TIMEOUT_MS,
        patienceMs: PATIENCE_MS,
        signal: this.#abort.signal,
      });
      this.#reopening = undefined;
      return this.#attach(session);
    } catch (error) {
      const last = reason instanceof MachineError ? reason : asError(error);
      this.#end(last);
      throw last;
    }
  }

  #checkSilence(): void {
    const mux = this.#mux;
    if (this.#reopening !== undefined || mux.isOver || mux.isHeldBack || !mux.isWaiting) {
      this.#waitingSince = undefined;
      return;
    }
    // A guest that nobody asked anything is silent by right.
    this.#waitingSince ??= performance.now();
    const silentMs = performance.now() - Math.max(mux.heardAt, this.#openedAt, this.#waitingSince);
    if (mux.unansweredMs > PING_END_MS) mux.fail(new MachineError('timeout', 'the agent answers no ping'));
    else if (silentMs > SILENCE_END_MS) mux.fail(new MachineError('timeout', 'the agent is silent'));
    else if (silentMs > SILENCE_ASK_MS && mux.unansweredMs === 0) mux.ping().catch(() => {});
  }

  #end(error: Error): void {
    if (this.#error !== undefined) return;
    this.#error = error;
    clearInterval(this.#watch);
    this.#abort.abort(error);
    this.#mux.fail(error);
    this.#socket.on('error', () => {});
    this.#socket.destroy();
    this.#closing.resolve(error);
  }
}

/** Reads a call's stream to its end and closes it either way. */
async function readAll<T>(
  stream: MuxStream,
  read: (stream: MuxStream) => Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  const onAbort = () => stream.destroy(asError(signal?.reason));
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    const value = await read(stream);
    stream.end();
    return value;
  } finally {
    signal?.removeEventListener('abort', onAbort);
    if (!stream.writableEnded) stream.destroy();
  }
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason ?? 'aborted'));
}
