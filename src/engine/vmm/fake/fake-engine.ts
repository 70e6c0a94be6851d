/**
 * An `Engine` without processes, for tests of the rooms above: machines are objects, their ports are served by an
 * in-process HTTP handler, failures and delays are scripted, and a machine's end is triggered by the test.
 *
 * What outlives a server (snapshots, suspended machines) is kept in a `FakeDisk`, so that a test can make a second
 * engine on the same one and play a restart. `build` and `seal` also write their small real files, as the contract says.
 */
import { existsSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import path from 'node:path';
import { type Duplex, duplexPair } from 'node:stream';
import { MachineError } from '../../../lib/index.ts';
import type { Egress, FlowRecord } from '../../egress.ts';
import type {
  BuildRequest,
  BuiltDisk,
  CheckpointReport,
  ContainerConfig,
  Engine,
  KeptDisk,
  LaunchRequest,
  LogLine,
  Machine,
  MachineExit,
  Recalled,
  ResumeRequest,
  RoleCredentials,
  SealedSnapshot,
  SealRequest,
  Shell,
  SnapshotDamage,
  SnapshotFit,
  SuspendReport,
  TerminalSize,
} from '../../engine.ts';
import { digestChunks } from '../../snapshot/digest.ts';

/** `launched`, `resumed`, `suspended` and `checkpointed` come when the work is done and the caller has not been told yet. */
export type FakeOperation =
  | 'build'
  | 'keptDisk'
  | 'seal'
  | 'launch'
  | 'suspend'
  | 'resume'
  | 'connect'
  | 'openShell'
  | 'setEgress'
  | 'setCredentials'
  | 'destroy'
  | 'adopt'
  | 'launched'
  | 'resumed'
  | 'suspended'
  | 'checkpoint'
  | 'checkpointed';

/** What an app's handler sees of its machine. `memory` starts as a copy of the snapshot's and survives suspend. */
export interface FakeGuest {
  readonly id: string;
  readonly memory: Record<string, unknown>;
}

export type FakeApp = (guest: FakeGuest, port: number) => RequestListener;

/** Plays a shell: reads what is typed from `terminal`, writes what is shown. Ending `terminal` without `exit` cuts it off. */
export type FakeShell = (
  terminal: Duplex,
  session: {
    readonly guest: FakeGuest;
    readonly size: TerminalSize;
    onResize(listener: (size: TerminalSize) => void): void;
  },
  exit: (code: number) => void,
) => void;

/** What would be on disk: shared by two fake engines to play a restart of the server. */
export interface FakeDisk {
  /** Snapshot folder to the memory image its machines start with. */
  readonly snapshots: Map<string, Record<string, unknown>>;
  /** Snapshot folders that do not fit this host as well as one sealed now. */
  readonly fits: Map<string, SnapshotFit>;
  /** Machine id to the memory it was suspended with, or `null` while it has only a folder. */
  readonly machines: Map<string, Record<string, unknown> | null>;
  /** Machine id to the guest that runs, whatever server started it. */
  readonly processes: Map<string, FakeGuest>;
  /** Machine id to when its VMM, which was stopped, goes on (see `freeze`). */
  readonly frozen: Map<string, Gate>;
  /** Counts boots of the host. */
  boot: number;
  /** Machine id to the boot in which it ran last. */
  readonly ranIn: Map<string, number>;
  /** Machine id to its checkpoint, and when that was taken. */
  readonly checkpoints: Map<string, { readonly memory: Record<string, unknown>; readonly takenAt: number }>;
  /** Machine id to when it was suspended. */
  readonly suspendedAt: Map<string, number>;
}

export interface FakeEngineOptions {
  readonly disk?: FakeDisk;
  /** The app of every machine; the default counts requests: `{"id":…,"count":N}`. */
  readonly app?: FakeApp;
  /** The shell of every image; null: it has none. The default echoes, and says its new size when that changes. */
  readonly shell?: FakeShell | null;
  /** Ports something listens on in the guest; everything when left out. */
  readonly listening?: readonly number[];
  readonly config?: Partial<ContainerConfig>;
  readonly buildLog?: string;
  readonly appLog?: string;
  /** When true, machines that an abandoned engine left are taken over. */
  readonly adopts?: boolean;
  /** When true, `launch` takes any snapshot folder, sealed here or not. */
  readonly anySnapshot?: boolean;
  /** Wall clock; default the host's. */
  readonly now?: () => number;
}

export interface FakeEngine extends Engine {
  readonly disk: FakeDisk;
  /** Live machines by id. */
  readonly machines: ReadonlyMap<string, Machine>;
  /** Every operation in the order it was asked for, as `launch microvm-1`. */
  readonly calls: readonly string[];
  /** What each live machine may reach now, and what each build and seal was given, by its id. */
  readonly egress: ReadonlyMap<string, Egress | undefined>;
  /** What each guest's metadata service serves now, by machine or build; nothing is left of a suspended or ended one. */
  readonly credentials: ReadonlyMap<string, RoleCredentials>;
  /** Adds a record to the flow log of `id`. */
  record(flow: FlowRecord): void;
  /** The next `operation` (for `id`, when given) rejects with `error`; disposing the result takes that back. */
  failNext(operation: FakeOperation, error: Error, id?: string): Disposable;
  /** Operations of this kind wait until the result is disposed or, unless they are `deaf`, their signal aborts. */
  hold(operation: FakeOperation, options?: { deaf?: boolean }): Disposable;
  /**
   * The server was killed: no call to this engine comes back any more, nothing it knows ends. Machines live on, for another
   * engine on the same disk to find.
   */
  abandon(): void;
  /** Lets the app or the VMM of `id` end. */
  exit(id: string, exit: MachineExit): void;
  /** A snapshot is found damaged, as by the scrub. */
  damage(damage: SnapshotDamage): void;
  /** Adds lines to a machine's captured output. */
  print(id: string, text: string, stream?: 'stdout' | 'stderr'): void;
}

export function createFakeDisk(): FakeDisk {
  return {
    snapshots: new Map(),
    fits: new Map(),
    machines: new Map(),
    processes: new Map(),
    frozen: new Map(),
    boot: 1,
    ranIn: new Map(),
    checkpoints: new Map(),
    suspendedAt: new Map(),
  };
}

/** The host starts anew: no process outlives that. */
export function restartHost(disk: FakeDisk): void {
  disk.boot += 1;
  disk.processes.clear();
}

/** Its VMM is stopped and answers nobody, until the result is disposed. `deaf`: who asks it cannot be called off either. */
export function freeze(disk: FakeDisk, id: string, { deaf = false } = {}): Disposable {
  const { promise: open, resolve } = Promise.withResolvers<void>();
  disk.frozen.set(id, { open, deaf });
  return { [Symbol.dispose]: resolve };
}

export function createFakeEngine(options: FakeEngineOptions = {}): FakeEngine {
  return new InMemoryEngine(options);
}

const countingApp: FakeApp = (guest) => (_request, response) => {
  const count = Number(guest.memory.count ?? 0) + 1;
  guest.memory.count = count;
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({ id: guest.id, count }));
};

