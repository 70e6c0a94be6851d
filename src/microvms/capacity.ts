/**
 * The host's budget as microVMs use it: who has or gets a machine holds a share, a suspended one holds none. Watches for
 * memory running short all the same, since a guest may use four times what it is guaranteed.
 */
import type { Budget, Need } from '../engine/index.ts';
import { type Clock, DomainError } from '../lib/index.ts';
import type { Microvm } from './lifecycle.ts';

/** What one suspend gives back shows only when it is over. */
const RELIEF_MS = 5000;
/** Source: the sizes' table, a quarter of a vCPU for 512 MiB. */
const MIB_PER_CPU = 2048;

export class Capacity implements Disposable {
  readonly #budget: Budget;
  readonly #clock: Clock;
  #timer: Disposable | undefined;
  /** Nothing new is begun. */
  isClosed = false;

  constructor(budget: Budget, clock: Clock) {
    this.#budget = budget;
    this.#clock = clock;
  }

  /** For a launch. @throws DomainError `CAPACITY` */
  take(id: string, memoryMiB: number): void {
    if (this.isClosed) {
      throw new DomainError('CAPACITY', 'This server is being drained and starts no MicroVM. Try again later.');
    }
    this.#budget.take(id, needOf(memoryMiB));
  }

  /** For a resume, which knows no such error on the wire. @throws DomainError `CONFLICT` */
  takeAgain({ id, memoryMiB }: Microvm): void {
    try {
      this.take(id, memoryMiB);
    } catch (error) {
      if (!(error instanceof DomainError)) throw error;
      throw new DomainError('CONFLICT', error.message, { cause: error });
    }
  }

  /** Brings the share in line with the record. */
  settle(record: Microvm): void {
    if (record.state === 'SUSPENDED' || record.state === 'TERMINATED') this.#budget.release(record.id);
    else this.#budget.hold(record.id, needOf(record.memoryMiB));
  }

  release(id: string): void {
    this.#budget.release(id);
  }

  /** Calls `relieve` as long as memory is short; it says whether it found anything to do. */
  watch(everyMs: number, relieve: () => boolean): void {
    const look = () => {
      const isRelieving = this.#budget.pressure() && relieve();
      this.#timer = this.#clock.after(isRelieving ? Math.max(RELIEF_MS, everyMs) : everyMs, look);
    };
    this.#timer = this.#clock.after(everyMs, look);
  }

  [Symbol.dispose](): void {
    this.#timer?.[Symbol.dispose]();
  }
}

function needOf(memoryMiB: number): Need {
  return { memoryMiB, cpus: memoryMiB / MIB_PER_CPU };
}
