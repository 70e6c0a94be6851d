/**
 * What may be expected of a microVM, told only from what was asked, what was answered and what went wrong: a model that
 * knows nothing of records, epochs and steps. Where trouble makes several ends possible it says `ANY` and only holds what
 * must hold always: nothing ended comes back, nothing ends without a cause, memory is neither lost nor doubled.
 */
import type { MicrovmView } from '../types.ts';
import { CHECKPOINT_MS, type World } from './world.ts';

export type IdleKind = 'none' | 'auto' | 'manual' | 'zero';
type Expected = 'RUNNING' | 'SUSPENDED' | 'TERMINATED' | 'ANY';

export const IDLE_MS = 60_000;
export const ALLOWANCE_MS = 120_000;
const EXIT_SHOWN_MS = 15_000;
/** A host that slept is noticed this much later. */
const SLACK_MS = 61_000;

const LOST = 'The MicroVM was lost because the server stopped.';
const HOST_LOST = 'The MicroVM was lost because the host restarted.';
const LIFETIME = 'The MicroVM reached its maximum duration.';
const ALLOWANCE = 'The MicroVM reached its maximum suspended duration.';
const SUCCESS = 'Success.';
export const NOT_STARTED = 'The MicroVM could not be started.';
export const NOT_RESUMED = 'The MicroVM could not be resumed.';
export const STUCK = 'The MicroVM could not be suspended and did not go on.';
export const ENDED = 'The MicroVM stopped unexpectedly.';
export const SILENT = 'The MicroVM did not answer after the server was started again.';
/** Any failure of a hook. */
export const HOOK = 'hook';
const ANYTHING = 'anything';
const ANY_TROUBLE = 'something went wrong';

const CHANGES: Readonly<Record<string, readonly string[]>> = {
  PENDING: ['RUNNING', 'SUSPENDED', 'TERMINATING'],
  RUNNING: ['SUSPENDING', 'SUSPENDED', 'EXITED', 'TERMINATING'],
  EXITED: ['TERMINATING'],
  SUSPENDING: ['SUSPENDING', 'SUSPENDED', 'RESUMING', 'RUNNING', 'EXITED', 'TERMINATING'],
  SUSPENDED: ['SUSPENDED', 'RESUMING', 'TERMINATING'],
  RESUMING: ['RUNNING', 'SUSPENDED', 'TERMINATING'],
  TERMINATING: ['TERMINATED'],
  TERMINATED: [],
};

/** One microVM that was acknowledged. */
export interface Expectation {
  readonly id: string;
  readonly idle: IdleKind;
  /** Elapsed time before the call and at its answer. */
  readonly bornAfter: number;
  readonly bornBefore: number;
  readonly maximumMs: number;
  /** Reasons it may end with. */
  readonly causes: Set<string>;
  expected: Expected;
  /** Calls without an answer yet. */
  outstanding: number;
  terminateAnswered: boolean;
  suspendAsked: boolean;
  /** How often the guest was reached. */
  count: number;
  exitedAt: number | undefined;
  /** Elapsed time at which it was last known not to sleep, and first known to. */
  awakeAt: number;
  asleepAt: number | undefined;
  /** Time awake at which it was last active at the earliest, and at the latest. */
  activeFrom: number;
  activeAt: number;
  ended: { readonly reason: string | null; readonly at: number | null } | undefined;
}

export class Model {
  readonly vms: Expectation[] = [];
  /** Rises with everything that goes wrong. */
  troubles = 0;
  readonly #world: World;
  /** What went wrong since the last check; it may meet what comes later. */
  readonly #lately = new Set<string>();
  /** Time awake up to which something may have been wrong. */
  #troubledUntil = 0;
  #checkedChanges = 0;

  constructor(world: World) {
    this.#world = world;
  }

