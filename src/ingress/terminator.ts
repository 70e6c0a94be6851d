/**
 * The one TLS server of the endpoint: takes raw connections from the doors, and hands what became secure on by the
 * protocol that ALPN agreed on.
 *
 * One terminator for all microVMs means one certificate object and one set of session-ticket keys, so a handshake costs
 * the same whether there is one microVM or hundreds.
 * Invariant: a secure connection carries the `Arrival` of the raw one it came from, and none is handed on without.
 */
import type { Socket } from 'node:net';
import { createServer, type Server, type TLSSocket } from 'node:tls';
import { type Logger, messageOf } from '../lib/index.ts';
import type { EndpointTls } from './authority.ts';
import type { Arrival } from './doors.ts';
import type { Limits } from './limits.ts';

/** Serves one secure connection to its end. */
export type Front = (socket: TLSSocket, arrival: Arrival) => void;

/** By ALPN name, in the order in which they are preferred; a client without ALPN speaks HTTP/1.1. */
export interface Fronts {
  readonly h2?: Front;
  readonly 'http/1.1': Front;
}

export class Terminator implements Disposable {
  readonly #server: Server;
  readonly #raw = new WeakMap<Socket, Arrival>();

  constructor(fronts: Fronts, options: { tls: EndpointTls; limits: Limits; log: Logger }) {
    const { tls, limits, log } = options;
    this.#server = createServer({
      key: tls.keyPem,
      cert: tls.certPem,
      minVersion: 'TLSv1.2',
      ALPNProtocols: Object.keys(fronts),
      handshakeTimeout: limits.handshakeMs,
    });
    this.#server.on('secureConnection', (socket) => {
      const arrival = this.#arrivalOf(socket);
      const front = socket.alpnProtocol === 'h2' ? fronts.h2 : fronts['http/1.1'];
      if (arrival === undefined || front === undefined) return void socket.destroy();
      front(socket, arrival);
    });
    // Node only tells: a connection whose handshake failed or took too long would stay.
    this.#server.on('tlsClientError', (error, socket) => {
      log.debug({ error: messageOf(error) }, 'TLS handshake failed');
      socket.destroy();
    });
  }

  take(socket: Socket, arrival: Arrival): void {
    this.#raw.set(socket, arrival);
    this.#server.emit('connection', socket);
  }

  [Symbol.dispose](): void {
    this.#server.close(() => {});
  }

  /** Node says nowhere else which raw connection a secure one came from; without it, nothing is served. */
  #arrivalOf(socket: TLSSocket & { _parent?: unknown }): Arrival | undefined {
    return this.#raw.get(socket._parent as Socket);
  }
}
