/**
 * The data plane: doors take connections, the terminator makes them secure, a front parses requests, and here each is
 * admitted, dispatched to its microVM, or refused.
 *
 * Invariant: which microVM a request is for is asked of its connection's `Arrival` and of nothing else; every connection
 * ends with `close` or dispose, in bounded time.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { type Clock, type Ids, type Logger, messageOf } from '../lib/index.ts';
import type { EndpointHost, Microvms } from '../microvms/index.ts';
import { BAD_GATEWAY, refuse } from './answers.ts';
import { type EndpointTls, openAuthority } from './authority.ts';
import { type Arrival, type Doors, type Taker, Visitors } from './doors.ts';
import { forward, type Surroundings } from './forward.ts';
import { Gate, type Passed, type Refused } from './gate.ts';
import { REQUEST_ID } from './headers.ts';
import { HostDoors, type HostMode } from './host-doors.ts';
import { DEFAULT_LIMITS, type Limits } from './limits.ts';
import { PortDoors } from './port-doors.ts';
import { serverNameOf, Terminator } from './terminator.ts';
import { forwardUpgrade, refuseUpgrade } from './upgrade.ts';
import { Upstreams } from './upstream.ts';

export interface IngressOptions {
  /** Folder of the certificates, made when missing. */
  readonly tlsDir: string;
  readonly clock: Clock;
  readonly ids: Ids;
  readonly log: Logger;
  /** Names for all microVMs on one listener; left out: a loopback port for each. */
  readonly hostMode?: HostMode | undefined;
  /** Those that differ from the defaults. */
  readonly limits?: Partial<Limits>;
}

/** The part of the microVMs room that carries traffic. */
export type Traffic = Pick<Microvms, 'verifyToken' | 'endpointIdOf' | 'wake' | 'activity' | 'exchange'>;

export interface Ingress extends EndpointHost, AsyncDisposable {
  readonly caFile: string;
  readonly caPem: string;
  /** From now on requests are answered; before, they get 502. Apart from creation because the microVMs need addresses first. */
  serve(microvms: Traffic): void;
}

/** What is in flight at shutdown may take this long. */
const DRAIN_MS = 2000;

/** @throws DomainError when it cannot listen where host mode says */
export async function createIngress(options: IngressOptions): Promise<Ingress> {
  const { hostMode, clock, ids, tlsDir, log } = options;
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  const names = hostMode === undefined ? [] : [hostMode.suffix, `*.${hostMode.suffix}`];
  const tls = await openAuthority(tlsDir, { clock, ids, names });
  const around = { limits, log, visitors: new Visitors(limits.connections) };
  // The doors may be open before there is somebody to hand on to: then there is nobody to serve.
  let ingress: TlsIngress | undefined;
  const take: Taker = (socket, arrival) =>
    ingress === undefined ? void socket.destroy() : ingress.take(socket, arrival);
  const doors = hostMode === undefined ? new PortDoors(take, around) : await HostDoors.listen(take, hostMode, around);
  ingress = new TlsIngress(options, { tls, limits, doors });
  return ingress;
}

interface Parts {
  readonly tls: EndpointTls;
  readonly limits: Limits;
  readonly doors: Doors;
}

class TlsIngress implements Ingress {
  readonly caFile: string;
  readonly caPem: string;
  readonly #options: IngressOptions;
  readonly #limits: Limits;
  readonly #doors: Doors;
  readonly #terminator: Terminator;
  readonly #http1: Server;
  /** How the connection of an HTTP/1.1 request came in. */
  readonly #arrivals = new WeakMap<Socket, Arrival>();
  readonly #gate: Gate;
  readonly #upstreams: Upstreams;
  #around: (Surroundings & { microvms: Traffic }) | undefined;
  #closing = false;