  add(view: MicrovmView, idle: IdleKind, maximumMs: number, bornAfter: number): Expectation {
    const vm: Expectation = {
      id: view.microvmId,
      idle,
      bornAfter,
      bornBefore: this.#world.elapsedMs,
      maximumMs,
      causes: new Set(),
      expected: 'RUNNING',
      outstanding: 0,
      terminateAnswered: false,
      suspendAsked: false,
      count: 0,
      exitedAt: undefined,
      awakeAt: this.#world.elapsedMs,
      asleepAt: undefined,
      activeFrom: this.#world.awakeMs,
      activeAt: this.#world.awakeMs,
      ended: undefined,
    };
    this.vms.push(vm);
    for (const cause of this.#lately) vm.causes.add(cause);
    if (this.#lately.size > 0) vm.expected = 'ANY';
    return vm;
  }

  /** Its server was killed before it could answer: it is there, and anything may have become of it since. */
  #addUnanswered(view: MicrovmView): void {
    const { idlePolicy } = view;
    const asleep = idlePolicy?.autoResumeEnabled === true ? 'auto' : 'manual';
    const idle = idlePolicy === null ? 'none' : idlePolicy.suspendedDurationSeconds === 0 ? 'zero' : asleep;
    const vm = this.add(view, idle, view.maximumDurationInSeconds * 1000, Number.NEGATIVE_INFINITY);
    vm.awakeAt = Number.NEGATIVE_INFINITY;
    vm.causes.add(ANYTHING);
    vm.expected = 'ANY';
  }

  /** Nothing went wrong since the last check. */
  get isCalm(): boolean {
    return this.#lately.size === 0;
  }

  /** Something went wrong for all of them: several outcomes are right from now on. */
  trouble(...causes: string[]): void {
    this.troubles++;
    this.#lately.add(ANY_TROUBLE);
    for (const cause of causes) this.#lately.add(cause);
    for (const vm of this.vms) {
      for (const cause of causes) vm.causes.add(cause);
      // When its end is written down is open now.
      vm.exitedAt = undefined;
      if (vm.expected !== 'TERMINATED') vm.expected = 'ANY';
    }
  }

  /** The server ended. What was asleep and left alone stays so; what ran goes on where machines are taken over. */
  serverGone(machinesGone: boolean, withHost: boolean): void {
    this.troubles++;
    for (const vm of this.vms) {
      const busy = vm.outstanding > 0;
      vm.outstanding = 0;
      vm.exitedAt = undefined;
      vm.activeAt = this.#world.awakeMs;
      // A call that was cut short may have woken it.
      if (busy) vm.asleepAt = undefined;
      if (vm.expected === 'SUSPENDED' && vm.asleepAt !== undefined && !busy) continue;
      const hasState = withHost && this.#fallBack(vm);
      if (machinesGone && !hasState) vm.causes.add(LOST).add(HOST_LOST);
      if (vm.expected !== 'TERMINATED' && (busy || machinesGone)) vm.expected = 'ANY';
      // A machine that had crashed just before, which nobody was told: the host may not have kept that, but a state of it.
      if (hasState && vm.ended === undefined && !vm.terminateAnswered) vm.expected = 'ANY';
    }
  }

  /** What ended with its host goes on from a state of it, when there is one: its guest counted that far. */
  #fallBack(vm: Expectation): boolean {
    const { machines, checkpoints } = this.#world.disk;
    if (machines.get(vm.id) != null) return true;
    const checkpoint = checkpoints.get(vm.id);
    if (checkpoint === undefined) return false;
    if (vm.idle === 'zero') this.#object(vm.id, 'it may not sleep and has a checkpoint');
    vm.count = Number(checkpoint.memory.count ?? 0);
    // Where it was and for how long is open now.
    vm.asleepAt = undefined;
    return true;
  }

