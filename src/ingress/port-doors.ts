/**
 * Port mode: each microVM has a loopback port of its own. What a connection is for is settled by the port it came in on,
 * before TLS, and never asked again, whatever names the client uses.
 */
import type { Server, Socket } from 'node:net';
import { DomainError, type Logger, messageOf } from '../lib/index.ts';
import type { Endpoint } from '../microvms/index.ts';
import { type Doors, listen, listener, type Taker, type Visitors } from './doors.ts';
import { connectionsOf, type Limits } from './limits.ts';

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
  readonly #visitors: Visitors;
  #isShut = false;

  constructor(take: Taker, options: { limits: Limits; log: Logger; visitors: Visitors }) {
    this.#take = take;
    this.#limits = options.limits;
    this.#log = options.log;
    this.#visitors = options.visitors;
  }

  async open({ microvmId, port: wanted, memoryMiB }: Endpoint): Promise<{ address: string; port: number }> {
    if (this.#isShut) throw new DomainError('CONFLICT', 'The server is stopping.');
    const known = this.#doors.get(microvmId);
    if (known !== undefined) return addressOf(known.port);
    const sockets = new Set<Socket>();
    const most = connectionsOf(this.#limits, memoryMiB);
    const server = listener((socket) => {
      if (!this.#visitors.enter(socket)) return;
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
      this.#take(socket, {
        admits: () => this.#visitors.count(socket, microvmId, most),
        destinationOf: () =>
          this.#doors.has(microvmId) ? { kind: 'microvm', microvmId } : { kind: 'unknown', endpointId: undefined },
      });
    });
    const port = await listen(server, { host: HOST, port: wanted ?? 0 });
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

  empty(): Promise<void> {
    return this.#visitors.gone();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.shut();
    this.#visitors.expel();
    await Promise.all([...this.#doors.keys()].map((microvmId) => this.close(microvmId)));
  }
}

function addressOf(port: number): { address: string; port: number } {
  return { address: `localhost:${port}`, port };
}
