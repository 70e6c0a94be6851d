/**
 * How a microVM that sleeps comes to run again: for a command, or for traffic that is held until it does.
 *
 * Invariant: one that is asleep has no share of the host, and takes one before its record says that it is being resumed.
 */

import type { Machine } from '../engine/index.ts';
import { type Clock, DomainError, type Logger, MachineError, messageOf, withDeadline } from '../lib/index.ts';
import type { Capacity } from './capacity.ts';
import { type Ledger, MAX_CONFLICTS } from './ledger.ts';
import type { Microvm } from './lifecycle.ts';
import type { LiveMachines } from './live.ts';

export interface WakingParts {
  readonly ledger: Ledger;
  readonly live: LiveMachines;
  readonly capacity: Capacity;
  readonly clock: Clock;
  readonly log: Logger;
  /** How long traffic is held at most. */
  readonly timeoutMs: number;
}

export class Waking {
  readonly #o: WakingParts;

  constructor(parts: WakingParts) {
    this.#o = parts;
  }

  async wake(microvmId: string, options: { signal?: AbortSignal }): Promise<Machine> {
    const serving = this.#o.live.serving(microvmId);
    if (serving !== undefined) return serving;
    const waiter = this.#o.live.waitFor(microvmId);
    try {
      await this.#rouse(microvmId, waiter);
      const timeoutMs = this.#o.timeoutMs;
      const { signal } = options;
      return await withDeadline('waking the microVM', timeoutMs, () => waiter.promise, {
        signal,
        clock: this.#o.clock,
      });
    } catch (error) {
      if (!(error instanceof MachineError)) throw error;
      throw new DomainError('CONFLICT', `The MicroVM ${microvmId} did not wake in time.`, { cause: error });
    } finally {
      this.#o.live.forget(microvmId, waiter);
    }
  }

  /** A suspended one has no share of the host: it takes one again first. @throws DomainError `CONFLICT` when there is none */
  async resume(id: string): Promise<void> {
    for (let attempt = 0; attempt < MAX_CONFLICTS; attempt++) {
      const { body: record, revision } = await this.#o.ledger.row(id);
      if (record.state === 'SUSPENDED') this.#o.capacity.takeAgain(record);
      try {
        // Of the very record that was looked at: another may have fallen asleep, and given its share back, meanwhile.
        const outcome = await this.#o.ledger.apply(id, { type: 'resume' }, { revision });
        if (outcome.kind === 'refused') throw outcome.error;
        if (outcome.kind !== 'stale') return;
        this.#o.capacity.settle(await this.#o.ledger.get(id));
      } catch (error) {
        this.#o.capacity.settle(await this.#o.ledger.get(id));
        throw error;
      }
    }
    throw new Error(`the record of ${id} kept changing under a resume`);
  }

  /** Who waits for it is told, or it is resumed for them: they came while it was being suspended. */
  slept(record: Microvm, before: Microvm | undefined): void {
    const { id } = record;
    if (!this.#o.live.isAwaited(id)) return;
    if (before?.state === 'RESUMING' || record.idlePolicy?.autoResumeEnabled !== true) {
      const remark = record.state === 'SUSPENDED' ? record.remark : null;
      this.#o.live.refuse(id, remark ?? `The MicroVM ${id} could not be resumed.`);
      return;
    }
    this.resume(id).catch((error: unknown) => {
      this.#o.log.error({ microvmId: id, error: messageOf(error) }, 'a microVM could not be resumed for its traffic');
      this.#o.live.refuse(id, `The MicroVM ${id} could not be resumed.`);
    });
  }

  /** Does what traffic may do to get the microVM running; the waiter was registered before. */
  async #rouse(id: string, waiter: PromiseWithResolvers<Machine>): Promise<void> {
    const record = await this.#o.ledger.get(id);
    switch (record.state) {
      case 'RUNNING': {
        const machine = this.#o.live.serving(id);
        if (machine !== undefined) waiter.resolve(machine);
        break;
      }
      case 'SUSPENDING':
      case 'SUSPENDED':
        if (record.idlePolicy?.autoResumeEnabled !== true) {
          throw new DomainError('CONFLICT', `The MicroVM ${id} is suspended and does not resume by itself.`);
        }
        await this.resume(id);
        break;
      case 'EXITED':
      case 'TERMINATING':
      case 'TERMINATED':
        throw new DomainError('CONFLICT', `The MicroVM ${id} has ended.`);
      case 'PENDING':
      case 'RESUMING':
        break;
      default:
        record satisfies never;
    }
  }
}
