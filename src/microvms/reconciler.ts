/**
 * Drives machines towards records. Event driven: whoever moves a record to a transient state calls `kick`, and the work
 * begins in the same tick. One job per microVM at a time; its outcome is an event on the record like any other, so a
 * record that moved on meanwhile is not overwritten and its machine is undone.
 *
 * Invariant: steps can be repeated. After a start, or when an outcome could not be written down, a step first looks at
 * what is there: a machine of the record's epoch, a complete suspended state, neither. And no engine call for a microVM
 * begins before the one before it came back; one that never does ends the microVM.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Machine, MachineExit } from '../engine/index.ts';
import { MachineError, Slots } from '../lib/index.ts';
import { type Adopted, Adoptions } from './adoptions.ts';
import { endOf, logFailure, reasonOf, TEXTS } from './end-reasons.ts';
import { eventOfRecall } from './host-loss.ts';
import type { Ledger, MicrovmRow } from './ledger.ts';
import {
  type Event,
  isTransient,
  type Microvm,
  type Pending,
  type Resuming,
  type Running,
  type Suspending,
  type Terminating,
} from './lifecycle.ts';
import { MachineCalls, type MachineCallsOptions } from './machine-calls.ts';
import { Retries } from './retries.ts';

export interface ReconcilerOptions extends MachineCallsOptions {
  readonly ledger: Ledger;
  readonly concurrentSuspends: number;
  /** How long a suspend asked for by a caller lets exchanges end that are under way. */
  readonly drainMs: number;
  /** No machine of an earlier server can live. */
  readonly isNewBoot: boolean;
  /** A machine of an earlier server was taken over: its microVM serves again. */
  readonly onAdopted: (record: Running, revision: number) => void;
}

/** A host whose memory runs short can't wait long. */
const PRESSURE_DRAIN_MS = 5000;

interface Job {
  readonly record: Microvm;
  readonly stop: AbortController;
  again: boolean;
}

export class Reconciler implements AsyncDisposable {
  readonly #o: ReconcilerOptions;
  readonly #calls: MachineCalls;
  readonly #suspends: Slots;
  readonly #adoptions: Adoptions;
  /** Machines of RUNNING records that are being taken over. */
  readonly #returning = new Map<string, Promise<void>>();
  readonly #jobs = new Map<string, Job>();
  readonly #running = new Set<Promise<void>>();
  readonly #retries: Retries;
  /** Of these it is not known what is on the host. */
  readonly #unsure = new Set<string>();
  /** What came of steps and could not be written down yet. */
  readonly #conclusions = new Map<string, { readonly record: Microvm; readonly event: Event }>();
  #disposed = false;

