/**
 * What steps ask of the engine and of its machines, each call bounded. A call that never comes back is given up: what comes of
 * it later is undone.
 */
import type { Egress, Engine, LaunchRequest, Machine, MachineExit, ResumeRequest } from '../engine/index.ts';
import { type Clock, type Logger, MachineError, Slots, withDeadline } from '../lib/index.ts';
import type { AppLogs, LogCollection } from './app-log.ts';
import type { Checkpoints } from './checkpoints.ts';
import type { MachineCredentials } from './credentials.ts';
import type { MachineEgress } from './egress.ts';
import { endOf, logFailure } from './end-reasons.ts';
import { type Came, callWithGrace } from './engine-call.ts';
import { callHook, type HookResult, type RuntimeHook } from './hooks.ts';
import type { Microvm } from './lifecycle.ts';
import type { LiveMachines } from './live.ts';

export interface MachineCallsOptions {
  readonly engine: Engine;
  readonly live: LiveMachines;
  readonly logs: AppLogs;
  readonly egress: MachineEgress;
  readonly credentials: MachineCredentials;
  readonly checkpoints: Checkpoints;
  readonly clock: Clock;
  readonly log: Logger;
  readonly snapshotDirOf: (record: Microvm) => string;
  readonly concurrentLaunches: number;
  readonly stepTimeoutMs: number;
  /** Reading the app's log costs a fresh guest time that its first answer needs. */
  readonly collectLogsAfterMs: number;
}

export class MachineCalls {
  readonly #o: MachineCallsOptions;
  readonly #launches: Slots;
  readonly #collections = new Map<Machine, LogCollection>();
  /** Their launch or resume was given up and has not come back. */
  readonly #stuck = new Map<string, Promise<Machine | undefined>>();
  #stopped = false;

  constructor(options: MachineCallsOptions) {
    this.#o = options;
    this.#launches = new Slots(options.concurrentLaunches);
  }

  /** Nothing new is begun: the server stops. */
  stop(): void {
    this.#stopped = true;
  }

  isStuck(id: string): boolean {
    return this.#stuck.has(id);
  }

  /** Takes the app's last lines. */
  async finishLog(machine: Machine): Promise<void> {
    await this.#collections.get(machine)?.finish();
    this.#collections.delete(machine);
  }

  /** Launches or resumes. A machine that comes when nobody expects it any more is undone with all it left. */
  async start(what: 'launch' | 'resume', record: Microvm, signal: AbortSignal): Promise<Came<Machine>> {
    const before = this.#stuck.get(record.id);
    if (before !== undefined) return { kind: 'stuck', late: before };
    const log = this.#o.log.child({ microvmId: record.id });
    const startedMs = this.#o.clock.monotonicMs();
    let slot: Disposable;
    try {
      slot = await this.#launches.acquire({ signal });
    } catch (error) {
      return { kind: 'failed', error };
    }
    using _slot = slot;
    const { engine, egress: egresses, credentials } = this.#o;
    credentials.prepare(record);
    const begin = (s: AbortSignal) =>
      egresses.attach(record, (egress) => engine[what](this.requestOf(record, egress), { signal: s }));
    const came = await this.call(what, begin, signal);
    if (came.kind === 'failed' && !signal.aborted) logFailure(log, came.error, `${what} failed`);
    if (came.kind === 'stuck') {
      logFailure(log, new MachineError('timeout', 'it never came to an end'), `${what} failed`);
      this.giveUp(record.id, came.late);
    }
    if (came.kind !== 'done') return came;
    log.debug({ tookMs: this.#o.clock.monotonicMs() - startedMs, pid: came.value.pid, what }, 'machine started');
    const how = what === 'launch' ? 'launched' : 'resumed';
    const given = await this.call(
      'giving credentials',
      (s) => credentials.give(came.value, record, how, { signal: s }),
      signal,
    );
    if (given.kind === 'done' && !signal.aborted) return came;
    if (given.kind === 'failed' && !signal.aborted) logFailure(log, given.error, 'a role gave no credentials');
    await this.release(came.value);
    return { kind: 'failed', error: given.kind === 'failed' ? given.error : signal.reason };
  }

  /** Its microVM ends now; whatever comes of the call later is undone. */
  giveUp(id: string, late: Promise<Machine | undefined>): void {
    this.#stuck.set(id, late);
    const undo = async (machine: Machine | undefined) => {
      await machine?.[Symbol.asyncDispose]();
      if (!this.#stopped) await this.destroy(id);
    };
    late
      .then(undo)
      .catch((error: unknown) => logFailure(this.#o.log.child({ microvmId: id }), error, 'a late machine was undone'))
      .finally(() => this.#stuck.delete(id));
  }

  requestOf(record: Microvm, egress: Egress): LaunchRequest & ResumeRequest {
    const keepsCheckpoint = this.#o.checkpoints.wants(record);
    return { id: record.id, snapshotDir: this.#o.snapshotDirOf(record), egress, keepsCheckpoint };
  }

  call<T>(what: string, work: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<Came<T>> {
    const { clock, stepTimeoutMs } = this.#o;
    return callWithGrace(what, work, { clock, timeoutMs: stepTimeoutMs, signal });
  }

  /** @throws when it could not be made sure that nothing is left */
  async destroy(id: string): Promise<void> {
    const { clock, stepTimeoutMs, engine } = this.#o;
    await withDeadline('destroy', stepTimeoutMs, () => engine.destroy(id), { clock });
  }

  /** Calls a hook for as long as the machine lives. */
  async hook(
    machine: Machine,
    record: Microvm,
    name: RuntimeHook,
    options: { body?: unknown; signal: AbortSignal },
  ): Promise<Exclude<HookResult, { kind: 'failed' }> | { kind: 'failed'; reason: string; exited: boolean }> {
    const ended = new AbortController();
    let exit: MachineExit | undefined;
    void machine.exited.then((how) => {
      exit = how;
      ended.abort(new MachineError('exited', 'the machine came to its end'));
    });
    const signal = AbortSignal.any([options.signal, ended.signal]);
    const result = await callHook(machine, record.hooks, name, { ...options, signal, clock: this.#o.clock });
    if (result.kind === 'passed') return result;
    this.#o.log.info({ microvmId: record.id, hook: name, detail: result.detail }, 'hook failed');
    return { kind: 'failed', reason: exit === undefined ? result.reason : endOf(exit), exited: exit !== undefined };
  }

  async release(machine: Machine): Promise<void> {
    const { clock, stepTimeoutMs } = this.#o;
    this.#o.live.remove(machine);
    this.#o.checkpoints.cancel(machine.id);
    await this.#o.checkpoints.ended(machine.id);
    await this.stopCollecting(machine);
    await this.#o.credentials.forget(machine);
    await withDeadline('dispose', stepTimeoutMs, async () => machine[Symbol.asyncDispose](), { clock });
  }

  collectSoon(machine: Machine): void {
    this.#o.clock.after(this.#o.collectLogsAfterMs, () => {
      if (!this.#stopped && this.#o.live.get(machine.id)?.machine === machine) this.#collect(machine);
    });
  }

  #collect(machine: Machine): void {
    if (!this.#collections.has(machine)) this.#collections.set(machine, this.#o.logs.collect(machine));
  }

  async stopCollecting(machine: Machine): Promise<void> {
    const collection = this.#collections.get(machine);
    this.#collections.delete(machine);
    await collection?.stop();
  }
}
