/**
 * The data plane in port mode: one loopback port per microVM, all of them feeding one TLS terminator and HTTP server.
 *
 * A listener only hands raw connections on; which microVM a connection is for is settled by the port it came in on,
 * before TLS, and never asked again. One terminator means one certificate object and one set of session-ticket keys,
 * so a handshake costs the same whether there is one microVM or hundreds.
 * Invariant: every listener and connection is owned here; `close` and dispose end them, in bounded time.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer as createHttpsServer, type Server as HttpsServer } from 'node:https';
import { createServer as createNetServer, type Server as NetServer, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type Clock, DomainError, type Ids, type Logger, messageOf } from '../lib/index.ts';
import type { EndpointHost, Microvms } from '../microvms/index.ts';
import { type Admission, admit } from './admission.ts';
import { BAD_GATEWAY, refuse } from './answers.ts';
import { type EndpointTls, openAuthority } from './authority.ts';
import { forward, MAX_HEADER_BYTES, type Surroundings } from './forward.ts';
import { REQUEST_ID } from './headers.ts';
import { forwardUpgrade, refuseUpgrade } from './upgrade.ts';
import { Upstreams } from './upstream.ts';

export interface IngressOptions {
  /** Folder of the certificates, made when missing. */
  readonly tlsDir: string;
  readonly clock: Clock;
  readonly ids: Ids;
  readonly log: Logger;
  /** A client must have sent its request's headers by then, a slow drip included. Default 20 s. */
  readonly headersTimeoutMs?: number;
}

/** The part of the microVMs room that carries traffic. */
export type Traffic = Pick<Microvms, 'verifyToken' | 'wake' | 'activity' | 'exchange'>;

export interface Ingress extends EndpointHost, AsyncDisposable {
  readonly caFile: string;
  readonly caPem: string;
  /** From now on requests are answered; before, they get 502. Apart from creation because the microVMs need addresses first. */
  serve(microvms: Traffic): void;
}

const HOST = '127.0.0.1';
const HANDSHAKE_TIMEOUT_MS = 10_000;
const HEADERS_TIMEOUT_MS = 20_000;
const KEEP_ALIVE_MS = 65_000;
/** GUESS: endpoint-idle-timeout */
const SILENT_CONNECTION_MS = 3_600_000;
const MAX_CONNECTIONS_PER_MICROVM = 2000;
/** What is in flight at shutdown may take this long. */
const DRAIN_MS = 2000;

export async function createIngress(options: IngressOptions): Promise<Ingress> {
  const tls = await openAuthority(options.tlsDir, options);
  return new PortModeIngress(options, tls);
}

interface Door {
  readonly server: NetServer;
  readonly port: number;
  readonly sockets: Set<Socket>;
}

class PortModeIngress implements Ingress {
  readonly caFile: string;
  readonly caPem: string;
  readonly #options: IngressOptions;
  readonly #server: HttpsServer;
  readonly #upstreams: Upstreams;
  readonly #doors = new Map<string, Door>();
  readonly #microvmByPort = new Map<number, string>();
  #around: (Surroundings & { microvms: Traffic }) | undefined;
  #closing = false;

