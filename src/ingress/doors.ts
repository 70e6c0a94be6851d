/**
 * Where connections come in. Doors hand raw connections on together with an `Arrival`, which knows what microVM a request
 * of that connection is for; who parses what comes in need not know how microVMs are told apart.
 *
 * Invariant: every listener and raw connection is owned by its doors; `close` and dispose end them. What a connection may
 * be for was settled by where it came in and the name its TLS handshake named, and no request on it widens that.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { DomainError } from '../lib/index.ts';
import type { EndpointHost } from '../microvms/index.ts';

/** Whose a request is. */
export type Destination =
  | { readonly kind: 'microvm'; readonly microvmId: string }
  /** No microVM has this address now; `endpointId` when it is one that a microVM can have had. */
  | { readonly kind: 'unknown'; readonly endpointId: string | undefined }
  /** The request names another host than its connection was made for. */
  | { readonly kind: 'misdirected' };

/** How a connection came in. */
export interface Arrival {
  /**
   * Counts the connection, once its handshake told `serverName`; false when its microVM has as many as it may.
   * It is counted until it closes.
   */
  admits(serverName: string | undefined): boolean;
  /** `serverName` is what the TLS handshake named, `host` the request's `Host` or `:authority`. */
  destinationOf(serverName: string | undefined, host: string | undefined): Destination;
}

/** Takes every connection that came in. */
export type Taker = (socket: Socket, arrival: Arrival) => void;

export interface Doors extends EndpointHost, AsyncDisposable {
  /** Takes no more connections; those that are there go on. */
  shut(): void;
  /** Settles when no connection is left. */
  empty(): Promise<void>;
}

/** The connections of all doors together, by microVM and in all. */
export class Visitors {
  readonly #most: number;
  /** Each with the microVM it is counted for, once that is known. */
  readonly #sockets = new Map<Socket, string | undefined>();
  readonly #perMicrovm = new Map<string, number>();
  /** How many were turned away because there were too many in all. */
  turnedAway = 0;

  constructor(most: number) {
    this.#most = most;
  }

  /** False: one too many, and closed. That costs no handshake, and leaves no queue of connections nobody accepts. */
  enter(socket: Socket): boolean {
    socket.on('error', ignore);
    if (this.#sockets.size >= this.#most) {
      this.turnedAway++;
      socket.resetAndDestroy();
      return false;
    }
    this.#sockets.set(socket, undefined);
    socket.on('close', () => this.#leave(socket));
    return true;
  }

  /** False: the microVM has its share, or the connection is gone. */
  count(socket: Socket, microvmId: string, most: number): boolean {
    if (!this.#sockets.has(socket)) return false;
    const count = this.#perMicrovm.get(microvmId) ?? 0;
    if (count >= most) return false;
    this.#perMicrovm.set(microvmId, count + 1);
    this.#sockets.set(socket, microvmId);
    return true;
  }

  async gone(): Promise<void> {
    await Promise.all(
      [...this.#sockets.keys()].map((socket) => new Promise<void>((done) => socket.once('close', () => done()))),
    );
  }

  expel(): void {
    for (const socket of this.#sockets.keys()) socket.destroy();
  }

  #leave(socket: Socket): void {
    const microvmId = this.#sockets.get(socket);
    this.#sockets.delete(socket);
    if (microvmId === undefined) return;
    const left = (this.#perMicrovm.get(microvmId) ?? 1) - 1;
    if (left > 0) this.#perMicrovm.set(microvmId, left);
    else this.#perMicrovm.delete(microvmId);
  }
}

/** What becomes of a connection is told by its end. */
function ignore(): void {}

/** @throws DomainError CONFLICT when the port is taken, DENIED when it needs privileges, INVALID when the host has no such address */
export function listen(server: Server, at: { host: string; port: number }, advice = ''): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: Error & { code?: string }) => reject(listenError(error, at, advice)));
    server.listen({ ...at, backlog: BACKLOG }, () => {
      server.removeAllListeners('error');
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : at.port);
    });
  });
}

/** A burst of callers waits here while the loop is busy; the kernel bounds it by net.core.somaxconn. */
const BACKLOG = 4096;

function listenError(error: Error & { code?: string }, at: { host: string; port: number }, advice: string): Error {
  const refused = (code: 'CONFLICT' | 'DENIED' | 'INVALID', text: string) =>
    new DomainError(code, `${text}${advice === '' ? '' : ` ${advice}`}`, { cause: error });
  switch (error.code) {
    case 'EADDRINUSE':
      return refused('CONFLICT', `Port ${at.port} of the endpoint is in use.`);
    case 'EACCES':
      return refused('DENIED', `Port ${at.port} of the endpoint needs privileges.`);
    case 'EADDRNOTAVAIL':
    case 'EAFNOSUPPORT':
      return refused('INVALID', `This host has no address ${at.host} for the endpoint.`);
    default:
      return error;
  }
}

/** A listener that hands on what comes in as it is. */
export function listener(onConnection: (socket: Socket) => void): Server {
  return createServer({ noDelay: true }, onConnection);
}
