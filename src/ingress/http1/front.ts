/**
 * The HTTP/1.1 front: secure connections in, one request after the other out, each as a `ClientSide`.
 *
 * Deadlines are instants that a sweep looks at, not timers of their own: a request then costs two readings of the clock.
 * Invariant: every connection is owned here until it is closed or handed over as an upgrade, and ends in bounded time once
 * the front is shut.
 */
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Clock } from '../../lib/index.ts';
import type { Arrival } from '../doors.ts';
import type { ClientSide, RequestHead } from '../exchange.ts';
import type { Limits } from '../limits.ts';
import { serverNameOf } from '../terminator.ts';
import { Connection } from './connection.ts';
import type { MalformedMessage } from './head.ts';

/** A request that asks for another protocol; the socket belongs to whoever takes it. */
export interface UpgradeRequest {
  readonly request: RequestHead;
  readonly socket: Socket;
  /** What the client sent behind the request. */
  readonly head: Buffer;
}

export interface Http1FrontOptions {
  readonly limits: Limits;
  readonly clock: Clock;
  /** One request, admitted by nobody yet. Whoever takes it answers it, whatever happens. */
  take(client: ClientSide, arrival: Arrival, serverName: string | undefined): void;
  upgrade(upgrade: UpgradeRequest, arrival: Arrival, serverName: string | undefined): void;
  /** What could not be parsed: the whole answer as bytes, after which the connection ends. */
  malformed(error: MalformedMessage): string;
}

const MAX_SWEEP_MS = 1000;

export class Http1Front implements Disposable {
  readonly #options: Http1FrontOptions;
  readonly #connections = new Set<Connection>();
  #sweep: Disposable | undefined;
  #isShut = false;

  constructor(options: Http1FrontOptions) {
    this.#options = options;
  }

  take(socket: TLSSocket, arrival: Arrival): void {
    if (this.#isShut) return void socket.destroy();
    const { limits, clock, take, upgrade, malformed } = this.#options;
    const serverName = serverNameOf(socket);
    const connection: Connection = new Connection(socket, {
      limits,
      clock,
      isShut: () => this.#isShut,
      request: (client) => take(client, arrival, serverName),
      upgrade: (request, head) => {
        this.#connections.delete(connection);
        upgrade({ request, socket, head }, arrival, serverName);
      },
      malformed,
      closed: () => this.#connections.delete(connection),
    });
    this.#connections.add(connection);
    this.#sweep ??= this.#armed();
  }

  /** No connection takes a further request; idle ones end now. */
  shut(): void {
    this.#isShut = true;
    for (const connection of this.#connections) connection.endIfIdle();
  }

  [Symbol.dispose](): void {
    this.shut();
    this.#sweep?.[Symbol.dispose]();
    this.#sweep = undefined;
    for (const connection of this.#connections) connection.destroy();
  }

  #armed(): Disposable {
    const { limits, clock } = this.#options;
    return clock.after(Math.min(MAX_SWEEP_MS, limits.headersMs / 2, limits.keepAliveMs / 2), () => {
      const now = clock.monotonicMs();
      for (const connection of this.#connections) connection.check(now);
      this.#sweep = this.#connections.size > 0 ? this.#armed() : undefined;
    });
  }
}
