/**
 * What each machine may reach: worked out from its microVM's connectors whenever it starts, and again for every live one
 * when connectors or the operator's networks change.
 *
 * Invariant: a machine that is up has been told what its connectors said last, or will be: what could not be told is tried
 * again until it was or the machine has gone.
 */
import type { Connectors } from '../connectors/index.ts';
import type { Egress, Engine } from '../engine/index.ts';
import { type Clock, type Logger, messageOf, Slots, withDeadline } from '../lib/index.ts';
import type { Microvm } from './lifecycle.ts';

/** What is asked of the connectors room. */
export type EgressSource = Pick<Connectors, 'egress' | 'onEgressChange'>;

export interface MachineEgressOptions {
  readonly connectors: EgressSource;
  readonly engine: Pick<Engine, 'setEgress'>;
  readonly clock: Clock;
  readonly log: Logger;
}

const CONCURRENT_CHANGES = 16;
const CHANGE_TIMEOUT_MS = 5000;
const RETRY_MS = 1000;

interface Attached {
  readonly record: Microvm;
  /** As it was told last. */
  told: string;
  isUp: boolean;
}

export class MachineEgress implements AsyncDisposable {
  readonly #o: MachineEgressOptions;
  readonly #attached = new Map<string, Attached>();
  readonly #slots = new Slots(CONCURRENT_CHANGES);
  readonly #watch: Disposable;
  /** Counts what connectors announced. */
  #changes = 0;
  #following: Promise<void> | undefined;
  #isOutdated = false;
  #retry: Disposable | undefined;
  #disposed = false;

  constructor(options: MachineEgressOptions) {
    this.#o = options;
    this.#watch = options.connectors.onEgressChange(() => {
      this.#changes++;
      this.#follow();
    });
  }

  /** Starts a machine with what its microVM may reach now. A change that comes meanwhile is told as soon as it is up. */
  async attach<T>(record: Microvm, start: (egress: Egress) => Promise<T>): Promise<T> {
    const changes = this.#changes;
    const egress = await this.#egressOf(record);
    const attached: Attached = { record, told: JSON.stringify(egress), isUp: false };
    this.#attached.set(record.id, attached);
    try {
      const started = await start(egress);
      attached.isUp = true;
      if (changes !== this.#changes) this.#follow();
      return started;
    } catch (error) {
      if (this.#attached.get(record.id) === attached) this.#attached.delete(record.id);
      throw error;
    }
  }

  /** It has no machine any more. */
  forget(id: string): void {
    this.#attached.delete(id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    this.#watch[Symbol.dispose]();
    this.#retry?.[Symbol.dispose]();
    await this.#following;
  }

  /** One round at a time; what changes during one makes another. */
  #follow(): void {
    if (this.#disposed) return;
    this.#isOutdated = true;
    this.#following ??= this.#rounds().finally(() => {
      this.#following = undefined;
    });
  }

  async #rounds(): Promise<void> {
    while (this.#isOutdated && !this.#disposed) {
      this.#isOutdated = false;
      const up = [...this.#attached.values()].filter(({ isUp }) => isUp);
      const told = await Promise.all(up.map((attached) => this.#tell(attached)));
      if (told.includes(false)) this.#followLater();
    }
  }

  #followLater(): void {
    this.#retry?.[Symbol.dispose]();
    this.#retry = this.#o.clock.after(RETRY_MS, () => this.#follow());
  }

  /** False: it has to be tried again. */
  async #tell(attached: Attached): Promise<boolean> {
    const { id } = attached.record;
    using _slot = await this.#slots.acquire();
    try {
      const egress = await this.#egressOf(attached.record);
      const told = JSON.stringify(egress);
      if (told === attached.told || this.#attached.get(id) !== attached) return true;
      const { clock, engine, log } = this.#o;
      await withDeadline('changing the egress', CHANGE_TIMEOUT_MS, () => engine.setEgress(id, egress), { clock });
      attached.told = told;
      log.info({ microvmId: id, rules: egress.policy.rules.length }, 'egress of a microVM changed');
      return true;
    } catch (error) {
      if (this.#disposed) return true;
      this.#o.log.error({ microvmId: id, error: messageOf(error) }, 'the egress of a microVM could not be changed yet');
      return false;
    }
  }

  async #egressOf(record: Microvm): Promise<Egress> {
    const { policy, limits } = await this.#o.connectors.egress(record.egressNetworkConnectors);
    const { principal = UNKNOWN_PRINCIPAL, imageArn, imageVersion } = record;
    return { policy, limits, labels: { principal, imageArn, imageVersion } };
  }
}

/** Of records from before it was kept. */
const UNKNOWN_PRINCIPAL = 'unknown';
