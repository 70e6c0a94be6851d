/**
 * `rekindle tunnel`: a TCP port of this host that leads into a microVM, each connection in a WebSocket of its own
 * (docs/ENDPOINT.md).
 *
 * Invariant: the port goes on listening whatever becomes of one connection; the next wakes a microVM that was suspended.
 */
import { createServer, type Server, type Socket } from 'node:net';
import type { Environment } from '../../config.ts';
import { CLOSE, carryBytes, messageOf, TUNNEL_PROTOCOL } from '../../lib/index.ts';
import { tokenHeaders } from '../endpoint.ts';
import { openEndpointSocket, SocketRefused } from '../endpoint-socket.ts';
import { CliError, EXIT } from '../exit.ts';
import { type CommonOptions, openSession, type Session } from '../session.ts';
import { readCa } from '../target.ts';

const HOST = '127.0.0.1';
const TOKEN_MINUTES = 60;
/** A token is judged when a connection begins, so one that is about to expire is not used any more. */
const TOKEN_USED_MS = 50 * 60_000;

export interface Route {
  /** 0: any free one. */
  readonly localPort: number;
  readonly port: number;
}

/** Runs until Ctrl-C or SIGTERM. @returns 0 then. @throws CliError when the port is taken, or the microVM ended */
export async function tunnel(
  microvmId: string,
  spec: string,
  options: CommonOptions,
  env: Environment,
): Promise<number> {
  const route = routeOf(spec);
  const session = await openSession(options, env);
  const { terminal } = session;
  const over = new AbortController();
  const stop = () => over.abort();
  process.on('SIGINT', stop).on('SIGTERM', stop);
  try {
    const way = new Way(session, microvmId, route.port);
    // A microVM that is not there, or a refusal, is told before anybody connects.
    await way.headers();
    await using listener = await listen(route.localPort);
    const address = `${HOST}:${listener.port}`;
    terminal.json({ microvmId, address, port: route.port });
    terminal.say(`${address} leads to port ${route.port} of ${microvmId}; Ctrl-C ends it`);
    const ended = Promise.withResolvers<void>();
    over.signal.addEventListener('abort', () => ended.resolve(), { once: true });
    let number = 0;
    listener.server.on('connection', (socket) => {
      number += 1;
      const name = `connection ${number}`;
      way.carry(socket, over.signal).then(
        (broken) => broken !== undefined && !over.signal.aborted && terminal.note(`${name}: ${broken}`),
        (error: unknown) => ended.reject(error),
      );
    });
    await ended.promise;
    return EXIT.ok;
  } finally {
    over.abort();
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
}

/** @throws CliError usage */
export function routeOf(spec: string): Route {
  const [, local = '', remote = ''] = /^(\d{1,5}):(\d{1,5})$/.exec(spec) ?? [];
  const route = { localPort: Number(local), port: Number(remote) };
  if (remote === '' || route.localPort > 65_535 || route.port > 65_535 || route.port === 0) {
    throw new CliError(
      `A tunnel is <local>:<port>, such as 15432:5432 (0 for any free one), not "${spec}".`,
      EXIT.usage,
    );
  }
  return route;
}

/** The way into one port of one microVM. */
class Way {
  readonly #session: Session;
  readonly #microvmId: string;
  readonly #port: number;
  #token: { readonly headers: Promise<Record<string, string>>; readonly usedUntil: number } | undefined;

  constructor(session: Session, microvmId: string, port: number) {
    this.#session = session;
    this.#microvmId = microvmId;
    this.#port = port;
  }

  /** With a token that still lives for a while; asked for once, however many connections wait. */
  headers(): Promise<Record<string, string>> {
    if (this.#token === undefined || performance.now() > this.#token.usedUntil) {
      const headers = tokenHeaders(this.#session.client, this.#microvmId, { port: this.#port, minutes: TOKEN_MINUTES });
      const token = { headers, usedUntil: performance.now() + TOKEN_USED_MS };
      headers.catch(() => this.#forget(token));
      this.#token = token;
    }
    return this.#token.headers;
  }

  /** Carries one connection to its end. @returns what went wrong with it. @throws CliError when the microVM is over */
  async carry(local: Socket, signal: AbortSignal): Promise<string | undefined> {
    local.on('error', () => {});
    const onAbort = () => local.destroy();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      const socket = await this.#connect(signal);
      signal.addEventListener('abort', () => socket.terminate(), { once: true });
      if (local.destroyed) {
        socket.terminate();
        return undefined;
      }
      const closed = new Promise<string | undefined>((resolve) => {
        socket.once('close', (code, reason) => {
          const isDone = code === CLOSE.done || local.destroyed;
          resolve(isDone ? undefined : reason.toString() || `the connection was lost (${code})`);
        });
      });
      carryBytes(socket, local);
      return await closed;
    } catch (error) {
      local.resetAndDestroy();
      if (signal.aborted) return undefined;
      if (await this.#isOver()) throw new CliError(`${this.#microvmId} is TERMINATED.`, EXIT.failed, { cause: error });
      return messageOf(error);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #connect(signal: AbortSignal) {
    const { client, target } = this.#session;
    const { endpoint = '' } = await client.getMicrovm({ microvmIdentifier: this.#microvmId });
    const open = async () =>
      openEndpointSocket({
        endpoint,
        path: '/',
        headers: await this.headers(),
        protocols: [TUNNEL_PROTOCOL],
        ca: readCa(target),
        signal,
      });
    try {
      return await open();
    } catch (error) {
      if (!(error instanceof SocketRefused) || error.status !== 403) throw error;
      // A server whose keys were changed takes no older token.
      this.#token = undefined;
      return await open();
    }
  }

  async #isOver(): Promise<boolean> {
    try {
      return (await this.#session.client.getMicrovm({ microvmIdentifier: this.#microvmId })).state === 'TERMINATED';
    } catch {
      return false;
    }
  }

  #forget(token: object): void {
    if (this.#token === token) this.#token = undefined;
  }
}

interface Listener extends AsyncDisposable {
  readonly server: Server;
  readonly port: number;
}

/** @throws CliError when the port is taken */
function listen(port: number): Promise<Listener> {
  const server = createServer({ allowHalfOpen: true, noDelay: true });
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(new CliError(`${HOST}:${port} cannot be listened on: ${error.code ?? error.message}.`)),
    );
    server.listen({ host: HOST, port }, () => {
      const address = server.address();
      resolve({
        server,
        port: typeof address === 'object' && address !== null ? address.port : port,
        [Symbol.asyncDispose]: () => new Promise((closed) => void server.close(() => closed())),
      });
    });
  });
}
