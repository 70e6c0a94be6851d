/**
 * Host mode: one listener for all microVMs, each with a name of its own below one domain, as on AWS:
 * `<endpoint id>.lambda-microvm.<region>.<domain>`. The TLS handshake's server name and each request's host must both be
 * that name.
 *
 * A front proxy may name what all names end in (`lambda-microvm.<region>.<domain>`) in its handshake and then carry
 * requests for any microVM on one connection: the request's host decides, and its token opens that microVM only, as ever.
 */
import type { Server, Socket } from 'node:net';
import { DomainError, type Logger, messageOf } from '../lib/index.ts';
import type { Endpoint } from '../microvms/index.ts';
import { type Destination, type Doors, listen, listener, type Taker, type Visitors } from './doors.ts';
import { connectionsOf, type Limits } from './limits.ts';

export interface HostMode {
  readonly listen: { readonly host: string; readonly port: number };
  /** What the names of microVMs end in, after a dot; lower case. */
  readonly suffix: string;
  /** The port that clients use; undefined: that of `listen`. */
  readonly publicPort: number | undefined;
}

interface Addressee {
  readonly microvmId: string;
  readonly mostConnections: number;
}

const HTTPS_PORT = 443;
const HOST_FORM = /^([a-z0-9.-]{1,253})(?::\d{1,5})?$/;
const UNKNOWN: Destination = { kind: 'unknown', endpointId: undefined };
const MISDIRECTED: Destination = { kind: 'misdirected' };

export class HostDoors implements Doors {
  readonly #take: Taker;
  readonly #mode: HostMode;
  readonly #limits: Limits;
  readonly #visitors: Visitors;
  readonly #server: Server;
  readonly #byEndpointId = new Map<string, Addressee>();
  readonly #endpointIds = new Map<string, string>();
  #port = 0;

  private constructor(take: Taker, mode: HostMode, options: { limits: Limits; visitors: Visitors }) {
    this.#take = take;
    this.#mode = mode;
    this.#limits = options.limits;
    this.#visitors = options.visitors;
    this.#server = listener((socket) => this.#onConnection(socket));
  }

  /** @throws DomainError CONFLICT, DENIED, INVALID when it cannot listen there */
  static async listen(
    take: Taker,
    mode: HostMode,
    options: { limits: Limits; log: Logger; visitors: Visitors },
  ): Promise<HostDoors> {
    const doors = new HostDoors(take, mode, options);
    const advice = 'Choose another with --endpoint-listen <address:port>.';
    doors.#port = await listen(doors.#server, mode.listen, advice);
    doors.#server.on('error', (error) => options.log.warn({ error: messageOf(error) }, 'endpoint listener failed'));
    return doors;
  }

  /** The name is the microVM's for good, so the address is there again after every restart. */
  async open({ microvmId, endpointId, memoryMiB }: Endpoint): Promise<{ address: string; port: null }> {
    if (!this.#server.listening) throw new DomainError('CONFLICT', 'The server is stopping.');
    const mostConnections = connectionsOf(this.#limits, memoryMiB);
    this.#byEndpointId.set(endpointId, { microvmId, mostConnections });
    this.#endpointIds.set(microvmId, endpointId);
    const name = `${endpointId}.${this.#mode.suffix}`;
    const port = this.#mode.publicPort ?? this.#port;
    return { address: port === HTTPS_PORT ? name : `${name}:${port}`, port: null };
  }

  /** Connections stay: what comes on them is refused. */
  async close(microvmId: string): Promise<void> {
    const endpointId = this.#endpointIds.get(microvmId);
    if (endpointId === undefined) return;
    this.#endpointIds.delete(microvmId);
    this.#byEndpointId.delete(endpointId);
  }

  shut(): void {
    this.#server.close();
  }

  empty(): Promise<void> {
    return this.#visitors.gone();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#visitors.expel();
    await closed;
  }

  #onConnection(socket: Socket): void {
    if (!this.#visitors.enter(socket)) return;
    this.#take(socket, {
      admits: (serverName) => this.#admits(socket, serverName),
      destinationOf: (serverName, host) => this.#destinationOf(serverName, host),
    });
  }

  /** What names no microVM is counted with all others only. */
  #admits(socket: Socket, serverName: string | undefined): boolean {
    const endpointId = this.#endpointIdOf(serverName?.toLowerCase());
    const addressee = endpointId === undefined ? undefined : this.#byEndpointId.get(endpointId);
    if (addressee === undefined) return true;
    return this.#visitors.count(socket, addressee.microvmId, addressee.mostConnections);
  }

  #destinationOf(serverName: string | undefined, host: string | undefined): Destination {
    const name = HOST_FORM.exec(host?.toLowerCase() ?? '')?.[1];
    const secured = serverName?.toLowerCase();
    if (secured === undefined || name === undefined) return UNKNOWN;
    if (secured !== name && secured !== this.#mode.suffix) return MISDIRECTED;
    const endpointId = this.#endpointIdOf(name);
    const addressee = endpointId === undefined ? undefined : this.#byEndpointId.get(endpointId);
    return addressee === undefined
      ? { kind: 'unknown', endpointId }
      : { kind: 'microvm', microvmId: addressee.microvmId };
  }

  #endpointIdOf(name: string | undefined): string | undefined {
    const { suffix } = this.#mode;
    if (name === undefined || !name.endsWith(`.${suffix}`)) return undefined;
    return name.slice(0, -suffix.length - 1);
  }
}
