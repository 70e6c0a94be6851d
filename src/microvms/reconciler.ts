/**
 * Drives machines towards records. Event driven: whoever moves a record to a transient state calls `kick`, and the work
 * begins in the same tick. One job per microVM at a time; its outcome is an event on the record like any other, so a
 * record that moved on meanwhile is not overwritten and its machine is undone.
 */
import type { Engine, Machine, MachineExit } from '../engine/index.ts';
import { type Clock, type Logger, MachineError, messageOf, Slots, withDeadline } from '../lib/index.ts';
import type { AppLogs, LogCollection } from './app-log.ts';
import { callHook } from './hooks.ts';
import type { Ledger } from './ledger.ts';
import {
  isTransient,
  type Microvm,
  type Pending,
  type Resuming,
  type Suspending,
  type Terminating,
} from './lifecycle.ts';
import type { LiveMachines } from './live.ts';

export interface ReconcilerOptions {
  readonly engine: Engine;
  readonly ledger: Ledger;
  readonly live: LiveMachines;
  readonly logs: AppLogs;
  readonly clock: Clock;
  readonly log: Logger;
  readonly snapshotDirOf: (record: Microvm) => string;
  readonly concurrentLaunches: number;
  readonly concurrentSuspends: number;
  readonly stepTimeoutMs: number;
  /** Reading the app's log costs a fresh guest time that its first answer needs. */
  readonly collectLogsAfterMs: number;
}

/** Longest pause between attempts of a step that cannot be given up (cleaning up, writing an outcome). */
const MAX_RETRY_MS = 60_000;

interface Job {
  readonly stop: AbortController;
  again: boolean;
}

export class Reconciler implements AsyncDisposable {
  readonly #o: ReconcilerOptions;
  readonly #launches: Slots;
  readonly #suspends: Slots;
  readonly #jobs = new Map<string, Job>();
  readonly #running = new Set<Promise<void>>();
  readonly #retries = new Map<string, { timer: Disposable; delayMs: number }>();
  readonly #collections = new Map<Machine, LogCollection>();
  #disposed = false;

  constructor(options: ReconcilerOptions) {
    this.#o = options;
    this.#launches = new Slots(options.concurrentLaunches);
    this.#suspends = new Slots(options.concurrentSuspends);
  }

  /** The record was written; does nothing for states that need no work. */
  kick(record: Microvm): void {
    if (!isTransient(record) || this.#disposed) return;
    const job = this.#jobs.get(record.id);
    if (job !== undefined) {
      job.again = true;
      if (record.state === 'TERMINATING') job.stop.abort(new Error('the microVM is being terminated'));
      return;
    }
    const started = this.#drive(record);
    this.#running.add(started);
    void started.finally(() => this.#running.delete(started));
  }

  async #drive(record: Microvm): Promise<void> {
    const { id } = record;
    let next: Microvm | undefined = record;
    while (next !== undefined && isTransient(next) && !this.#disposed) {
      const job: Job = { stop: new AbortController(), again: false };
      this.#jobs.set(id, job);
      try {
        await this.#step(next, job.stop.signal);
        this.#retries.get(id)?.timer[Symbol.dispose]();
        this.#retries.delete(id);
        // A kick during the read may be about a later state than the one read.
        do {
          job.again = false;
          next = await this.#o.ledger.find(id);
        } while (job.again);
      } catch (error) {
        if (!this.#disposed) this.#retryLater(id, error);
        next = undefined;
      }
    }
    this.#jobs.delete(id);
  }

  async #step(record: Pending | Suspending | Resuming | Terminating, signal: AbortSignal): Promise<void> {
    switch (record.state) {
      case 'PENDING':
        return this.#launch(record, signal);
      case 'SUSPENDING':
        return this.#suspend(record, signal);
      case 'RESUMING':
        return this.#resume(record, signal);
      case 'TERMINATING':
        return this.#terminate(record);
      default:
        return record satisfies never;
    }
  }

  async #launch(record: Pending, signal: AbortSignal): Promise<void> {
    const log = this.#o.log.child({ microvmId: record.id });
    const startedMs = this.#o.clock.monotonicMs();
    let machine: Machine;
    try {
      using _slot = await this.#launches.acquire({ signal });
      machine = await this.#own('launch', record, signal);
    } catch (error) {
      if (signal.aborted) return;
      logFailure(log, error, 'launch failed');
      await this.#o.ledger.apply(record.id, { type: 'failed', reason: 'The MicroVM could not be started.' });
      return;
    }
    log.debug({ tookMs: this.#o.clock.monotonicMs() - startedMs, pid: machine.pid }, 'machine launched');
    const body = { microvmId: record.id, runHookPayload: record.runHookPayload ?? '' }; // GUESS: run-hook-payload-absent
    const hook = await callHook(machine, record.hooks, 'run', { body, signal });
    if (hook.kind === 'failed') {
      await this.#release(machine);
      if (signal.aborted) return;
      log.info({ detail: hook.detail }, 'run hook failed');
      await this.#o.ledger.apply(record.id, { type: 'failed', reason: hook.reason });
      return;
    }
    await this.#serve(record.id, machine, 'launched');
  }

  async #suspend(record: Suspending, signal: AbortSignal): Promise<void> {
    const log = this.#o.log.child({ microvmId: record.id });
    const machine = this.#o.live.get(record.id)?.machine;
    if (machine === undefined) {
      await this.#o.ledger.apply(record.id, { type: 'lost' });
      return;
    }
    try {
      using _slot = await this.#suspends.acquire({ signal });
      const hook = await callHook(machine, record.hooks, 'suspend', { signal });
      if (hook.kind === 'failed') {
        if (signal.aborted) return;
        log.info({ detail: hook.detail }, 'suspend hook failed');
        await this.#o.ledger.apply(record.id, { type: 'failed', reason: hook.reason });
        return;
      }
      await this.#stopCollecting(machine);
      const report = await withDeadline('suspend', this.#o.stepTimeoutMs, (s) => machine.suspend({ signal: s }), {
        signal,
      });
      log.debug({ ...report }, 'machine suspended');
    } catch (error) {
      if (signal.aborted) return;
      logFailure(log, error, 'suspend failed');
      this.#collect(machine);
      // A machine that died meanwhile announces itself through `exited`.
      await this.#o.ledger.apply(record.id, { type: 'suspend-failed' });
      return;
    }
    this.#o.live.remove(machine);
    await this.#o.ledger.apply(record.id, { type: 'suspended' });
  }

