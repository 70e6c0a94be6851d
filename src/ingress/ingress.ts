/**
 * The data plane: doors take connections, the terminator makes them secure, a front parses requests, and here each is
 * admitted, dispatched to its microVM, or refused.
 *
 * Invariant: which microVM a request is for is asked of its connection's `Arrival` and of nothing else; every connection
 * ends with `close` or dispose, in bounded time.
 */
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { type Clock, type Ids, type Logger, messageOf } from '../lib/index.ts';
import type { EndpointHost, Microvms } from '../microvms/index.ts';
import { BAD_GATEWAY, refusalHeaders, refuse } from './answers.ts';
import type { CertificateFiles } from './certificate-files.ts';
import { Certificates } from './certificates.ts';
import { affordableConnections } from './descriptors.ts';
import { type Arrival, type Doors, type Taker, Visitors } from './doors.ts';
import type { ClientSide, RequestHead } from './exchange.ts';
import { forward, type Surroundings } from './forward.ts';
import { Gate, type Passed, type Refused } from './gate.ts';
import { HostDoors, type HostMode } from './host-doors.ts';
import { headerLines } from './http1/body.ts';
import { Http1Front, type UpgradeRequest } from './http1/front.ts';
import type { MalformedMessage } from './http1/head.ts';
import { Http2Front } from './http2/front.ts';
import { DEFAULT_LIMITS, type Limits } from './limits.ts';
import { PortDoors } from './port-doors.ts';
import { OwnSockets } from './sockets/sockets.ts';
import { Terminator } from './terminator.ts';
import { forwardUpgrade, refuseUpgrade } from './upgrade.ts';
import { Upstreams } from './upstream.ts';

export interface IngressOptions {
  /** Folder of the certificates, made when missing. */
  readonly tlsDir: string;
  readonly clock: Clock;
  readonly ids: Ids;
  readonly log: Logger;
  /** The operator's; left out: the local authority makes one. */
  readonly certificate?: CertificateFiles | undefined;
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

/** @throws DomainError when it cannot listen where host mode says, or not use the operator's certificate */
export async function createIngress(options: IngressOptions): Promise<Ingress> {
  const { hostMode, log } = options;
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  await using stack = new AsyncDisposableStack();
  const certificates = stack.use(
    await Certificates.open({ ...options, suffix: hostMode?.suffix, files: options.certificate }),
  );
  const around = { limits, log, visitors: new Visitors(affordableConnections(limits.connections, log)) };
  // The doors may be open before there is somebody to hand on to: then there is nobody to serve.
  let ingress: TlsIngress | undefined;
  const take: Taker = (socket, arrival) =>
    ingress === undefined ? void socket.destroy() : ingress.take(socket, arrival);
  const doors = hostMode === undefined ? new PortDoors(take, around) : await HostDoors.listen(take, hostMode, around);
  ingress = new TlsIngress(options, { certificates, limits, doors });
  stack.move();
  return ingress;
}

interface Parts {
  readonly certificates: Certificates;
  readonly limits: Limits;
  readonly doors: Doors;
}

class TlsIngress implements Ingress {
  readonly caFile: string;
  readonly caPem: string;
  readonly #options: IngressOptions;
  readonly #limits: Limits;
  readonly #certificates: Certificates;
  readonly #doors: Doors;
  readonly #terminator: Terminator;
  readonly #http1: Http1Front;
  readonly #http2: Http2Front;
  readonly #gate: Gate;
  readonly #upstreams: Upstreams;
  readonly #sockets: OwnSockets;
  #around: (Surroundings & { microvms: Traffic }) | undefined;
  #closing = false;

