/**
 * Ways into apps, kept per machine.
 *
 * Invariant: what is kept belongs to one `Machine` object. After a suspend the microVM comes back as another `Machine`, so a
 * connection into the old one can never be picked for the new one.
 */
import { type Clock, MachineError } from '../lib/index.ts';
import type { Machine } from '../microvms/index.ts';
import type { Upstream } from './exchange.ts';
import { Http1Upstreams } from './http1/upstream.ts';

export class Upstreams implements Disposable {
  readonly #clock: Clock;
  readonly #http1 = new Map<Machine, Http1Upstreams>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** HTTP/1.1 in the clear, to a port of the machine. */
  to(machine: Machine, port: number): Upstream {
    return (this.#http1.get(machine) ?? this.#meet(machine)).to(port);
  }

  /** Lets go of the connections into a microVM that ended. */
  forget(microvmId: string): void {
    for (const machine of [...this.#http1.keys()]) if (machine.id === microvmId) this.#drop(machine);
  }

  [Symbol.dispose](): void {
    for (const machine of [...this.#http1.keys()]) this.#drop(machine);
  }

  #meet(machine: Machine): Http1Upstreams {
    this.forget(machine.id);
    const http1 = new Http1Upstreams(machine, this.#clock);
    this.#http1.set(machine, http1);
    void machine.exited.then(() => this.#drop(machine));
    return http1;
  }

  #drop(machine: Machine): void {
    this.#http1.get(machine)?.[Symbol.dispose]();
    this.#http1.delete(machine);
  }
}

/** True when the machine itself is gone (not merely the port closed): asking for the machine again may help. */
export function isMachineGone(error: unknown): boolean {
  return error instanceof MachineError && (error.kind === 'exited' || error.kind === 'protocol');
}
