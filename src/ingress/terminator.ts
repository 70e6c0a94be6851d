/**
 * The one TLS server of the endpoint: takes raw connections from the doors, and hands what became secure on by the
 * protocol that ALPN agreed on.
 *
 * One terminator for all microVMs means one certificate object and one set of session-ticket keys, so a handshake costs
 * the same whether there is one microVM or hundreds.
 * Invariant: a secure connection carries the `Arrival` of the raw one it came from, and none is handed on without.
 */
import { constants } from 'node:crypto';
import type { Socket } from 'node:net';
import { createServer, type SecureContextOptions, type Server, type TLSSocket } from 'node:tls';
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

/** Forward secrecy and authenticated encryption only. Clients choose among them: they know what they are quick at. */
const CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_CHACHA20_POLY1305_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
].join(':');

/**
 * On loopback nobody records who does not own the host: there a connection need not keep the 7 KiB that a post-quantum key exchange
 * leaves with it until it closes. Clients choose, so it is left out.
 */
const LOOPBACK_GROUPS = 'X25519:P-256:P-384';

export interface TerminatorOptions {
  readonly tls: EndpointTls;
  readonly limits: Limits;
  readonly log: Logger;
  /** Only processes of this host can connect. */
  readonly isLoopback?: boolean;
}

export class Terminator implements Disposable {
  readonly #server: Server;
  readonly #groups: string;
  readonly #raw = new WeakMap<Socket, Arrival>();

  constructor(fronts: Fronts, { tls, limits, log, isLoopback = false }: TerminatorOptions) {
    this.#groups = isLoopback ? LOOPBACK_GROUPS : 'auto';
    this.#server = createServer({
      ...secureContextOf(tls, this.#groups),
      ALPNProtocols: Object.keys(fronts),
      handshakeTimeout: limits.handshakeMs,
    });
    this.#server.on('secureConnection', (socket) => {
      const arrival = this.#arrivalOf(socket);
      const front = socket.alpnProtocol === 'h2' ? fronts.h2 : fronts['http/1.1'];
      if (arrival === undefined || front === undefined) return void socket.destroy();
      if (arrival.admits(serverNameOf(socket))) front(socket, arrival);
      else turnAway(socket);
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

  /**
   * New handshakes use these from now on, and session tickets given out before are worth no more than a full handshake;
   * connections that stand are not touched.
   */
  renew(tls: EndpointTls): void {
    this.#server.setSecureContext(secureContextOf(tls, this.#groups));
  }

  [Symbol.dispose](): void {
    this.#server.close(() => {});
  }

  /** Node says nowhere else which raw connection a secure one came from; without it, nothing is served. */
  #arrivalOf(socket: TLSSocket & { _parent?: unknown }): Arrival | undefined {
    return this.#raw.get(socket._parent as Socket);
  }
}

function secureContextOf({ keyPem, certPem }: EndpointTls, ecdhCurve: string): SecureContextOptions {
  return {
    key: keyPem,
    cert: certPem,
    minVersion: 'TLSv1.2',
    ciphers: CIPHERS,
    ecdhCurve,
    honorCipherOrder: false,
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION | constants.SSL_OP_NO_COMPRESSION,
  };
}

/** What the TLS handshake named. */
export function serverNameOf(socket: TLSSocket): string | undefined {
  return typeof socket.servername === 'string' && socket.servername !== '' ? socket.servername : undefined;
}

/** A connection more than its microVM may have is told so in its own protocol, whatever it would have asked. */
function turnAway(socket: TLSSocket): void {
  socket.on('error', () => {});
  socket.setTimeout(TURNED_AWAY_MS, () => socket.destroy());
  socket.end(socket.alpnProtocol === 'h2' ? GO_AWAY : TOO_MANY, () => socket.destroySoon());
}

/** It may read the answer for so long. */
const TURNED_AWAY_MS = 2000;
const TOO_MANY_TEXT = 'Too many connections';
const TOO_MANY = Buffer.from(
  `HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\ncontent-type: text/plain\r\ncache-control: private, no-store\r\n` +
    `content-length: ${TOO_MANY_TEXT.length}\r\n\r\n${TOO_MANY_TEXT}`,
);
/** Empty SETTINGS, then GOAWAY: no stream was taken, ENHANCE_YOUR_CALM (RFC 9113). */
const GO_AWAY = Buffer.from([...[0, 0, 0, 4, 0, 0, 0, 0, 0], ...[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11]]);