  constructor(options: IngressOptions, tls: EndpointTls) {
    this.#options = options;
    this.#upstreams = new Upstreams(options.clock);
    this.caFile = tls.caFile;
    this.caPem = tls.caPem;
    this.#server = createHttpsServer({
      key: tls.keyPem,
      cert: tls.certPem,
      minVersion: 'TLSv1.2',
      ALPNProtocols: ['http/1.1'],
      handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: options.headersTimeoutMs ?? HEADERS_TIMEOUT_MS,
      // Uploads may take as long as they like while bytes come; silence is bounded by `timeout`.
      requestTimeout: 0,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connectionsCheckingInterval: Math.min(5000, options.headersTimeoutMs ?? HEADERS_TIMEOUT_MS),
      shouldUpgradeCallback: (request) => request.headers.upgrade?.toLowerCase() === 'websocket',
    });
    this.#server.timeout = SILENT_CONNECTION_MS;
    // Node begins to watch header deadlines and idle connections with this event, which a server that is handed its
    // connections never gets by itself.
    this.#server.emit('listening');
    this.#server.on('request', (request, response) => void this.#onRequest(request, response, false));
    this.#server.on('checkContinue', (request, response) => void this.#onRequest(request, response, true));
    this.#server.on('upgrade', (request, socket, head) => void this.#onUpgrade(request, socket as Socket, head));
    this.#server.on('clientError', (error, socket) => this.#onClientError(error, socket));
    this.#server.on('tlsClientError', (error) =>
      options.log.debug({ error: messageOf(error) }, 'TLS handshake failed'),
    );
  }

  serve(microvms: Traffic): void {
    const { clock, log } = this.#options;
    this.#around = { microvms, upstreams: this.#upstreams, clock, log };
  }

  async open(endpoint: { microvmId: string; port: number | null }): Promise<{ address: string; port: number }> {
    const { microvmId } = endpoint;
    if (this.#closing) throw new DomainError('CONFLICT', 'The server is stopping.');
    const known = this.#doors.get(microvmId);
    if (known !== undefined) return addressOf(known.port);
    const sockets = new Set<Socket>();
    const server = createNetServer({ noDelay: true }, (socket) => {
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket)).on('error', () => {});
      this.#server.emit('connection', socket);
    });
    server.maxConnections = MAX_CONNECTIONS_PER_MICROVM;
    const port = await listen(server, endpoint.port ?? 0);
    server.on('error', (error) =>
      this.#options.log.warn({ microvmId, error: messageOf(error) }, 'endpoint listener failed'),
    );
    this.#doors.set(microvmId, { server, port, sockets });
    this.#microvmByPort.set(port, microvmId);
    return addressOf(port);
  }

  async close(microvmId: string): Promise<void> {
    const door = this.#doors.get(microvmId);
    if (door === undefined) return;
    this.#doors.delete(microvmId);
    this.#microvmByPort.delete(door.port);
    this.#upstreams.forget(microvmId);
    const closed = new Promise<void>((resolve) => door.server.close(() => resolve()));
    for (const socket of door.sockets) socket.destroy();
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    const { clock } = this.#options;
    for (const { server } of this.#doors.values()) server.close();
    this.#server.closeIdleConnections();
    const drained = Promise.withResolvers<void>();
    void this.#allGone().then(() => drained.resolve());
    using _deadline = clock.after(DRAIN_MS, () => drained.resolve());
    await drained.promise;
    await Promise.all([...this.#doors.keys()].map((microvmId) => this.close(microvmId)));
    // Only stops the watching: it never listened itself.
    this.#server.close(() => {});
    this.#upstreams[Symbol.dispose]();
  }

  #allGone(): Promise<unknown> {
    const sockets = [...this.#doors.values()].flatMap((door) => [...door.sockets]);
    return Promise.all(sockets.map((socket) => new Promise<void>((resolve) => socket.once('close', () => resolve()))));
  }

  async #onRequest(request: IncomingMessage, response: ServerResponse, expectsContinue: boolean): Promise<void> {
    const { clock, ids, log } = this.#options;
    const requestId = ids.uuid();
    response.on('error', () => {});
    try {
      if (this.#closing) response.shouldKeepAlive = false;
      const target = await this.#admit(request, false);
      if (target.kind === 'refused') return refuse(response, target, requestId, clock);
      await forward({ request, response, requestId, expectsContinue, ...target }, target.around);
    } catch (error) {
      log.error({ requestId, error: messageOf(error) }, 'endpoint request failed unexpectedly');
      refuse(response, { status: 500, text: '' }, requestId, clock);
    }
  }

  async #onUpgrade(request: IncomingMessage, socket: Socket, head: Buffer): Promise<void> {
    const { clock, ids, log } = this.#options;
    const requestId = ids.uuid();
    socket.on('error', () => {});
    socket.setTimeout(SILENT_CONNECTION_MS, () => socket.destroy());
    try {
      const target = await this.#admit(request, true);
      if (target.kind === 'refused') return refuseUpgrade(request, socket, target, requestId, { clock });
      await forwardUpgrade({ request, socket, head, requestId, ...target }, target.around);
    } catch (error) {
      log.error({ requestId, error: messageOf(error) }, 'endpoint upgrade failed unexpectedly');
      socket.destroy();
    }
  }

  async #admit(
    request: IncomingMessage,
    upgrade: boolean,
  ): Promise<
    | Extract<Admission, { kind: 'refused' }>
    | (Extract<Admission, { kind: 'admitted' }> & { microvmId: string; around: Surroundings })
  > {
    const around = this.#around;
    const microvmId = this.#microvmByPort.get(request.socket.localPort ?? 0);
    if (around === undefined || microvmId === undefined) return { kind: 'refused', ...BAD_GATEWAY, status: 502 };
    const admission = await admit(request, microvmId, around.microvms, { upgrade });
    return admission.kind === 'refused' ? admission : { ...admission, microvmId, around };
  }

  /** What could not be parsed as a request. */
  #onClientError(error: Error & { code?: string }, socket: Duplex): void {
    if (!socket.writable || error.code === 'ECONNRESET') return void socket.destroy();
    const [status, text] = clientErrors[error.code ?? ''] ?? ['400 Bad Request', 'Malformed request'];
    const head = `HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-type: text/plain\r\ncache-control: private, no-store`;
    socket.end(
      `${head}\r\n${REQUEST_ID}: ${this.#options.ids.uuid()}\r\ncontent-length: ${text.length}\r\n\r\n${text}`,
      () => socket.destroy(),
    );
  }
}

const clientErrors: Readonly<Record<string, [status: string, text: string]>> = {
  HPE_HEADER_OVERFLOW: ['431 Request Header Fields Too Large', 'Request headers too large'],
  ERR_HTTP_REQUEST_TIMEOUT: ['408 Request Timeout', 'Request headers took too long'],
};

function addressOf(port: number): { address: string; port: number } {
  return { address: `localhost:${port}`, port };
}

/** @throws DomainError CONFLICT when the port is taken */
function listen(server: NetServer, port: number): Promise<number> {
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
