/**
 * An `Engine` without processes, for tests of the rooms above: machines are objects, their ports are served by an
 * in-process HTTP handler, failures and delays are scripted, and a machine's end is triggered by the test.
 *
 * What outlives a server (snapshots, suspended machines) is kept in a `FakeDisk`, so that a test can make a second
 * engine on the same one and play a restart. `build` and `seal` also write their small real files, as the contract says.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { MachineError } from '../../../lib/index.ts';
import type { Egress, FlowRecord } from '../../egress.ts';
import type {
  BuildRequest,
  ContainerConfig,
  KeptDisk,
  LaunchRequest,
  Machine,
  MachineExit,
  Recalled,
  ResumeRequest,
  RoleCredentials,
  SealedSnapshot,
  SealRequest,
  SnapshotDamage,
  SnapshotFacts,
  SnapshotFit,
  TracedDisk,
} from '../../engine.ts';
import { digestChunks, digestFile } from '../../snapshot/digest.ts';
import { abortable, FakeMachine, type FakeMachineHost } from './fake-machine.ts';
import {
  createFakeDisk,
  type FakeDisk,
  type FakeEngine,
  type FakeEngineOptions,
  type FakeOperation,
  type Gate,
} from './fake-types.ts';

const fakeTrace = {
  origin: {
    rootfs: 'ab'.repeat(32),
    dependencies: [{ uri: 'pkg:docker/base@1?platform=linux%2Famd64', digest: { sha256: 'cd'.repeat(32) } }],
    buildkit: 'v0.0.0',
    packages: [{ type: 'deb', name: 'bash', version: '5.2-1', arch: 'amd64' }],
    unread: [],
  },
  isFresh: true,
  builder: { runtime: 'fake', kernel: '6.0.0', vmm: 'fake 1 (tcg)' },
} as const satisfies Partial<TracedDisk>;

export function createFakeEngine(options: FakeEngineOptions = {}): FakeEngine {
  return new InMemoryEngine(options);
}

class InMemoryEngine implements FakeEngine, FakeMachineHost {
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

  async build(request: BuildRequest, { signal }: { signal?: AbortSignal }): Promise<TracedDisk> {
    await this.enter('build', request.buildId, signal);
    this.egress.set(request.buildId, request.egress);
    request.onLog(Buffer.from(this.#options.buildLog ?? '#1 [1/1] FROM base\n#1 DONE\n'));
    await mkdir(request.outDir, { recursive: true });
    const diskPath = path.join(request.outDir, 'disk');
    await writeFile(diskPath, 'fake disk');
    return { diskPath, config: { ...defaultConfig, ...this.#options.config }, usedBytes: 100_000_000, ...fakeTrace };
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

  async facts(snapshotDir: string): Promise<SnapshotFacts | undefined> {
    const text = await readFile(path.join(snapshotDir, 'manifest.json')).catch(() => undefined);
    if (text === undefined) return undefined;
    const part = async (name: string) => digestFile(path.join(snapshotDir, name), { mapper: 'qemu-img' });
    const parts = { ram: await part('ram'), state: await part('state'), disk: await part('disk') };
    return {
      manifest: createHash('sha256').update(text).digest('hex'),
      parts: { ...parts, changes: parts.disk },
      vmm: { name: 'fake', version: '1', accelerator: 'tcg' },
      kernel: '6.0.0',
      runtime: 'fake',
      link: 1,
    };
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

function isAfterwards(operation: FakeOperation): boolean {
  return ['launched', 'resumed', 'suspended', 'checkpointed'].includes(operation);
}

const defaultConfig: ContainerConfig = {
  entrypoint: [],
  cmd: ['python3', 'app.py'],
  env: ['PATH=/usr/local/bin:/usr/bin:/bin'],
  workingDir: '/',
  user: '',
  exposedPorts: [8080],
};
