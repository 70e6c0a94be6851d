/** The engine of this host: keeps the live machines and hands each operation to the file that does it. */
import { existsSync } from 'node:fs';
import { readdir, readFile, readlink, rm } from 'node:fs/promises';
import path from 'node:path';
import { type Clock, type Ids, KeyedLock, type Logger, MachineError } from '../lib/index.ts';
import { buildImage } from './build/build.ts';
import type { FlowRecord } from './egress.ts';
import type {
  BuildRequest,
  BuiltDisk,
  Engine,
  HostReport,
  LaunchRequest,
  Machine,
  SealedSnapshot,
  SealRequest,
  SnapshotDamage,
} from './engine.ts';
import { Folders, remove } from './folders.ts';
import { probeHost } from './host/host.ts';
import type { EngineContext } from './machine/context.ts';
import { launchMachine, resumeMachine } from './machine/launch.ts';
import type { RunningMachine } from './machine/machine.ts';
import { machineFiles } from './machine/saved.ts';
import { keptDisk, sealMachine } from './machine/seal.ts';
import type { Runtime } from './runtime.ts';
import { Integrity } from './snapshot/integrity.ts';
import { qemuDriver } from './vmm/qemu/driver.ts';
import type { VmmDriver } from './vmm/vmm.ts';

const KILL_WAIT_MS = 5000;
const KILL_POLL_MS = 10;

export interface EngineOptions {
  readonly runtime: Runtime;
  readonly stateDir: string;
  readonly cacheDir: string;
  readonly log: Logger;
  readonly clock: Clock;
  readonly ids: Ids;
  /** Behave as on a host that forbids ptrace; for tests of that fallback. */
  readonly deltaSave?: boolean;
  /** Another driver than QEMU's. */
  readonly driver?: VmmDriver;
}

type Options = { signal?: AbortSignal };

/** Probes the host and makes its engine. */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  const { runtime, stateDir, cacheDir, log, clock, ids } = options;
  const host = await probeHost(runtime, stateDir);
  const driver =
    options.driver ??
    qemuDriver({
      qemu: runtime.qemu,
      accelerator: host.report.accelerator,
      deltaSave: options.deltaSave ?? host.deltaSave,
    });
  const folders = new Folders(stateDir);
  return new HostEngine({
    runtime,
    driver,
    host: host.report,
    folders,
    cacheDir,
    log,
    clock,
    ids,
    integrity: new Integrity({ mapper: runtime.qemu.img, clock, log }),
    restoring: new Set(),
  });
}

class HostEngine implements Engine {
  readonly host: HostReport;
  readonly #context: EngineContext;
  readonly #machines = new Map<string, RunningMachine>();
  readonly #builds = new KeyedLock();
  readonly #closing = new AbortController();

  constructor(context: EngineContext) {
    this.host = context.host;
    this.#context = context;
    context.integrity.startScrub();
  }

  build(request: BuildRequest, { signal }: Options): Promise<BuiltDisk> {
    // A cache disk belongs to one builder at a time.
    return this.#builds.run(request.cacheOwner, () =>
      buildImage(this.#context, request, { signal: this.#bounded(signal) }),
    );
  }

  keptDisk(snapshotDir: string): Promise<BuiltDisk | undefined> {
    return keptDisk(this.#context, snapshotDir);
  }

  seal(request: SealRequest, { signal }: Options): Promise<SealedSnapshot> {
    return sealMachine(this.#context, request, { signal: this.#bounded(signal) });
  }

  launch(request: LaunchRequest, options: Options): Promise<Machine> {
    return this.#start(request.id, options, (bounded) => launchMachine(this.#context, request, bounded));
  }

  resume(request: LaunchRequest, options: Options): Promise<Machine> {
    return this.#start(request.id, options, (bounded) => resumeMachine(this.#context, request, bounded));
  }

  /** No machine has a network yet. */
  async setEgress(): Promise<void> {}

  async *flows(): AsyncIterable<FlowRecord> {}

  async isSuspended(id: string): Promise<boolean> {
    if (this.#machines.has(id) || !existsSync(machineFiles(this.#context.folders.machine(id)).saved)) return false;
    await this.#killLeftOver(id);
    return true;
  }

  async destroy(id: string): Promise<void> {
    const { folders } = this.#context;
    const machine = this.#machines.get(id);
    if (machine === undefined) await this.#killLeftOver(id);
    else await machine[Symbol.asyncDispose]();
    await Promise.all([remove(folders.run(id)), remove(folders.machine(id))]);
  }

  onDamage(listener: (damage: SnapshotDamage) => void): Disposable {
    return this.#context.integrity.watch(listener);
  }

  async deleteSnapshot(snapshotDir: string): Promise<void> {
    this.#context.integrity.forget(snapshotDir);
    await rm(snapshotDir, { recursive: true, force: true });
  }

  async residue(): Promise<readonly string[]> {
    return this.#context.folders.ids();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new MachineError('exited', 'the engine was closed'));
    this.#context.integrity[Symbol.dispose]();
    await Promise.all([...this.#machines.values()].map((machine) => machine[Symbol.asyncDispose]()));
  }

  async #start(
    id: string,
    { signal }: Options,
    start: (options: { signal: AbortSignal }) => Promise<RunningMachine>,
  ): Promise<Machine> {
    if (this.#machines.has(id)) throw new MachineError('failed', `${id} runs already`);
    if (existsSync(this.#context.folders.run(id))) await this.#killLeftOver(id);
    const machine = await start({ signal: this.#bounded(signal) });
    this.#machines.set(id, machine);
    void machine.ended.then(() => {
      if (this.#machines.get(id) === machine) this.#machines.delete(id);
    });
    if (this.#closing.signal.aborted) await machine[Symbol.asyncDispose]();
    return machine;
  }

  #bounded(signal: AbortSignal | undefined): AbortSignal {
    return signal === undefined ? this.#closing.signal : AbortSignal.any([signal, this.#closing.signal]);
  }

  /** Ends the process a crashed server left behind: it is known by its working folder, whatever its number. */
  async #killLeftOver(id: string): Promise<void> {
    const runDir = this.#context.folders.run(id);
    for (let waited = 0; waited < KILL_WAIT_MS; waited += KILL_POLL_MS) {
      const pids = await processesIn(runDir);
      if (pids.length === 0) return;
      for (const pid of pids) killGroup(pid);
      await new Promise((resolve) => setTimeout(resolve, KILL_POLL_MS));
    }
    throw new MachineError('failed', `a process of ${id} does not end`);
  }
}

async function processesIn(dir: string): Promise<number[]> {
  const real = await readlinkOr(dir);
  const found = await Promise.all(
    (await readdir('/proc'))
      .filter((name) => /^\d+$/.test(name))
      .map(async (name) => {
        const cwd = await readlinkOr(`/proc/${name}/cwd`);
        if (cwd !== real && cwd !== `${real} (deleted)`) return undefined;
        const state = await readFile(`/proc/${name}/stat`, 'latin1').catch(() => '');
        return / [ZX] /.test(state.slice(state.lastIndexOf(')'))) ? undefined : Number(name);
      }),
  );
  return found.filter((pid) => pid !== undefined);
}

async function readlinkOr(file: string): Promise<string> {
  return readlink(file).catch(() => path.resolve(file));
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // ended meanwhile
  }
}