  constructor(options: IngressOptions, { tls, limits, doors }: Parts) {
    const { clock, log } = options;
    this.#options = options;
    this.#limits = limits;
    this.#doors = doors;
    this.#gate = new Gate({ limits, clock });
    this.#upstreams = new Upstreams(clock);
    this.caFile = tls.caFile;
    this.caPem = tls.caPem;
    this.#http1 = this.#createHttp1();
    this.#terminator = new Terminator(
      {
        'http/1.1': (socket, arrival) => {
          this.#arrivals.set(socket, arrival);
          this.#http1.emit('connection', socket);
        },
      },
      { tls, limits, log },
    );
  }

  take(socket: Socket, arrival: Arrival): void {
    this.#terminator.take(socket, arrival);
  }

  #createHttp1(): Server {
    const { headerBytes, headersMs, keepAliveMs, silentMs } = this.#limits;
    const server = createServer({
      maxHeaderSize: headerBytes,
      headersTimeout: headersMs,
      // Uploads may take as long as they like while bytes come; silence is bounded by `timeout`.
      requestTimeout: 0,
      keepAliveTimeout: keepAliveMs,
      connectionsCheckingInterval: Math.min(5000, headersMs),
      shouldUpgradeCallback: (request) => request.headers.upgrade?.toLowerCase() === 'websocket',
    });
    server.timeout = silentMs;
    // Node begins to watch header deadlines and idle connections with this event, which a server that is handed its
    // connections never gets by itself.
    server.emit('listening');
    server.on('request', (request, response) => void this.#onRequest(request, response, false));
    server.on('checkContinue', (request, response) => void this.#onRequest(request, response, true));
    server.on('upgrade', (request, socket, head) => void this.#onUpgrade(request, socket as Socket, head));
    server.on('clientError', (error, socket) => this.#onClientError(error, socket));
    return server;
  }

  serve(microvms: Traffic): void {
    const { clock, log } = this.#options;
    this.#around = { microvms, upstreams: this.#upstreams, clock, log };
  }

  open(endpoint: Parameters<EndpointHost['open']>[0]): ReturnType<EndpointHost['open']> {
    this.#gate.expect(endpoint.microvmId, endpoint.memoryMiB);
    return this.#doors.open(endpoint);
  }

  async close(microvmId: string): Promise<void> {
    this.#upstreams.forget(microvmId);
    this.#gate.forget(microvmId);
    await this.#doors.close(microvmId);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    const { clock } = this.#options;
    this.#doors.shut();
    this.#http1.closeIdleConnections();
    const drained = Promise.withResolvers<void>();
    void this.#doors.empty().then(() => drained.resolve());
    using _deadline = clock.after(DRAIN_MS, () => drained.resolve());
    await drained.promise;
    await this.#doors[Symbol.asyncDispose]();
    // Only stops the watching: it never listened itself.
    this.#http1.close(() => {});
    this.#terminator[Symbol.dispose]();
    this.#upstreams[Symbol.dispose]();
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
    const { ids, log } = this.#options;
    const requestId = ids.uuid();
    socket.on('error', () => {});
    socket.setTimeout(this.#limits.silentMs, () => socket.destroy());
    try {
      const target = await this.#admit(request, true);
      if (target.kind === 'refused') return refuseUpgrade(socket, target, requestId);
      await forwardUpgrade({ request, socket, head, requestId, ...target }, target.around);
    } catch (error) {
      log.error({ requestId, error: messageOf(error) }, 'endpoint upgrade failed unexpectedly');
      socket.destroy();
    }
  }

  async #admit(
    request: IncomingMessage,
    upgrade: boolean,
  ): Promise<Refused | (Passed & { readonly around: Surroundings })> {
    const around = this.#around;
    if (around === undefined) return { kind: 'refused', ...BAD_GATEWAY };
    const { socket, headers, method, rawHeaders } = request;
    const admission = await this.#gate.admit(
      {
        method,
        rawHeaders,
        arrival: this.#arrivals.get(socket),
        serverName: socket instanceof TLSSocket ? serverNameOf(socket) : undefined,
        host: headers.host,
        upgrade,
      },
      around.microvms,
    );
    return admission.kind === 'refused' ? admission : { ...admission, around };
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