  async #resume(record: Resuming, signal: AbortSignal): Promise<void> {
    const log = this.#o.log.child({ microvmId: record.id });
    const startedMs = this.#o.clock.monotonicMs();
    let machine: Machine;
    try {
      using _slot = await this.#launches.acquire({ signal });
      machine = await this.#own('resume', record, signal);
    } catch (error) {
      if (signal.aborted) return;
      logFailure(log, error, 'resume failed');
      await this.#o.ledger.apply(
        record.id,
        guestNeverRan(error)
          ? { type: 'resume-failed' }
          : { type: 'failed', reason: 'The MicroVM could not be resumed.' },
      );
      return;
    }
    log.debug({ tookMs: this.#o.clock.monotonicMs() - startedMs, pid: machine.pid }, 'machine resumed');
    const hook = await callHook(machine, record.hooks, 'resume', { signal });
    if (hook.kind === 'failed') return this.#suspendAgain(record, machine, hook, signal);
    await this.#serve(record.id, machine, 'resumed');
  }

  /** The resume hook refused: the microVM stays SUSPENDED (documented), so what ran since is saved again. */
  async #suspendAgain(
    record: Resuming,
    machine: Machine,
    hook: { reason: string; detail: string },
    signal: AbortSignal,
  ): Promise<void> {
    if (signal.aborted) return this.#release(machine);
    this.#o.log.info({ microvmId: record.id, detail: hook.detail }, 'resume hook failed');
    try {
      await withDeadline('suspend', this.#o.stepTimeoutMs, (s) => machine.suspend({ signal: s }), { signal });
      await this.#o.ledger.apply(record.id, { type: 'resume-failed' });
    } catch (error) {
      await this.#release(machine);
      if (signal.aborted) return;
      logFailure(this.#o.log.child({ microvmId: record.id }), error, 'suspend after a failed resume hook failed');
      await this.#o.ledger.apply(record.id, { type: 'failed', reason: hook.reason });
    }
  }

  async #terminate(record: Terminating): Promise<void> {
    const machine = this.#o.live.get(record.id)?.machine;
    if (machine !== undefined) {
      if (record.terminateHook) await callHook(machine, record.hooks, 'terminate');
      await this.#collections.get(machine)?.finish();
      this.#collections.delete(machine);
      await this.#release(machine);
    }
    await withDeadline('destroy', this.#o.stepTimeoutMs, () => this.#o.engine.destroy(record.id));
    this.#o.logs.end(record.id);
    await this.#o.ledger.apply(record.id, { type: 'destroyed' });
  }

  /** Launches or resumes; a machine that comes after the deadline or an abort is disposed, not leaked. */
  async #own(what: 'launch' | 'resume', record: Microvm, signal: AbortSignal): Promise<Machine> {
    const request = { id: record.id, snapshotDir: this.#o.snapshotDirOf(record) };
    let coming: Promise<Machine> | undefined;
    try {
      return await withDeadline(
        what,
        this.#o.stepTimeoutMs,
        (s) => {
          coming = this.#o.engine[what](request, { signal: s });
          return coming;
        },
        { signal },
      );
    } catch (error) {
      coming
        ?.then(
          (late) => late[Symbol.asyncDispose](),
          () => {},
        )
        .catch(() => {});
      throw error;
    }
  }

  /** The machine is up: it serves if the record agrees, else it is undone. */
  async #serve(id: string, machine: Machine, event: 'launched' | 'resumed'): Promise<void> {
    this.#o.live.add(machine);
    const outcome = await this.#o.ledger.apply(id, { type: event });
    if (outcome.kind !== 'moved') return this.#release(machine);
    // Only now: an exit that came earlier would find a record that cannot take it yet.
    void machine.exited.then((exit) => this.#exited(machine, exit));
    this.#collectSoon(machine);
  }

  async #exited(machine: Machine, exit: MachineExit): Promise<void> {
    if (this.#disposed || this.#o.live.get(machine.id)?.machine !== machine) return;
    const log = this.#o.log.child({ microvmId: machine.id });
    try {
      if (exit.kind === 'app') {
        log.info({ exitCode: exit.exitCode }, 'app exited');
        await this.#o.ledger.apply(machine.id, { type: 'app-exited', exitCode: exit.exitCode });
      } else {
        log.error({ message: exit.message, evidence: exit.evidence }, 'VMM ended unexpectedly');
        await this.#o.ledger.apply(machine.id, { type: 'failed', reason: 'The MicroVM stopped unexpectedly.' });
      }
    } catch (error) {
      logFailure(log, error, 'the end of a machine could not be recorded');
    }
  }

  async #release(machine: Machine): Promise<void> {
    this.#o.live.remove(machine);
    await this.#stopCollecting(machine);
    await withDeadline('dispose', this.#o.stepTimeoutMs, async () => machine[Symbol.asyncDispose]());
  }

  #collectSoon(machine: Machine): void {
    this.#o.clock.after(this.#o.collectLogsAfterMs, () => {
      if (!this.#disposed && this.#o.live.get(machine.id)?.machine === machine) this.#collect(machine);
    });
  }

  #collect(machine: Machine): void {
    if (!this.#collections.has(machine)) this.#collections.set(machine, this.#o.logs.collect(machine));
  }

  async #stopCollecting(machine: Machine): Promise<void> {
    const collection = this.#collections.get(machine);
    this.#collections.delete(machine);
    await collection?.stop();
  }

  /** Only for what must not be given up; everything else became a state. */
  #retryLater(id: string, error: unknown): void {
    const delayMs = Math.min(MAX_RETRY_MS, (this.#retries.get(id)?.delayMs ?? 500) * 2);
    logFailure(this.#o.log.child({ microvmId: id, retryMs: delayMs }), error, 'a step failed and will be tried again');
    const timer = this.#o.clock.after(delayMs, () => {
      void this.#o.ledger
        .find(id)
        .then((record) => record && this.kick(record))
        .catch((again: unknown) => this.#retryLater(id, again));
    });
    this.#retries.get(id)?.timer[Symbol.dispose]();
    this.#retries.set(id, { timer, delayMs });
  }

  /** Stops all work and ends every machine; records stay as they are, the next start sorts them out. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    for (const { timer } of this.#retries.values()) timer[Symbol.dispose]();
    for (const job of this.#jobs.values()) job.stop.abort(new Error('the server is stopping'));
    await Promise.allSettled([...this.#running]);
    await Promise.allSettled(this.#o.live.all().map(({ machine }) => this.#release(machine)));
  }
}

/** Kinds thrown before the guest ran, so its saved state is as it was; after anything else it may have written to its disk. */
function guestNeverRan(error: unknown): boolean {
  return error instanceof MachineError && (error.kind === 'unsupported' || error.kind === 'failed');
}

function logFailure(log: Logger, error: unknown, message: string): void {
  const evidence = error instanceof MachineError && error.evidence !== '' ? { evidence: error.evidence } : {};
  log.error({ error: messageOf(error), ...evidence }, message);
}
