/**
 * Ways into apps, kept per machine.
 *
 * Invariant: what is kept belongs to one `Machine` object. After a suspend the microVM comes back as another `Machine`, so a
 * connection into the old one can never be picked for the new one.
 */
import { type Clock, MachineError } from '../lib/index.ts';
import type { Machine } from '../microvms/index.ts';
import type { RequestHead, Upstream } from './exchange.ts';
import { forcesHttp2 } from './headers.ts';
import { Http1Upstreams } from './http1/upstream.ts';
import { SessionPool } from './http2/sessions.ts';
import { Http2Upstream } from './http2/upstream.ts';

/** Of one answer. */
const ANSWER_LIMITS = { headerBytes: 65_536, headerCount: 1000 };

export class Upstreams implements Disposable {
  readonly #clock: Clock;
  readonly #ways = new Map<Machine, Ways>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** To a port of the machine, in the protocol that suits the request. */
  to(machine: Machine, port: number, request: RequestHead): Upstream {
    return (this.#ways.get(machine) ?? this.#meet(machine)).to(port, forcesHttp2(request.headers));
  }

  /** Lets go of the connections into a microVM that ended. */
  forget(microvmId: string): void {
    for (const machine of [...this.#ways.keys()]) if (machine.id === microvmId) this.#drop(machine);
  }

  [Symbol.dispose](): void {
    for (const machine of [...this.#ways.keys()]) this.#drop(machine);
  }

  #meet(machine: Machine): Ways {
    this.forget(machine.id);
    const ways = new Ways(machine, this.#clock);
    this.#ways.set(machine, ways);
    void machine.exited.then(() => this.#drop(machine));
    return ways;
  }

  #drop(machine: Machine): void {
    this.#ways.get(machine)?.[Symbol.dispose]();
    this.#ways.delete(machine);
  }
}

/** Into one machine. */
class Ways implements Disposable {
  readonly #machine: Machine;
  readonly #clock: Clock;
  readonly #http1: Http1Upstreams;
  readonly #http2 = new Map<number, SessionPool>();

  constructor(machine: Machine, clock: Clock) {
    this.#machine = machine;
    this.#clock = clock;
    this.#http1 = new Http1Upstreams(machine, clock);
  }

  to(port: number, forcesHttp2: boolean): Upstream {
    return forcesHttp2 ? new Http2Upstream(this.#sessionsTo(port), 'http') : this.#http1.to(port);
  }

  [Symbol.dispose](): void {
    this.#http1[Symbol.dispose]();
    for (const pool of this.#http2.values()) pool[Symbol.dispose]();
  }

  #sessionsTo(port: number): SessionPool {
    let pool = this.#http2.get(port);
    if (pool === undefined) {
      const connect = (signal: AbortSignal) => this.#machine.connect(port, { signal });
      pool = new SessionPool({ ...ANSWER_LIMITS, connect, clock: this.#clock });
      this.#http2.set(port, pool);
    }
    return pool;
  }
}

/** True when the machine itself is gone (not merely the port closed): asking for the machine again may help. */
export function isMachineGone(error: unknown): boolean {
  return error instanceof MachineError && (error.kind === 'exited' || error.kind === 'protocol');
}