const echoingShell: FakeShell = (terminal, { onResize }) => {
  onResize(({ cols, rows }) => terminal.write(`[${cols}x${rows}]`));
  terminal.pipe(terminal);
};

class InMemoryEngine implements FakeEngine {
  readonly host = { accelerator: 'tcg', vmmVersion: 'fake', cpus: 2, remarks: [] } as const;
  readonly disk: FakeDisk;
  readonly machines = new Map<string, FakeMachine>();
  readonly calls: string[] = [];
  readonly egress = new Map<string, Egress | undefined>();
  readonly credentials = new Map<string, RoleCredentials>();
  readonly #flows: FlowRecord[] = [];
  #recorded = Promise.withResolvers<void>();
  readonly #options: FakeEngineOptions;
  #failures: { operation: FakeOperation; error: Error; id: string | undefined }[] = [];
  readonly #damageListeners = new Set<(damage: SnapshotDamage) => void>();
  readonly #gates = new Map<FakeOperation, Set<Gate>>();
  readonly adopt?: (request: LaunchRequest, options: { signal?: AbortSignal }) => Promise<Machine | undefined>;
  #abandoned = false;
  leaving = false;

  constructor(options: FakeEngineOptions) {
    this.#options = options;
    this.disk = options.disk ?? createFakeDisk();
    if (options.adopts === true) this.adopt = (request, { signal }) => this.#adopt(request, signal);
  }