  constructor(options: IngressOptions, { certificates, limits, doors }: Parts) {
    const { clock, log } = options;
    this.#options = options;
    this.#limits = limits;
    this.#doors = doors;
    this.#gate = new Gate({ limits, clock });
    this.#upstreams = new Upstreams(clock);
    this.#sockets = new OwnSockets(options);
    this.#certificates = certificates;
    const tls = certificates.current;
    this.caFile = tls.caFile;
    this.caPem = tls.caPem;
    this.#http1 = new Http1Front({
      limits,
      clock,
      take: (client, arrival, serverName) => void this.#onRequest(client, arrival, serverName),
      upgrade: (upgrade, arrival, serverName) => void this.#onUpgrade(upgrade, arrival, serverName),
      malformed: (error) => this.#malformed(error),
    });
    this.#http2 = new Http2Front({
      limits,
      clock,
      log,
      take: (client, arrival, serverName) => void this.#onRequest(client, arrival, serverName),
      refuse: (client, status) => refuse(client, { status, text: malformedTexts[status] }, options.ids.uuid()),
    });
    this.#terminator = new Terminator(
      {
        h2: (socket, arrival) => this.#http2.take(socket, arrival),
        'http/1.1': (socket, arrival) => this.#http1.take(socket, arrival),
      },
      { tls, limits, log, isLoopback: options.hostMode === undefined },
    );
    certificates.onNew((renewed) => this.#terminator.renew(renewed));
  }

  take(socket: Socket, arrival: Arrival): void {
    this.#terminator.take(socket, arrival);
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
    await this.#http2.forget(microvmId);
    await this.#doors.close(microvmId);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    this.#certificates[Symbol.dispose]();
    const { clock } = this.#options;
    this.#doors.shut();
    this.#http1.shut();
    this.#http2.shut();
    this.#sockets[Symbol.dispose]();
    const drained = Promise.withResolvers<void>();
    void this.#doors.empty().then(() => drained.resolve());
    using _deadline = clock.after(DRAIN_MS, () => drained.resolve());
    await drained.promise;
    await this.#doors[Symbol.asyncDispose]();
    this.#http1[Symbol.dispose]();
    this.#terminator[Symbol.dispose]();
    this.#upstreams[Symbol.dispose]();
  }

  /** Answers a request, whatever protocol it came in. */
  async #onRequest(client: ClientSide, arrival: Arrival, serverName: string | undefined): Promise<void> {
    const { ids, log } = this.#options;
    const requestId = ids.uuid();
    try {
      const target = await this.#admit(client.request, { arrival, serverName, upgrade: false });
      if (target.kind === 'refused') return refuse(client, target, requestId);
      await forward(client, { microvmId: target.microvmId, port: target.port, requestId }, target.around);
    } catch (error) {
      log.error({ requestId, error: messageOf(error) }, 'endpoint request failed unexpectedly');
      refuse(client, { status: 500, text: '' }, requestId);
    }
  }

  async #onUpgrade(
    { request, socket, head }: UpgradeRequest,
    arrival: Arrival,
    serverName: string | undefined,
  ): Promise<void> {
    const { ids, log } = this.#options;
    const requestId = ids.uuid();
    socket.on('error', () => {});
    socket.setTimeout(this.#limits.silentMs, () => socket.destroy());
    try {
      const target = await this.#admit(request, { arrival, serverName, upgrade: true });
      if (target.kind === 'refused') return refuseUpgrade(socket, target, requestId);
      const asked = { method: request.method, url: request.path, rawHeaders: request.headers };
      const upgrade = { ...target, request: asked, socket, head, requestId };
      if (await this.#sockets.take(upgrade, target.around)) return;
      await forwardUpgrade(upgrade, target.around);
    } catch (error) {
      log.error({ requestId, error: messageOf(error) }, 'endpoint upgrade failed unexpectedly');
      socket.destroy();
    }
  }

  async #admit(
    { method, headers }: RequestHead,
    how: { arrival: Arrival; serverName: string | undefined; upgrade: boolean },
  ): Promise<Refused | (Passed & { readonly around: Surroundings })> {
    const around = this.#around;
    if (around === undefined) return { kind: 'refused', ...BAD_GATEWAY };
    const asking = { method, rawHeaders: headers, host: hostOf(headers), ...how };
    const admission = await this.#gate.admit(asking, around.microvms);
    return admission.kind === 'refused' ? admission : { ...admission, around };
  }

  /** The whole answer to what could not be parsed as a request of HTTP/1.1. */
  #malformed({ status }: MalformedMessage): string {
    const text = malformedTexts[status];
    const headers = refusalHeaders(Buffer.from(text), this.#options.ids.uuid());
    headers.push('connection', 'close');
    return `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${headerLines(headers)}\r\n${text}`;
  }
}

const malformedTexts: Readonly<Record<MalformedMessage['status'], string>> = {
  400: 'Malformed request',
  408: 'Request headers took too long',
  417: 'Unknown expectation',
  431: 'Request headers too large',
};

function hostOf(headers: RequestHead['headers']): string | undefined {
  for (let i = 0; i + 1 < headers.length; i += 2) {
    if (headers[i]?.length === 4 && headers[i]?.toLowerCase() === 'host') return headers[i + 1];
  }
  return undefined;
}