  /** Compares what there is, at rest, with what must be. */
  async judge(): Promise<void> {
    const { server } = this.#world;
    if (server === undefined) return;
    const known = new Set(this.vms.map((vm) => vm.id));
    for (const id of this.#world.ids()) if (!known.has(id)) this.#addUnanswered(await server.microvms.get(id));
    for (const vm of this.vms) this.#judgeOne(vm, await server.microvms.get(vm.id));
    const kept = new Set(this.vms.filter((vm) => vm.ended === undefined).map((vm) => vm.id));
    for (const id of await server.engine.residue()) if (!kept.has(id)) this.#object(id, 'something of it was left');
    for (const id of this.#world.disk.processes.keys()) if (!kept.has(id)) this.#object(id, 'its process was left');
    this.judgeChanges();
    if (!this.isCalm) this.#troubledUntil = this.#world.awakeMs;
    this.#lately.clear();
  }

  judgeChanges(): void {
    const { changes } = this.#world;
    for (; this.#checkedChanges < changes.length; this.#checkedChanges++) {
      const change = changes[this.#checkedChanges];
      if (change === undefined) continue;
      const { id, from, to } = change;
      const allowed = from === null ? ['PENDING'] : (CHANGES[from] ?? []);
      if (!allowed.includes(to)) this.#object(id, `it went from ${from} to ${to}`);
    }
  }

  /** What is overdue by now must have happened: timers had their time, also after a sleep of the host. */
  #isOver(moment: number): boolean {
    const { awakeMs, elapsedMs, sleptMs } = this.#world;
    return elapsedMs >= moment + SLACK_MS && awakeMs >= sleptMs + SLACK_MS;
  }

  #judgeOne(vm: Expectation, view: MicrovmView): void {
    const { state } = view;
    const exited = this.#world.stateOf(vm.id) === 'EXITED';
    if (state === 'TERMINATED') this.#judgeEnd(vm, view);
    else if (vm.ended !== undefined) this.#object(vm.id, `it came back as ${state}`);
    else if (vm.terminateAnswered) this.#object(vm.id, `it is ${state} although it was terminated`);
    else if (this.#isOver(vm.bornBefore + vm.maximumMs)) this.#object(vm.id, `it outlived itself as ${state}`);
    else if (state === 'RUNNING') this.#judgeRunning(vm, exited);
    else if (state === 'SUSPENDED') this.#judgeSuspended(vm);
    else this.#object(vm.id, `it does not come to rest as ${state}`);
    if (state !== 'TERMINATED' && !exited && vm.expected !== 'ANY' && vm.expected !== state) {
      if (!this.#timeMoved(vm, state)) this.#object(vm.id, `it is ${state}, not ${vm.expected}`);
    }
    vm.expected = exited || (state !== 'TERMINATED' && state !== 'RUNNING' && state !== 'SUSPENDED') ? 'ANY' : state;
  }

  /** The idle clock may have put it to sleep by now. */
  #timeMoved(vm: Expectation, state: string): boolean {
    return (
      vm.expected === 'RUNNING' &&
      state === 'SUSPENDED' &&
      vm.idle !== 'none' &&
      this.#world.awakeMs - Math.max(vm.activeFrom, this.#world.runningSince(vm.id)) >= IDLE_MS
    );
  }

  #judgeRunning(vm: Expectation, exited: boolean): void {
    const { disk, elapsedMs, server } = this.#world;
    if (exited) {
      if (vm.exitedAt !== undefined && this.#isOver(vm.exitedAt + EXIT_SHOWN_MS))
        this.#object(vm.id, 'its app ended long ago');
      return;
    }
    const guest = disk.processes.get(vm.id);
    if (guest === undefined || server?.engine.machines.has(vm.id) !== true) {
      this.#object(vm.id, 'it runs without a machine');
      return;
    }
    this.#judgeMemory(vm, guest.memory);
    if (disk.machines.get(vm.id) != null) this.#object(vm.id, 'it runs, and an old state of it could be resumed');
    // One that was held up or failed is followed by another at its usual time only.
    const ranMs = this.#world.awakeMs - Math.max(this.#world.watchedSince(vm.id), this.#troubledUntil);
    const isDue = this.#world.hasCheckpoints && this.isCalm && vm.idle !== 'zero' && ranMs > CHECKPOINT_MS + 10_000;
    if (isDue && !disk.checkpoints.has(vm.id)) this.#object(vm.id, 'it should have a checkpoint');
    if (
      vm.idle !== 'none' &&
      this.#world.awakeMs - Math.max(vm.activeAt, this.#world.watchedSince(vm.id)) > IDLE_MS + 10_000
    )
      this.#object(vm.id, 'it should have been suspended');
    vm.awakeAt = elapsedMs;
    vm.asleepAt = undefined;
  }

  #judgeSuspended(vm: Expectation): void {
    const { disk, elapsedMs } = this.#world;
    const saved = disk.machines.get(vm.id);
    if (saved == null) this.#object(vm.id, 'it sleeps without a state to resume');
    else this.#judgeMemory(vm, saved);
    if (disk.checkpoints.has(vm.id)) this.#object(vm.id, 'it sleeps beside an older state of it');
    if (disk.processes.has(vm.id)) this.#object(vm.id, 'it sleeps beside a machine that runs');
    vm.asleepAt ??= elapsedMs;
    if (vm.idle !== 'none' && this.#isOver(vm.asleepAt + ALLOWANCE_MS))
      this.#object(vm.id, 'it slept longer than it may');
    if (vm.idle === 'zero') this.#object(vm.id, 'it sleeps although it should have ended');
  }

  #judgeEnd(vm: Expectation, { stateReason, terminatedAt }: MicrovmView): void {
    if (vm.ended !== undefined) {
      if (vm.ended.reason !== stateReason || vm.ended.at !== terminatedAt) this.#object(vm.id, 'its end changed');
      return;
    }
    vm.ended = { reason: stateReason, at: terminatedAt };
    const { elapsedMs } = this.#world;
    const reason = stateReason ?? 'nothing';
    const hook = reason.includes('lifecycle hook') && vm.causes.has(HOOK);
    const lifetime = reason === LIFETIME && elapsedMs >= vm.bornAfter + vm.maximumMs;
    const slept =
      vm.idle === 'zero'
        ? vm.suspendAsked || this.#world.ranMs(vm.id) >= IDLE_MS
        : vm.idle !== 'none' && elapsedMs - vm.awakeAt >= ALLOWANCE_MS;
    const allowed =
      vm.causes.has(reason) || vm.causes.has(ANYTHING) || hook || lifetime || (reason === ALLOWANCE && slept);
    if (!allowed) this.#object(vm.id, `it ended without a cause: ${reason}`);
    const expected = vm.expected === 'RUNNING' || vm.expected === 'SUSPENDED';
    if (expected && !lifetime && !(reason === ALLOWANCE && slept))
      this.#object(vm.id, `it ended (${reason}) but should be ${vm.expected}`);
  }

  #judgeMemory(vm: Expectation, memory: Record<string, unknown>): void {
    const count = Number(memory.count ?? 0);
    if (count !== vm.count) this.#object(vm.id, `its guest counted ${count} of ${vm.count}`);
  }

  #object(id: string, why: string): void {
    this.#world.objections.push(`${id}: ${why}`);
  }
}

/** Reason of a microVM whose app ended. */
export function exitedWith(code: number): string {
  return `Container Stopped with Exit Code: ${code}`;
}

export { LOST, SUCCESS };