  abandon(): void {
    this.#abandoned = true;
  }

  leave(): void {
    this.leaving = true;
  }

  failNext(operation: FakeOperation, error: Error, id?: string): Disposable {
    const failure = { operation, error, id };
    this.#failures.push(failure);
    return {
      [Symbol.dispose]: () => {
        this.#failures = this.#failures.filter((f) => f !== failure);
      },
    };
  }

  hold(operation: FakeOperation, { deaf = false }: { deaf?: boolean } = {}): Disposable {
    const { promise: open, resolve } = Promise.withResolvers<void>();
    const gate: Gate = { open, deaf };
    const gates = this.#gates.get(operation) ?? new Set();
    this.#gates.set(operation, gates.add(gate));
    return {
      [Symbol.dispose]: () => {
        gates.delete(gate);
        resolve();
      },
    };
  }

  exit(id: string, exit: MachineExit): void {
    const machine = this.machines.get(id);
    if (machine === undefined) throw new Error(`no live machine ${id}`);
    machine.end(exit);
    if (exit.kind !== 'app') this.machines.delete(id);
  }

  print(id: string, text: string, stream: 'stdout' | 'stderr' = 'stdout'): void {
    this.machines.get(id)?.print(text, stream);
  }

  async build(request: BuildRequest, { signal }: { signal?: AbortSignal }): Promise<BuiltDisk> {
    await this.enter('build', request.buildId, signal);
    this.egress.set(request.buildId, request.egress);
    request.onLog(Buffer.from(this.#options.buildLog ?? '#1 [1/1] FROM base\n#1 DONE\n'));
    await mkdir(request.outDir, { recursive: true });
    const diskPath = path.join(request.outDir, 'disk');
    await writeFile(diskPath, 'fake disk');
    return { diskPath, config: { ...defaultConfig, ...this.#options.config }, usedBytes: 100_000_000 };
  }

  /** Builds here have no caches. */
  async buildCaches(): Promise<readonly []> {
    return [];
  }

  async dropBuildCaches(): Promise<number> {
    return 0;
  }

  async keptDisk(snapshotDir: string): Promise<KeptDisk | undefined> {
    await this.enter('keptDisk', snapshotDir);
    const diskPath = path.join(snapshotDir, 'disk');
    if (!existsSync(diskPath)) return undefined;
    const { bytes, chunks } = await digestChunks(diskPath, { mapper: 'qemu-img' });
    const config = { ...defaultConfig, ...this.#options.config };
    return { bytes, chunks, diskPath, config, usedBytes: 100_000_000 };
  }

  async seal(request: SealRequest, { signal }: { signal?: AbortSignal }): Promise<SealedSnapshot> {
    await this.enter('seal', request.buildId, signal);
    this.egress.set(request.buildId, request.egress);
    const lent = await request.lendCredentials?.(
      { id: request.buildId, setCredentials: (given) => this.give(request.buildId, given) },
      { signal: signal ?? new AbortController().signal },
    );
    request.onLog(Buffer.from(this.#options.appLog ?? 'app started\n'));
    await lent?.[Symbol.asyncDispose]();
    this.credentials.delete(request.buildId);
    await mkdir(request.snapshotDir, { recursive: true });
    for (const part of ['ram', 'state', 'disk']) await writeFile(path.join(request.snapshotDir, part), part);
    await writeFile(path.join(request.snapshotDir, 'manifest.json'), JSON.stringify({ memoryMiB: request.memoryMiB }));
    this.disk.snapshots.set(request.snapshotDir, {});
    return { snapshotDir: request.snapshotDir, memoryBytes: 124_000_000, diskBytes: 300_000_000 };
  }

  async launch(request: LaunchRequest, { signal }: { signal?: AbortSignal }): Promise<Machine> {
    await this.enter('launch', request.id, signal);
    const memory = this.disk.snapshots.get(request.snapshotDir);
    if (memory === undefined && this.#options.anySnapshot !== true) {
      throw new MachineError('failed', `the snapshot of ${request.id} does not exist`);
    }
    this.disk.machines.set(request.id, null);
    const machine = this.#start(request, memory ?? {});
    try {
      await this.enter('launched', request.id, signal);
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      this.disk.machines.delete(request.id);
      throw error;
    }
    return machine;
  }

  async resume(request: ResumeRequest, { signal }: { signal?: AbortSignal }): Promise<Machine> {
    await this.enter('resume', request.id, signal);
    const memory = this.disk.machines.get(request.id);
    if (memory == null) throw new MachineError('failed', `${request.id} has no suspended state`);
    const machine = this.#start(request, memory);
    // What was saved is void: the guest runs on.
    this.disk.machines.set(request.id, null);
    this.disk.checkpoints.delete(request.id);
    if (request.keepsCheckpoint === true) {
      const takenAt = this.disk.suspendedAt.get(request.id) ?? 0;
      this.disk.checkpoints.set(request.id, { memory: structuredClone(memory), takenAt });
    }
    try {
      await this.enter('resumed', request.id, signal);
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      throw error;
    }
    return machine;
  }

  async isSuspended(id: string): Promise<boolean> {
    await this.#unlessAbandoned();
    if (this.machines.has(id) || this.disk.machines.get(id) == null) return false;
    this.disk.processes.delete(id);
    return true;
  }

  async recall(id: string): Promise<Recalled> {
    await this.#unlessAbandoned();
    const { machines, ranIn, suspendedAt, boot } = this.disk;
    if (machines.get(id) != null) return { kind: 'suspended', takenAt: suspendedAt.get(id) ?? 0 };
    const last = ranIn.get(id);
    if (last === undefined || last === boot) return { kind: 'nothing' };
    const checkpoint = this.disk.checkpoints.get(id);
    if (checkpoint === undefined) return { kind: 'lost' };
    this.disk.checkpoints.delete(id);
    machines.set(id, checkpoint.memory);
    suspendedAt.set(id, checkpoint.takenAt);
    return { kind: 'checkpoint', takenAt: checkpoint.takenAt };
  }

  async forgetCheckpoints(id: string): Promise<void> {
    this.disk.checkpoints.delete(id);
  }

  async setEgress(id: string, egress: Egress): Promise<void> {
    await this.enter('setEgress', id);
    if (this.machines.has(id)) this.egress.set(id, egress);
  }

  async *flows(id: string, options: { follow?: boolean; signal?: AbortSignal }): AsyncIterable<FlowRecord> {
    for (let at = 0; ; ) {
      for (; at < this.#flows.length; at++) {
        const flow = this.#flows[at];
        if (flow?.guest === id) yield flow;
      }
      if (options.follow !== true || options.signal?.aborted === true) return;
      await abortable(this.#recorded.promise, options.signal).catch(() => {});
    }
  }

  async give(id: string, credentials: RoleCredentials | null, signal?: AbortSignal): Promise<void> {
    await this.enter('setCredentials', id, signal);
    if (credentials === null) this.credentials.delete(id);
    else this.credentials.set(id, credentials);
  }

  record(flow: FlowRecord): void {
    this.#flows.push(flow);
    this.#recorded.resolve();
    this.#recorded = Promise.withResolvers<void>();
  }

  async destroy(id: string): Promise<void> {
    await this.enter('destroy', id);
    await this.machines.get(id)?.[Symbol.asyncDispose]();
    this.disk.processes.delete(id);
    this.disk.machines.delete(id);
    this.disk.ranIn.delete(id);
    this.disk.checkpoints.delete(id);
  }

  onDamage(listener: (damage: SnapshotDamage) => void): Disposable {
    this.#damageListeners.add(listener);
    return { [Symbol.dispose]: () => void this.#damageListeners.delete(listener) };
  }

  damage(damage: SnapshotDamage): void {
    for (const listener of this.#damageListeners) listener(damage);
  }

  async fit(snapshotDir: string): Promise<SnapshotFit> {
    return this.disk.fits.get(snapshotDir) ?? { kind: 'fits' };
  }

  async deleteSnapshot(snapshotDir: string): Promise<void> {
    this.disk.snapshots.delete(snapshotDir);
    await rm(snapshotDir, { recursive: true, force: true });
  }

  async residue(): Promise<readonly string[]> {
    return [...this.disk.machines.keys()];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#abandoned || this.leaving) return;
    await Promise.all([...this.machines.values()].map((machine) => machine[Symbol.asyncDispose]()));
  }

  /** Records the call, waits at its gate, and throws what was scripted for it. */
  async enter(operation: FakeOperation, id: string, signal?: AbortSignal): Promise<void> {
    if (!isAfterwards(operation)) this.calls.push(`${operation} ${id}`);
    signal?.throwIfAborted();
    const gates = [...(this.#gates.get(operation) ?? [])];
    for (const { open, deaf } of gates) await abortable(open, deaf ? undefined : signal);
    await this.#unlessAbandoned();
    const failure = this.#failures.find((f) => f.operation === operation && (f.id === undefined || f.id === id));
    if (failure === undefined) return;
    this.#failures = this.#failures.filter((f) => f !== failure);
    throw failure.error;
  }

  #start({ id, egress }: LaunchRequest, memory: Record<string, unknown>): Machine {
    if (this.machines.has(id)) throw new MachineError('failed', `${id} runs already`);
    this.egress.set(id, egress);
    const guest = { id, memory: structuredClone(memory) };
    const machine = new FakeMachine(this, guest, this.#options);
    this.machines.set(id, machine);
    this.disk.processes.set(id, guest);
    this.disk.ranIn.set(id, this.disk.boot);
    return machine;
  }

  async #adopt({ id, egress }: LaunchRequest, signal: AbortSignal | undefined): Promise<Machine | undefined> {
    await this.enter('adopt', id, signal);
    const frozen = this.disk.frozen.get(id);
    try {
      await abortable(frozen?.open ?? Promise.resolve(), frozen?.deaf ? undefined : signal);
    } catch (error) {
      if (!this.leaving) this.disk.processes.delete(id);
      throw error;
    }
    const guest = this.disk.processes.get(id);
    if (guest === undefined) return undefined;
    this.egress.set(id, egress);
    const machine = new FakeMachine(this, guest, this.#options);
    this.machines.set(id, machine);
    return machine;
  }

  #unlessAbandoned(): Promise<void> {
    return this.#abandoned ? new Promise(() => {}) : Promise.resolve();
  }
}

interface Gate {
  readonly open: Promise<void>;
  readonly deaf: boolean;
}

function isAfterwards(operation: FakeOperation): boolean {
  return ['launched', 'resumed', 'suspended', 'checkpointed'].includes(operation);
}

class FakeMachine implements Machine {
  readonly id: string;
  readonly pid = process.pid;
  readonly exited: Promise<MachineExit>;
  readonly #engine: InMemoryEngine;
  readonly #guest: FakeGuest;
  readonly #options: FakeEngineOptions;
  readonly #exit = Promise.withResolvers<MachineExit>();
  readonly #streams = new Set<Duplex>();
  readonly #lines: LogLine[] = [];
  #printed = Promise.withResolvers<void>();
  #live = true;

  constructor(engine: InMemoryEngine, guest: FakeGuest, options: FakeEngineOptions) {
    this.#engine = engine;
    this.#guest = guest;
    this.#options = options;
    this.id = guest.id;
    this.exited = this.#exit.promise;
  }

  async connect(port: number, { signal }: { signal?: AbortSignal } = {}): Promise<Duplex> {
    await this.#engine.enter('connect', this.id, signal);
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    if (this.#options.listening?.includes(port) === false) {
      throw new MachineError('failed', `nothing listens on port ${port} in ${this.id}`);
    }
    const [near, far] = duplexPair();
    const server = createServer((this.#options.app ?? countingApp)(this.#guest, port));
    server.keepAliveTimeout = 0;
    server.emit('connection', far);
    this.#streams.add(near);
    near.once('close', () => {
      this.#streams.delete(near);
      far.destroy();
    });
    return near;
  }

  async openShell(size: TerminalSize, { signal }: { signal?: AbortSignal } = {}): Promise<Shell> {
    await this.#engine.enter('openShell', this.id, signal);
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    const { shell = echoingShell } = this.#options;
    if (shell === null) throw new MachineError('failed', 'the image has no shell (bash, sh or busybox)');
    const [near, far] = duplexPair();
    const exited = Promise.withResolvers<number>();
    const listeners: ((size: TerminalSize) => void)[] = [];
    const exit = (code: number) => {
      near.once('end', () => exited.resolve(code));
      far.end();
    };
    this.#streams.add(near);
    near.once('close', () => {
      this.#streams.delete(near);
      far.destroy();
    });
    shell(far, { guest: this.#guest, size, onResize: (listener) => void listeners.push(listener) }, exit);
    return Object.assign(near, {
      exited: exited.promise,
      resize: (next: TerminalSize) => {
        for (const listener of listeners) listener(next);
      },
    });
  }

  async setCredentials(credentials: RoleCredentials | null, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    await this.#engine.give(this.id, credentials, signal);
  }

  async suspend({ signal }: { signal?: AbortSignal } = {}): Promise<SuspendReport> {
    await this.#engine.enter('suspend', this.id, signal);
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    this.#engine.disk.machines.set(this.id, structuredClone(this.#guest.memory));
    this.#engine.disk.suspendedAt.set(this.id, (this.#options.now ?? Date.now)());
    this.#engine.disk.checkpoints.delete(this.id);
    await this.#engine.enter('suspended', this.id);
    this.#close();
    return { deltaBytes: 3_600_000, tookMs: 14 };
  }

  async checkpoint({ signal }: { signal?: AbortSignal } = {}): Promise<CheckpointReport> {
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    await this.#engine.give(this.id, null, signal);
    const memory = structuredClone(this.#guest.memory);
    const takenAt = (this.#options.now ?? Date.now)();
    await this.#engine.enter('checkpoint', this.id, signal);
    if (!this.#live) throw new MachineError('exited', `${this.id} has ended`);
    this.#engine.disk.checkpoints.set(this.id, { memory, takenAt });
    await this.#engine.enter('checkpointed', this.id, signal);
    return { deltaBytes: 3_600_000, pausedMs: 20 };
  }

  async *logs(options: { cursor?: number; follow?: boolean; signal?: AbortSignal }): AsyncIterable<LogLine> {
    let cursor = options.cursor ?? 0;
    for (;;) {
      for (const line of this.#lines.filter((l) => l.cursor >= cursor)) {
        cursor = line.cursor + 1;
        yield line;
      }
      if (options.follow !== true || !this.#live) return;
      await abortable(this.#printed.promise, options.signal);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#engine.leaving) this.#close();
  }

  print(text: string, stream: 'stdout' | 'stderr'): void {
    this.#lines.push({ cursor: this.#lines.length, at: Date.now(), stream, text });
    this.#wakeReaders();
  }

  end(exit: MachineExit): void {
    if (exit.kind === 'vmm') this.#close();
    this.#exit.resolve(exit);
  }

  #close(): void {
    this.#live = false;
    if (this.#engine.machines.get(this.id) === this) {
      this.#engine.credentials.delete(this.id);
      this.#engine.machines.delete(this.id);
      if (this.#engine.disk.processes.get(this.id) === this.#guest) this.#engine.disk.processes.delete(this.id);
    }
    for (const stream of this.#streams) stream.destroy();
    this.#wakeReaders();
  }

  #wakeReaders(): void {
    this.#printed.resolve();
    this.#printed = Promise.withResolvers<void>();
  }
}

const defaultConfig: ContainerConfig = {
  entrypoint: [],
  cmd: ['python3', 'app.py'],
  env: ['PATH=/usr/local/bin:/usr/bin:/bin'],
  workingDir: '/',
  user: '',
  exposedPorts: [8080],
};

function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    if (signal.aborted) return onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
