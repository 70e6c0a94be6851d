/** Plays a sequence and says what was wrong with it. */
import { DomainError, MachineError } from '../../lib/index.ts';
import type { Store } from '../../store/index.ts';
import type { RunMicrovmInput } from '../types.ts';
import {
  ENDED,
  type Expectation,
  exitedWith,
  HOOK,
  type IdleKind,
  LOST,
  Model,
  NOT_RESUMED,
  NOT_STARTED,
  SILENT,
  STUCK,
  SUCCESS,
} from './model.ts';
import type { Faulty, Held, Sequence, Step } from './steps.ts';
import { DISK_FULL, IMAGE, World } from './world.ts';

const MAX_VMS = 3;
const RESTING = ['RUNNING', 'EXITED', 'SUSPENDED', 'TERMINATED'];
/** Between attempts to write something down. */
const LONGEST_PAUSE_MS = 61_000;
/** Longer than every timeout and retry of the room together. */
const REST_MS = 240_000;

/** What was wrong; empty when nothing was. */
export async function play(store: Store, sequence: Sequence): Promise<readonly string[]> {
  const player = new Player(store, sequence);
  await player.open();
  for (const [index, step] of sequence.steps.entries()) {
    await player.step(step);
    if (player.objections.length > 0) return player.objections.map((why) => `step ${index} (${step.do}): ${why}`);
  }
  await player.end();
  return player.objections.map((why) => `at the end: ${why}`);
}

class Player {
  readonly #world: World;
  readonly #model: Model;
  readonly #adopts: boolean;
  /** Calls of the present server without an answer. */
  #calls = new Set<Promise<void>>();
  #exchanges = new Map<Expectation, Disposable>();
  /** Some outcome may wait to be written down. */
  #wasFull = false;
  /** It may not have been noted: for want of time, a server or room on the disk. */
  #hasJumped = false;
  /** The disk was full when the host was started anew: to a later server the boot it finds is a new one again. */
  #isBootUnnoted = false;

  constructor(store: Store, sequence: Sequence) {
    this.#world = new World(store, sequence);
    this.#model = new Model(this.#world);
    this.#adopts = sequence.adopts;
  }

  get objections(): string[] {
    return this.#world.objections;
  }

  async open(): Promise<void> {
    await this.#world.open();
    await this.#world.goOn(10);
  }

  async end(): Promise<void> {
    await this.#check();
    for (const vm of this.#model.vms) this.#terminate(vm);
    await this.#check();
    for (const vm of this.#model.vms) if (vm.ended === undefined) this.objections.push(`${vm.id}: it never ended`);
    await this.#world.stop();
    this.#model.judgeChanges();
  }

  async step(step: Step): Promise<void> {
    const world = this.#world;
    const model = this.#model;
    switch (step.do) {
      case 'run':
        return this.#run(step.idle, step.seconds);
      case 'suspend':
        return this.#withVm(step.vm, (vm) => this.#suspend(vm));
      case 'resume':
        return this.#withVm(step.vm, (vm) => this.#resume(vm));
      case 'terminate':
        return this.#withVm(step.vm, (vm) => this.#terminate(vm));
      case 'traffic':
        return this.#withVm(step.vm, (vm) => this.#traffic(vm));
      case 'exchange':
        return this.#withVm(step.vm, (vm) => this.#exchange(vm, step.begin));
      case 'exit':
        return this.#withVm(step.vm, (vm) => this.#exit(vm, step.code));
      case 'crash':
        return this.#withVm(step.vm, (vm) => this.#crash(vm));
      case 'go-on':
        return world.goOn(step.rounds);
      case 'advance':
        await world.goOn(60);
        return world.advance(step.ms);
      case 'jump':
        this.#hasJumped = true;
        return world.clock.jump(step.ms);
      case 'sleep':
        return world.sleepHost(step.ms);
      case 'reboot':
        await this.#noteJump();
        this.#serverGone(true, true);
        world.rebootHost(step.ms);
        this.#isBootUnnoted = world.diskFull;
        return world.open();
      case 'power':
        await this.#noteJump();
        this.#serverGone(true, true);
        await world.losePower(step.ms, step.all);
        this.#isBootUnnoted = world.diskFull;
        return world.open();
      case 'kill':
        if (this.#isBootUnnoted) await this.#noteJump();
        this.#serverGone(!this.#adopts);
        world.kill();
        return world.open();
      case 'stop':
        if (world.server === undefined) return;
        if (this.#isBootUnnoted) await this.#noteJump();
        await this.#stop();
        return world.open();
      case 'fail':
        model.trouble(...causesOf(step.operation));
        if (world.server !== undefined) {
          const error = new MachineError(step.kind, 'scripted');
          world.take(world.server.engine.failNext(step.operation, error));
        }
        return;
      case 'hold':
        model.trouble(...causesOf(step.operation));
        if (world.server !== undefined) {
          world.take(world.server.engine.hold(step.operation, { deaf: step.deaf }));
        }
        return;
      case 'release':
        return world.release();
      case 'disk':
        world.diskFull = step.full;
        this.#wasFull = true;
        return model.trouble();
      case 'hooks':
        world.hookStatus = step.status;
        return model.trouble(HOOK);
      case 'check':
        return this.#check();
      default:
        return step satisfies never;
    }
  }

  /** A clock that was set counts as time after a boot of the host, unless that was noted before; nothing can tell then. */
  async #noteJump(): Promise<void> {
    const world = this.#world;
    if (!this.#hasJumped) return;
    this.#hasJumped = false;
    this.#isBootUnnoted = false;
    world.diskFull = false;
    world.release();
    if (world.server === undefined) await world.open();
    await world.goOn(50);
    await world.advance(2 * LONGEST_PAUSE_MS);
  }

  async #stop(): Promise<void> {
    const stopping = this.#world.stop();
    this.#serverGone(true);
    await stopping;
  }

  #serverGone(machinesGone: boolean, withHost = false): void {
    this.#model.serverGone(machinesGone, withHost);
    this.#calls = new Set();
    this.#exchanges = new Map();
  }

  #withVm(index: number, act: (vm: Expectation) => void): void {
    const { vms } = this.#model;
    const vm = vms[index % Math.max(1, vms.length)];
    if (vm !== undefined) act(vm);
  }

  #run(idle: IdleKind, seconds: number): void {
    const { server, elapsedMs } = this.#world;
    if (server?.started !== true || this.#model.vms.length >= MAX_VMS) return;
    const input: RunMicrovmInput = {
      imageIdentifier: IMAGE,
      maximumDurationInSeconds: seconds,
      ...(idle !== 'none' && {
        idlePolicy: {
          maxIdleDurationSeconds: 60,
          suspendedDurationSeconds: idle === 'zero' ? 0 : 120,
          autoResumeEnabled: idle === 'auto',
        },
      }),
    };
    const troubles = this.#model.troubles;
    this.#call(
      server.microvms.run(input).then((view) => {
        this.#model.add(view, idle, seconds * 1000, elapsedMs);
        if (this.#model.troubles !== troubles || this.#world.diskFull) this.#model.trouble(...EVERY_CAUSE);
      }),
      undefined,
    );
  }

  #suspend(vm: Expectation): void {
    vm.suspendAsked = true;
    this.#command(vm, 'suspend', vm.idle === 'zero' ? 'TERMINATED' : 'SUSPENDED');
  }

