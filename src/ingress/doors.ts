/**
 * Where connections come in. A door hands raw connections on together with an `Arrival`, which knows what microVM a
 * request of that connection is for; who parses what comes in need not know how doors are told apart.
 *
 * In port mode each microVM has a loopback port of its own: what a connection is for is settled before TLS and never
 * asked again, whatever names the client uses.
 * Invariant: every listener and raw connection is owned here; `close` and dispose end them.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { DomainError, type Logger, messageOf } from '../lib/index.ts';
import type { EndpointHost } from '../microvms/index.ts';
import type { Limits } from './limits.ts';

/** How a connection came in. */
export interface Arrival {
  /**
   * The microVM that a request is for; undefined when there is none.
   * `serverName` is what the TLS handshake named, `host` the request's `Host` or `:authority`.
   */
  microvmFor(serverName: string | undefined, host: string | undefined): string | undefined;
}

/** Takes every connection that came in. */
export type Taker = (socket: Socket, arrival: Arrival) => void;

export interface Doors extends EndpointHost, AsyncDisposable {
  /** Takes no more connections; those that are there go on. */
  shut(): void;
  /** Settles when no connection is left. */
  empty(): Promise<void>;
}

const HOST = '127.0.0.1';

interface Door {
  readonly server: Server;
  readonly port: number;
  readonly sockets: Set<Socket>;
}

export class PortDoors implements Doors {
  readonly #take: Taker;
  readonly #limits: Limits;
  readonly #log: Logger;
  readonly #doors = new Map<string, Door>();
  #isShut = false;

  constructor(take: Taker, options: { limits: Limits; log: Logger }) {
    this.#take = take;
    this.#limits = options.limits;
    this.#log = options.log;
  }

  async open(endpoint: { microvmId: string; port: number | null }): Promise<{ address: string; port: number }> {
    const { microvmId } = endpoint;
    if (this.#isShut) throw new DomainError('CONFLICT', 'The server is stopping.');
    const known = this.#doors.get(microvmId);
    if (known !== undefined) return addressOf(known.port);
    const sockets = new Set<Socket>();
    const arrival: Arrival = { microvmFor: () => (this.#doors.has(microvmId) ? microvmId : undefined) };
    const server = createServer({ noDelay: true }, (socket) => {
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket)).on('error', () => {});
      this.#take(socket, arrival);
    });
    server.maxConnections = this.#limits.connectionsPerMicrovm;
    const port = await listen(server, endpoint.port ?? 0);
    server.on('error', (error) => this.#log.warn({ microvmId, error: messageOf(error) }, 'endpoint listener failed'));
    this.#doors.set(microvmId, { server, port, sockets });
    return addressOf(port);
  }

  async close(microvmId: string): Promise<void> {
    const door = this.#doors.get(microvmId);
    if (door === undefined) return;
    this.#doors.delete(microvmId);
    const closed = new Promise<void>((resolve) => door.server.close(() => resolve()));
    for (const socket of door.sockets) socket.destroy();
    await closed;
  }

  shut(): void {
    this.#isShut = true;
    for (const { server } of this.#doors.values()) server.close();
  }

  async empty(): Promise<void> {
    const sockets = [...this.#doors.values()].flatMap((door) => [...door.sockets]);
    await Promise.all(sockets.map((socket) => new Promise<void>((resolve) => socket.once('close', () => resolve()))));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.shut();
    await Promise.all([...this.#doors.keys()].map((microvmId) => this.close(microvmId)));
  }
}

function addressOf(port: number): { address: string; port: number } {
  return { address: `localhost:${port}`, port };
}

/** @throws DomainError CONFLICT when the port is taken */
function listen(server: Server, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: Error & { code?: string }) => {
      const taken = error.code === 'EADDRINUSE';
      reject(taken ? new DomainError('CONFLICT', `Port ${port} of the endpoint is in use.`, { cause: error }) : error);
    });
    server.listen({ host: HOST, port }, () => {
      server.removeAllListeners('error');
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : port);
    });
  });
}