  constructor(options: ReconcilerOptions) {
    this.#o = options;
    this.#calls = new MachineCalls(options);
    this.#retries = new Retries(options);
    this.#suspends = new Slots(options.concurrentSuspends);
    this.#adoptions = new Adoptions({
      ...options,
      timeoutMs: options.stepTimeoutMs,
      requestOf: (record, egress) => this.#calls.requestOf(record, egress),
      onStuck: (id, late) => this.#calls.giveUp(id, late),
    });
  }

  /** The record was written; does nothing for states that need no work. */
  kick(record: Microvm): void {
    if (this.#disposed) return;
    if (record.state === 'TERMINATING') this.#adoptions.hurry(record.id);
    const job = this.#jobs.get(record.id);
    if (job === undefined) {
      if (isTransient(record)) this.#track(this.#drive(record));
      return;
    }
    job.again = true;
    const ends = record.state === 'TERMINATING' || record.state === 'EXITED';
    if (ends && job.record.state !== record.state) job.stop.abort(new Error('the microVM is coming to its end'));
  }

  /**
   * At the start of a server: brings a record together with what is there. Resolves when its state is right, its machine may
   * still be on its way; with false when that has to be tried again.
   */
  async recover(row: MicrovmRow): Promise<boolean> {
    const { body: record, revision } = row;
    let found: Event | undefined;
    try {
      found = await eventOfRecall(this.#o.engine, record);
      // Where this is another attempt, a step may have seen to it by now.
      if ((await this.#o.ledger.rows.get(record.id))?.revision !== revision) return true;
    } catch (error) {
      this.#retries.later(`${record.id} recall`, error, () => this.#recoverAgain(row));
      return false;
    }
    if (found !== undefined) return this.#report(record.id, found);
    if (isTransient(record)) {
      this.#unsure.add(record.id);
      this.kick(record);
      return true;
    }
    if (record.state !== 'RUNNING') return true;
    const log = this.#o.log.child({ microvmId: record.id });
    const back = this.#goOn(record, revision).catch((error: unknown) => {
      if (!this.#disposed) logFailure(log, error, 'a machine was not taken over');
    });
    this.#returning.set(record.id, back);
    this.#track(back.finally(() => this.#returning.delete(record.id)));
    return true;
  }

  /** Of those that `recover` found so far. Never rejects. */
  async allReturned(): Promise<void> {
    await Promise.all(this.#returning.values());
  }

  /** Its machine is where it was left. Steps for it wait until this has come back. */
  async #goOn(record: Running, revision: number): Promise<void> {
    const { id, epoch } = record;
    const adopted = await this.#adopt(record);
    if (adopted.kind !== 'machine') return void (await this.#report(id, this.#lossOf(record, adopted)));
    const { machine } = adopted;
    // They would grow old.
    if (!this.#o.checkpoints.wants(record)) await this.#forgetCheckpoints(id);
    if (this.#disposed) return this.#calls.release(machine);
    this.#o.live.add(machine, epoch);
    // Somebody wanted something else of it meanwhile.
    if (!this.#jobs.has(id)) this.#o.onAdopted(record, revision);
    this.#watch(machine, epoch);
  }

  #recoverAgain({ id }: Pick<MicrovmRow, 'id'>): void {
    const again = async () => {
      const row = await this.#o.ledger.rows.get(id);
      if (row !== undefined) await this.recover(row);
    };
    again().catch((error: unknown) => this.#retries.later(`${id} recall`, error, () => this.#recoverAgain({ id })));
  }

  async #forgetCheckpoints(id: string): Promise<void> {
    try {
      await this.#o.engine.forgetCheckpoints(id);
    } catch (error) {
      logFailure(this.#o.log.child({ microvmId: id }), error, 'its checkpoints could not be removed');
    }
  }

  #track(work: Promise<void>): void {
    this.#running.add(work);
    void work.finally(() => this.#running.delete(work));
  }

  async #drive(record: Microvm): Promise<void> {
    const { id } = record;
    let next: Microvm | undefined = record;
    while (next !== undefined && isTransient(next) && !this.#disposed) {
      const job: Job = { record: next, stop: new AbortController(), again: false };
      this.#jobs.set(id, job);
      try {
        const returning = this.#returning.get(id);
        if (returning !== undefined) await returning;
        else if (!(await this.#concludeAgain(next))) await this.#step(next, job.stop.signal);
        // A kick during the read may be about a later state than the one read.
        do {
          job.again = false;
          next = await this.#o.ledger.find(id);
        } while (job.again);
        // What it waits for was not written down yet: at once again would be for ever.
        if (returning === undefined && isDeepStrictEqual(next, job.record))
          throw new Error(`the ${job.record.state} step changed nothing`);
        this.#retries.forget(id);
        this.#unsure.delete(id);
      } catch (error) {
        this.#unsure.add(id);
        this.#retries.later(id, error, () => this.#kickAgain(id));
        next = undefined;
      }
    }
    this.#jobs.delete(id);
  }

  /** Writes down what came of a step; what cannot be written now is kept, so that the step is not done twice. */
  async #conclude(record: Microvm, event: Event): Promise<void> {
    this.#conclusions.set(record.id, { record, event });
    await this.#o.ledger.apply(record.id, event);
    this.#conclusions.delete(record.id);
  }

  /** False when the step has yet to be done. */
  async #concludeAgain(record: Microvm): Promise<boolean> {
    const kept = this.#conclusions.get(record.id);
    if (kept === undefined) return false;
    const isSameStep = kept.record.state === record.state && kept.record.epoch === record.epoch;
    if (isSameStep) await this.#o.ledger.apply(record.id, kept.event);
    this.#conclusions.delete(record.id);
    return isSameStep;
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
        return this.#terminate(record, signal);
      default:
        return record satisfies never;
    }
  }

  async #launch(record: Pending, signal: AbortSignal): Promise<void> {
    const { id, epoch } = record;
    const ready = this.#readyMachine(record);
    if (ready !== undefined) return this.#serve(record, ready, 'launched');
    // What a launch left that nobody heard the end of may have run: it is begun anew, not gone on with.
    if (this.#unsure.has(id)) await this.#calls.destroy(id);
    const machine = await this.#calls.start('launch', record, signal);
    if (machine.kind !== 'done') {
      if (signal.aborted) return;
      await this.#conclude(record, { type: 'launch-failed', epoch, reason: reasonOf(machine, TEXTS.notStarted) });
      return;
    }
    const body = { microvmId: id, runHookPayload: record.runHookPayload ?? '' }; // GUESS: run-hook-payload-absent
    const hook = await this.#calls.hook(machine.value, record, 'run', { body, signal });
    if (hook.kind === 'failed') {
      await this.#calls.release(machine.value);
      if (signal.aborted) return;
      await this.#conclude(record, { type: 'launch-failed', epoch, reason: hook.reason });
      return;
    }
    await this.#serve(record, machine.value, 'launched');
  }

  async #suspend(record: Suspending, signal: AbortSignal): Promise<void> {
    const { id, epoch } = record;
    const log = this.#o.log.child({ microvmId: id });
    const ready = this.#readyMachine(record);
    const left = ready === undefined ? await this.#whatIsLeft(record) : ({ kind: 'machine', machine: ready } as const);
    if (left.kind !== 'machine') {
      await this.#conclude(record, left.kind === 'saved' ? { type: 'suspended', epoch } : this.#lossOf(record, left));
      return;
    }
    const { machine } = left;
    const saving = await this.#save(record, machine, signal);
    if (saving.kind === 'done') {
      log.debug({ ...saving.value }, 'machine suspended');
      this.#o.live.remove(machine);
      await this.#conclude(record, { type: 'suspended', epoch });
      return;
    }
    if (saving.kind === 'stuck') {
      logFailure(log, new MachineError('timeout', 'the suspend never came to an end'), 'suspend failed');
      await this.#calls.release(machine);
      await this.#conclude(record, { type: 'machine-ended', epoch, reason: TEXTS.stuck });
      return;
    }
    if (signal.aborted) return;
    if (saving.kind === 'called-off') {
      log.debug({}, 'traffic came: its suspend is called off');
      await this.#conclude(record, { type: 'suspend-called-off', epoch });
      return;
    }
    if (saving.kind === 'refused') {
      // A machine that came to its end during the hook announces that itself.
      if (!saving.exited) await this.#conclude(record, { type: 'suspend-refused', epoch, reason: saving.reason });
      return;
    }
    logFailure(log, saving.error, 'suspend failed');
    this.#calls.collectSoon(machine);
    await this.#conclude(record, { type: 'suspend-failed', epoch, detail: TEXTS.notSaved });
  }

  async #save(record: Suspending, machine: Machine, signal: AbortSignal) {
    let slot: Disposable;
    try {
      // What is under way through the endpoint may end first.
      if (record.cause !== 'idle') await this.#o.live.quiet(record.id, this.#drainMsOf(record), signal);
      slot = await this.#suspends.acquire({ signal });
    } catch (error) {
      return { kind: 'failed', error } as const;
    }
    using _slot = slot;
    if (this.#isIdleNoMore(record)) return { kind: 'called-off' } as const;
    await this.#o.checkpoints.ended(record.id);
    const hook = await this.#calls.hook(machine, record, 'suspend', { signal });
    if (hook.kind === 'failed') return { ...hook, kind: 'refused' } as const;
    await this.#calls.stopCollecting(machine);
    // Awaited here: its slot is held until it is done.
    return await this.#calls.call('suspend', (s) => this.#o.credentials.suspend(machine, { signal: s }), signal);
  }

  #drainMsOf({ cause }: Suspending): number {
    return cause === 'pressure' ? Math.min(PRESSURE_DRAIN_MS, this.#o.drainMs) : this.#o.drainMs;
  }

  /** Traffic came while it was written down that it is idle. Not so when its hook may have been called already. */
  #isIdleNoMore({ id, cause, idlePolicy }: Suspending): boolean {
    if (cause !== 'idle' || this.#unsure.has(id)) return false;
    return this.#o.live.isAwaited(id) || this.#o.live.stirs(id, (idlePolicy?.maxIdleDurationSeconds ?? 0) * 1000);
  }

  async #resume(record: Resuming, signal: AbortSignal): Promise<void> {
    const { id, epoch } = record;
    const ready = this.#readyMachine(record);
    if (ready !== undefined) return this.#serve(record, ready, 'resumed');
    const left = this.#unsure.has(id) ? await this.#whatIsLeft(record) : SAVED;
    if (left.kind === 'nothing' || left.kind === 'silent') {
      await this.#conclude(record, this.#lossOf(record, left));
      return;
    }
    const coming =
      left.kind === 'saved'
        ? await this.#calls.start('resume', record, signal)
        : ({ kind: 'done', value: left.machine } as const);
    if (coming.kind !== 'done') {
      if (signal.aborted) return;
      // The engine voids what was saved before the guest runs its first instruction: while it is there, nothing is lost.
      const isAsBefore = coming.kind === 'failed' && (await this.#o.engine.isSuspended(id));
      const type = isAsBefore ? 'resume-failed' : 'resume-broken';
      const failure: Event = { type, epoch, reason: reasonOf(coming, TEXTS.notResumed) };
      // It may have been lost with its host, and the server that was to find that out was stopped before it did.
      const lost = coming.kind === 'failed' && !isAsBefore ? await eventOfRecall(this.#o.engine, record) : undefined;
      await this.#conclude(record, lost ?? failure);
      return;
    }
    // A machine taken over may have been told already; being told again is allowed.
    const hook = await this.#calls.hook(coming.value, record, 'resume', { signal });
    if (hook.kind === 'failed') return this.#suspendAgain(record, coming.value, hook, signal);
    await this.#serve(record, coming.value, 'resumed');
  }

  /** The resume hook refused: the microVM stays SUSPENDED (documented), so what ran since is saved again. */
  async #suspendAgain(
    record: Resuming,
    machine: Machine,
    hook: { reason: string; exited: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const { id, epoch } = record;
    if (signal.aborted || hook.exited) {
      await this.#calls.release(machine);
      if (!signal.aborted) await this.#conclude(record, { type: 'resume-broken', epoch, reason: hook.reason });
      return;
    }
    const saving = await this.#calls.call(
      'suspend',
      (s) => this.#o.credentials.suspend(machine, { signal: s }),
      signal,
    );
    if (saving.kind === 'done') {
      await this.#conclude(record, { type: 'resume-failed', epoch, reason: hook.reason });
      return;
    }
    await this.#calls.release(machine);
    if (signal.aborted) return;
    const error = saving.kind === 'failed' ? saving.error : new MachineError('timeout', 'it never came to an end');
    logFailure(this.#o.log.child({ microvmId: id }), error, 'suspend after a failed resume hook failed');
    await this.#conclude(record, { type: 'resume-broken', epoch, reason: hook.reason });
  }

  /** @throws when something is left; the step is tried again. `signal`: the server stops, the next one goes on. */
  async #terminate(record: Terminating, signal: AbortSignal): Promise<void> {
    const { id } = record;
    let machine = this.#o.live.get(id)?.machine;
    if (machine === undefined && record.terminateHook && this.#unsure.has(id)) {
      const adopted = await this.#adopt(record);
      if (adopted.kind === 'machine') machine = adopted.machine;
    }
    if (machine !== undefined) {
      if (record.terminateHook) await this.#calls.hook(machine, record, 'terminate', { signal });
      await this.#calls.finishLog(machine);
      await this.#calls.release(machine);
    }
    await this.#calls.destroy(id);
    await this.#conclude(record, { type: 'destroyed' });
  }

  /** The machine a step that could not write its outcome down has made ready. */
  #readyMachine(record: Microvm): Machine | undefined {
    const live = this.#o.live.get(record.id);
    return live?.epoch === record.epoch ? live.machine : undefined;
  }

  /** What an earlier attempt left, in this server or one before. */
  async #whatIsLeft(record: Suspending | Resuming): Promise<Adopted | typeof SAVED> {
    if (await this.#o.engine.isSuspended(record.id)) return SAVED;
    const adopted = await this.#adopt(record);
    if (adopted.kind === 'machine' && record.state === 'SUSPENDING') {
      this.#o.live.add(adopted.machine, record.epoch);
      this.#watch(adopted.machine, record.epoch);
    }
    return adopted;
  }

  #lossOf({ epoch }: Microvm, { kind }: { kind: 'nothing' | 'silent' }): Event {
    if (kind === 'silent') return { type: 'machine-ended', epoch, reason: TEXTS.silent };
    return { type: 'lost', epoch, withHost: this.#o.isNewBoot };
  }

  /** Of an engine whose machines outlive a server. Rejects when the server stops meanwhile. */
  async #adopt(record: Microvm): Promise<Adopted> {
    return this.#calls.isStuck(record.id) ? { kind: 'silent' } : this.#adoptions.adopt(record);
  }

  /** The machine is up: it serves if the record agrees, else it is undone. */
  async #serve(record: Pending | Resuming, machine: Machine, type: 'launched' | 'resumed'): Promise<void> {
    if (this.#disposed) return this.#calls.release(machine);
    this.#o.live.add(machine, record.epoch);
    const outcome = await this.#o.ledger.apply(record.id, { type, epoch: record.epoch });
    if (outcome.kind !== 'moved') return this.#calls.release(machine);
    // Only now: an exit that came earlier would find a record that cannot take it yet.
    this.#watch(machine, record.epoch);
  }

  #watch(machine: Machine, epoch: number): void {
    void machine.exited.then((exit) => this.#exited(machine, epoch, exit));
    this.#calls.collectSoon(machine);
  }

  #exited(machine: Machine, epoch: number, exit: MachineExit): void {
    if (this.#disposed || this.#o.live.get(machine.id)?.machine !== machine) return;
    const log = this.#o.log.child({ microvmId: machine.id });
    if (exit.kind === 'app') {
      log.info({ exitCode: exit.exitCode }, 'app exited');
      void this.#report(machine.id, { type: 'app-exited', epoch, exitCode: exit.exitCode });
    } else {
      log.error(
        { message: exit.message, evidence: exit.evidence },
        exit.kind === 'guest' ? 'guest ended' : 'VMM ended unexpectedly',
      );
      void this.#report(machine.id, { type: 'machine-ended', epoch, reason: endOf(exit) });
    }
  }

  /** Writes down what happened, for as long as it takes; says after the first attempt whether it is written. */
  async #report(id: string, event: Event): Promise<boolean> {
    const key = `${id} ${event.type}`;
    try {
      await this.#o.ledger.apply(id, event);
      this.#retries.forget(key);
      return true;
    } catch (error) {
      this.#retries.later(key, error, () => void this.#report(id, event));
      return false;
    }
  }

  #kickAgain(id: string): void {
    this.#o.ledger.find(id).then(
      (record) => record && this.kick(record),
      (error: unknown) => this.#retries.later(id, error, () => this.#kickAgain(id)),
    );
  }

  /** Stops all work and ends every machine; records stay as they are, the next start sorts them out. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    this.#calls.stop();
    this.#retries[Symbol.dispose]();
    const reason = new Error('the server is stopping');
    this.#adoptions.stop(reason);
    for (const job of this.#jobs.values()) job.stop.abort(reason);
    await Promise.allSettled([...this.#running]);
    await Promise.allSettled(this.#o.live.all().map(({ machine }) => this.#calls.release(machine)));
  }
}

/** A complete suspended state is there. */
const SAVED = { kind: 'saved' } as const;
