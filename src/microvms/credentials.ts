/**
 * The execution role's credentials of each machine: there before the app is told that it runs, renewed while it does, taken
 * back before it is suspended.
 *
 * Invariant: a machine whose microVM has no role is never asked anything. While a machine is being suspended nobody gives it
 * credentials; the engine withdraws those it has.
 */
import type { CheckpointReport, Machine, SuspendReport } from '../engine/index.ts';
import type { Lease, Roles } from '../identity/index.ts';
import { type Logger, messageOf } from '../lib/index.ts';
import type { Microvm } from './lifecycle.ts';

/** What is asked of the identity room. */
export type RoleSource = Pick<Roles, 'keep' | 'credentialsFor' | 'demandPass'>;

export interface MachineCredentialsOptions {
  /** Undefined: no role has credentials. */
  readonly roles: RoleSource | undefined;
  readonly log: Logger;
}

interface Kept {
  readonly lease: Lease;
  readonly keeping: AsyncDisposable;
}

export class MachineCredentials {
  readonly #o: MachineCredentialsOptions;
  readonly #kept = new Map<Machine, Kept>();

  constructor(options: MachineCredentialsOptions) {
    this.#o = options;
  }

  /** Asks the role's source while the machine starts; what comes of it is told when it is given. */
  prepare(record: Microvm): void {
    const { roles } = this.#o;
    const lease = leaseOf(record);
    if (roles === undefined || lease === undefined) return;
    const { roleArn, sessionName } = lease;
    roles.credentialsFor(roleArn, { sessionName }).catch(() => {});
  }

  /**
   * Before the app is told anything. A microVM is not launched without its role's credentials; one that lived before goes on
   * without them until they can be had. `taken over`: an earlier server may have given some.
   * @throws DomainError, MachineError when it is launched
   */
  async give(
    machine: Machine,
    record: Microvm,
    how: 'launched' | 'resumed' | 'taken over',
    options: { signal?: AbortSignal } = {},
  ): Promise<void> {
    const lease = leaseOf(record);
    if (lease === undefined) return;
    await this.#keep(machine, lease, { ...options, patient: how !== 'launched', mayHold: how === 'taken over' });
  }

  /** Suspends the machine; when that fails it gets fresh credentials. */
  async suspend(machine: Machine, options: { signal?: AbortSignal }): Promise<SuspendReport> {
    const lease = this.#kept.get(machine)?.lease;
    await this.forget(machine);
    try {
      return await machine.suspend(options);
    } catch (error) {
      if (lease !== undefined && options.signal?.aborted !== true) void this.#giveAgain(machine, lease);
      throw error;
    }
  }

  /** Takes a checkpoint of the machine; it has fresh credentials afterwards, unless it is to be suspended or ended. */
  async checkpoint(machine: Machine, options: { signal: AbortSignal }): Promise<CheckpointReport> {
    const lease = this.#kept.get(machine)?.lease;
    await this.forget(machine);
    try {
      return await machine.checkpoint(options);
    } finally {
      if (lease !== undefined && options.signal.aborted) this.#kept.set(machine, { lease, keeping: NOTHING });
      else if (lease !== undefined) await this.#giveAgain(machine, lease);
    }
  }

  /** It is nobody's machine any more. */
  async forget(machine: Machine): Promise<void> {
    const kept = this.#kept.get(machine);
    this.#kept.delete(machine);
    await kept?.keeping[Symbol.asyncDispose]();
  }

  async #giveAgain(machine: Machine, lease: Lease): Promise<void> {
    try {
      await this.#keep(machine, lease, { patient: true, mayHold: true });
    } catch (error) {
      this.#o.log.warn({ microvmId: machine.id, reason: messageOf(error) }, 'credentials could not be given again');
    }
  }

  async #keep(
    machine: Machine,
    lease: Lease,
    options: { patient: boolean; mayHold: boolean; signal?: AbortSignal },
  ): Promise<void> {
    const { roles } = this.#o;
    if (roles === undefined) return;
    const keeping = await roles.keep(machine, lease, options);
    this.#kept.set(machine, { lease, keeping });
  }
}

/** Whoever has the machine next gives some. */
const NOTHING: AsyncDisposable = { async [Symbol.asyncDispose]() {} };

/** Source for the session's name: none; that it names the microVM is what an audit needs. */
function leaseOf({ id, executionRoleArn, principal }: Microvm): Lease | undefined {
  return executionRoleArn === null ? undefined : { roleArn: executionRoleArn, principal, sessionName: id };
}