  #resume(vm: Expectation): void {
    this.#command(vm, 'resume', 'RUNNING');
  }

  #terminate(vm: Expectation): void {
    const { server } = this.#world;
    if (server?.started !== true) return;
    vm.causes.add(SUCCESS);
    const done = server.microvms.terminate(vm.id).then(() => {
      vm.terminateAnswered = true;
      vm.expected = 'TERMINATED';
    });
    this.#call(done, vm);
  }

  #command(vm: Expectation, what: 'suspend' | 'resume', leadsTo: Expectation['expected']): void {
    const { server } = this.#world;
    if (server?.started !== true) return;
    const { expected } = vm;
    const isAlone = vm.outstanding === 0;
    if (!isAlone && vm.expected !== 'TERMINATED') vm.expected = 'ANY';
    const isCertain = isAlone && (expected === 'RUNNING' || expected === 'SUSPENDED');
    const { troubles } = this.#model;
    const isCalm = () => isCertain && this.#model.troubles === troubles && vm.expected === expected;
    const done = server.microvms[what](vm.id).then(
      () => {
        if (what === 'resume') vm.asleepAt = undefined;
        const restsAlready = what === 'suspend' && expected === 'SUSPENDED';
        if (isCalm() && !restsAlready) this.#lead(vm, leadsTo);
        else if (vm.expected !== 'TERMINATED' && !isCalm()) vm.expected = 'ANY';
      },
      (error: unknown) => {
        if (isCalm() && this.#mustObey(vm, what)) this.objections.push(`${vm.id}: ${what} refused: ${String(error)}`);
        throw error;
      },
    );
    this.#call(done, vm);
  }

  #lead(vm: Expectation, to: Expectation['expected']): void {
    vm.expected = to;
  }

  /** Time alone may have moved it since the last check, so that a refusal is right. */
  #mustObey(vm: Expectation, _what: 'suspend' | 'resume'): boolean {
    const { elapsedMs, stateOf } = this.#world;
    const settled = ['RUNNING', 'SUSPENDED'].includes(stateOf.call(this.#world, vm.id) ?? '');
    return settled && elapsedMs < vm.bornAfter + vm.maximumMs && elapsedMs - vm.awakeAt < 60_000;
  }

  #traffic(vm: Expectation): void {
    const world = this.#world;
    const { server } = world;
    if (server?.started !== true) return;
    const { expected } = vm;
    const isAlone = vm.outstanding === 0;
    if (!isAlone && vm.expected !== 'TERMINATED') vm.expected = 'ANY';
    const { troubles } = this.#model;
    const calledAt = world.awakeMs;
    const done = server.microvms.wake(vm.id, {}).then((machine) => {
      vm.activeFrom = calledAt;
      vm.asleepAt = undefined;
      vm.awakeAt = world.elapsedMs;
      vm.activeAt = world.awakeMs;
      const guest = world.disk.processes.get(vm.id);
      // A machine that is being saved at this moment takes no request any more.
      const isPaused = world.disk.machines.get(vm.id) != null;
      if (guest !== undefined && server.engine.machines.get(vm.id) === machine && !isPaused) {
        guest.memory.count = Number(guest.memory.count ?? 0) + 1;
        vm.count++;
      }
      const isCalm = isAlone && this.#model.troubles === troubles && vm.expected === expected;
      if (isCalm && expected === 'SUSPENDED') vm.expected = vm.idle === 'auto' ? 'RUNNING' : 'ANY';
    });
    this.#call(done, vm);
  }

  #exchange(vm: Expectation, begin: boolean): void {
    const { server } = this.#world;
    this.#exchanges.get(vm)?.[Symbol.dispose]();
    this.#exchanges.delete(vm);
    if (!begin || server?.started !== true) return;
    const exchange = server.microvms.exchange(vm.id);
    // A silent stream: what waits for its answer would keep the microVM from being idle.
    exchange.answered();
    this.#exchanges.set(vm, exchange);
  }

  #exit(vm: Expectation, code: number): void {
    const { server, elapsedMs } = this.#world;
    if (server?.engine.machines.has(vm.id) !== true) return;
    vm.causes.add(exitedWith(code)).add(ENDED);
    if (vm.expected !== 'TERMINATED') vm.expected = 'ANY';
    if (this.#model.isCalm) vm.exitedAt ??= elapsedMs;
    server.engine.exit(vm.id, { kind: 'app', exitCode: code });
  }

  #crash(vm: Expectation): void {
    const { server, disk } = this.#world;
    if (!disk.processes.has(vm.id)) return;
    vm.causes.add(ENDED).add(LOST).add(NOT_RESUMED);
    vm.causes.add(HOOK);
    const mustEnd = vm.expected === 'RUNNING' && vm.outstanding === 0 && server?.started === true;
    if (vm.expected !== 'TERMINATED') vm.expected = mustEnd ? 'TERMINATED' : 'ANY';
    if (server?.engine.machines.has(vm.id) === true) {
      server.engine.exit(vm.id, { kind: 'vmm', message: 'crashed', evidence: '' });
    }
    disk.processes.delete(vm.id);
  }

  /** Follows a call to its answer; what it may be refused with is the same for all. */
  #call(work: Promise<void>, vm: Expectation | undefined): void {
    if (vm !== undefined) vm.outstanding++;
    const calls = this.#calls;
    const answered = work
      .catch((error: unknown) => {
        const full = String(error).includes(DISK_FULL);
        if (!full && !(error instanceof DomainError)) this.objections.push(`a call failed: ${String(error)}`);
        if (full && vm !== undefined && vm.expected !== 'TERMINATED') vm.expected = 'ANY';
      })
      .then(() => {
        calls.delete(answered);
        if (vm !== undefined && calls === this.#calls) vm.outstanding--;
      });
    calls.add(answered);
  }

  async #check(): Promise<void> {
    const world = this.#world;
    world.diskFull = false;
    world.hookStatus = 200;
    world.release();
    for (const exchange of this.#exchanges.values()) exchange[Symbol.dispose]();
    this.#exchanges.clear();
    if (world.server === undefined) await world.open();
    await world.goOn(60);
    if (this.#wasFull) await world.advance(LONGEST_PAUSE_MS);
    this.#wasFull = false;
    await this.#rest();
    await this.#model.judge();
  }

  async #rest(): Promise<void> {
    const world = this.#world;
    const atRest = () =>
      world.server?.started === true &&
      this.#calls.size === 0 &&
      world.ids().every((id) => RESTING.includes(world.stateOf(id) ?? ''));
    for (let waitedMs = 0; waitedMs < REST_MS; waitedMs += 1000) {
      for (let i = 0; i < 12; i++) {
        await world.goOn(4);
        if (atRest()) {
          // An exit or a timer may be on its way.
          await world.advance(0);
          if (atRest()) return;
        }
      }
      await world.advance(1000);
    }
    if (this.#calls.size > 0) this.objections.push(`${this.#calls.size} calls were never answered`);
    if (world.server?.started !== true) this.objections.push('the server never started');
  }
}

const EVERY_CAUSE = [NOT_STARTED, NOT_RESUMED, STUCK, HOOK];

function causesOf(operation: Faulty | Held): string[] {
  switch (operation) {
    case 'launch':
    case 'launched':
      return [NOT_STARTED];
    case 'resume':
    case 'resumed':
      return [NOT_RESUMED];
    case 'suspend':
    case 'suspended':
      return [STUCK, HOOK];
    case 'adopt':
      return [LOST, SILENT];
    // What comes of a checkpoint is nobody's business while the host lives.
    case 'checkpoint':
    case 'checkpointed':
      return [];
    case 'connect':
      return [HOOK];
    case 'destroy':
      return [];
    default:
      return operation satisfies never;
  }
}
