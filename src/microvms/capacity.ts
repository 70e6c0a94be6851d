/**
 * The host's budget as microVMs use it: who has or gets a machine holds a share, a suspended one only its address. Watches
 * for memory running short all the same, since a guest may use four times what it is guaranteed.
 */
import { type Budget, type Need, needOf } from '../engine/index.ts';
import { type Clock, DomainError } from '../lib/index.ts';
import type { Microvm } from './lifecycle.ts';

/** What one suspend gives back shows only when it is over. */
const RELIEF_MS = 5000;
/** What one suspend and two checkpoints of an ordinary session write: the one before goes when the next is whole. */
const CHECKPOINTED_DISK_MIB = 3 * 64;

export class Capacity implements Disposable {
  readonly #budget: Budget;
  readonly #clock: Clock;
  readonly #needOf: (memoryMiB: number) => Need;
  #timer: Disposable | undefined;
  /** Nothing new is begun. */
  isClosed = false;

  constructor(budget: Budget, clock: Clock, { checkpoints = false }: { checkpoints?: boolean } = {}) {
    this.#budget = budget;
    this.#clock = clock;
    this.#needOf = checkpoints ? (memory) => ({ ...needOf(memory), diskMiB: CHECKPOINTED_DISK_MIB }) : needOf;
  }

  /** For a launch, which leaves room for a build that has waited long. @throws DomainError `CAPACITY` */
  take(id: string, memoryMiB: number): void {
    this.#refuseWhenClosed();
    this.#budget.take(id, this.#needOf(memoryMiB), { yields: true });
  }

  /**
   * For a resume, which knows no such error on the wire. What it had besides its share it keeps when there is none.
   * @throws DomainError `CONFLICT`
   */
  takeAgain(record: Microvm): void {
    try {
      this.#refuseWhenClosed();
      this.#budget.take(record.id, this.#needOf(record.memoryMiB));
    } catch (error) {
      this.settle(record);
      if (!(error instanceof DomainError)) throw error;
      throw new DomainError('CONFLICT', error.message, { cause: error });
    }
  }

  /** A record of before this server began: it may have a machine. */
  occupy(record: Microvm): void {
    if (record.state === 'TERMINATING') this.#budget.hold(record.id, this.#needOf(record.memoryMiB));
    else this.settle(record);
  }

  /** Brings the share in line with the record. One that comes to its end keeps what it has: nothing, if it slept. */
  settle(record: Microvm): void {
    if (record.state === 'TERMINATING') return;
    if (record.state === 'TERMINATED') this.#budget.release(record.id);
    else if (record.state === 'SUSPENDED') this.#budget.rest(record.id);
    else this.#budget.hold(record.id, this.#needOf(record.memoryMiB));
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

  #refuseWhenClosed(): void {
    if (!this.isClosed) return;
    throw new DomainError('CAPACITY', 'This server is being drained and starts no MicroVM. Try again later.');
  }
}
