/** The engine of this host: keeps the live machines and hands each operation to the file that does it. */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { type Clock, DomainError, type Ids, type Logger, MachineError } from '../lib/index.ts';
import { buildImage } from './build/build.ts';
import { BuildCaches } from './build/caches.ts';
import { KeptBuilder } from './build/kept-builder.ts';
import type { Registries } from './build/registries-file.ts';
import type { Egress, FlowRecord } from './egress.ts';
import type {
  BuildCache,
  BuildRequest,
  Engine,
  HostReport,
  KeptDisk,
  LaunchRequest,
  Machine,
  Recalled,
  RehearseRequest,
  ResumeRequest,
  SealedSnapshot,
  SealRequest,
  SnapshotDamage,
  SnapshotFacts,
  SnapshotFit,
  TracedDisk,
} from './engine.ts';
import { Folders, remove } from './folders.ts';
import { probeHost } from './host/host.ts';
import type { Jail } from './jail/jail.ts';
import { openJail, withoutJail } from './jail/open-jail.ts';
import { adoptMachine } from './machine/adopt.ts';
import { forgetCheckpoints } from './machine/checkpoints.ts';
import type { EngineContext } from './machine/context.ts';
import { recall } from './machine/last-boot.ts';
import { launchMachine, resumeMachine } from './machine/launch.ts';
import type { RunningMachine } from './machine/machine.ts';
import { rehearse } from './machine/rehearsal.ts';
import { machineFiles } from './machine/saved.ts';
import { keptDisk, sealMachine } from './machine/seal.ts';
import { hasSwap, memoryFolder } from './memory-folder.ts';
import { openGateway } from './network/gateway.ts';
import type { NetworkSettings } from './network/settings.ts';
import type { Runtime } from './runtime.ts';
import { claimKey } from './snapshot/claimed-key.ts';
import type { Keyring } from './snapshot/encryption.ts';
import { snapshotFacts } from './snapshot/facts.ts';
import { snapshotFit } from './snapshot/fit.ts';
import { Integrity } from './snapshot/integrity.ts';
import { ReadAhead } from './snapshot/read-ahead.ts';
import { Vault } from './snapshot/vault.ts';
import { qemuDriver } from './vmm/qemu/driver.ts';
import type { VmmDriver } from './vmm/vmm.ts';

export interface EngineOptions {
  readonly runtime: Runtime;
  readonly stateDir: string;
  readonly cacheDir: string;
  readonly log: Logger;
  readonly clock: Clock;
  readonly ids: Ids;
  /** What the operator says about the host's network. */
  readonly network?: NetworkSettings;
  /** What the operator says about container registries. */
  readonly registries?: Registries;
  /** Encrypts what machines leave on disk. */
  readonly keyring?: Keyring;
  /** Guests sealed from now on erase memory when it is freed: what a process of the app knew does not outlive it. */
  readonly erasesFreedMemory?: boolean;
  /** Of all build caches together; default 20 GiB. */
  readonly buildCacheBytes?: number;
  /** Behave as on a host that forbids ptrace; for tests of that fallback. */
  readonly deltaSave?: boolean;
  /** Start VMMs as on a host that allows no jail; for measuring what the jail costs. No setting leads here. */
  readonly isBare?: boolean;
  /** Another driver than QEMU's. */
  readonly driver?: VmmDriver;
}

type Options = { signal?: AbortSignal };

/** Probes the host and makes its engine. @throws DomainError when the state folder is under another key than given */
export async function createEngine(options: EngineOptions): Promise<Engine> {
  const { runtime, stateDir, cacheDir, log, clock, ids, keyring } = options;
  claimKey(stateDir, keyring);
  const host = await probeHost(runtime, stateDir);
  const jail = await openJail(runtime, stateDir, options.isBare === true ? withoutJail(host) : host);
  const driver =
    options.driver ??
    qemuDriver({
      version: runtime.qemu.version,
      accelerator: host.report.accelerator,
      deltaSave: options.deltaSave ?? host.deltaSave,
      jail,
    });
  if (keyring !== undefined && !driver.capabilities.deltaSave) {
    throw new DomainError(
      'INVALID',
      'Encryption needs a host where the memory of VMMs can be read: see rekindle doctor.',
    );
  }
  const memoryDir = keyring && memoryFolder(stateDir);
  const folders = new Folders(stateDir, memoryDir);
  const remarks = keyring !== undefined && hasSwap() ? [...host.report.remarks, SWAP] : host.report.remarks;
  const leaving = new AbortController();
  const context = {
    runtime,
    driver,
    host: { ...host.report, remarks },
    keyring,
    folders,
    cacheDir,
    log,
    clock,
    ids,
    registries: options.registries,
    integrity: new Integrity({ mapper: runtime.qemu.img, clock, log, keyring }),
    readAhead: new ReadAhead({ clock, log }),
    vault: new Vault({ memoryDir, clock, log }),
    restoring: new Set<object>(),
    network: openGateway({
      stateDir,
      program: runtime.gateway.program,
      bubblewrap: runtime.jail.bubblewrap,
      toolsRoot: runtime.jail.root,
      settings: options.network ?? {},
      log,
      mayLive: (guest) => existsSync(folders.run(guest)),
    }),
    leaving: leaving.signal,
    erasesFreedMemory: options.erasesFreedMemory ?? false,
  };
  await context.vault.start();
  const limitBytes = options.buildCacheBytes ?? BUILD_CACHE_BYTES;
  const caches = new BuildCaches({ dir: folders.buildCaches, limitBytes, clock, log });
  await caches.sweep();
  return new HostEngine(context, { jail, leaving, caches });
}

const BUILD_CACHE_BYTES = 20 * 1024 ** 3;

const SWAP = 'swap is on, so what machines hold in memory may reach the disk unencrypted: turn it off or encrypt it';

class HostEngine implements Engine {
  readonly host: HostReport;
  readonly #context: EngineContext;
  readonly #jail: Jail;
  readonly #leaving: AbortController;
  readonly #machines = new Map<string, RunningMachine>();
  readonly #caches: BuildCaches;
  readonly #keptBuilder: KeptBuilder;
  readonly #closing = new AbortController();

  constructor(
    context: EngineContext,
    { jail, leaving, caches }: { jail: Jail; leaving: AbortController; caches: BuildCaches },
  ) {
    this.#jail = jail;
    this.#caches = caches;
    this.#keptBuilder = new KeptBuilder(context);
    this.#leaving = leaving;
    this.host = context.host;
    this.#context = context;
    context.integrity.startScrub();
  }

  build(request: BuildRequest, { signal }: Options): Promise<TracedDisk> {
    const parts = { caches: this.#caches, kept: this.#keptBuilder };
    return buildImage(this.#context, parts, request, { signal: this.#bounded(signal) });
  }

  async buildCaches(): Promise<readonly BuildCache[]> {
    return (await this.#caches.list()).map(({ folder, bytes, usedAt }) => ({ folder, bytes, usedAt }));
  }

  async dropBuildCaches(): Promise<number> {
    await this.#keptBuilder.end();
    return this.#caches.drop();
  }

  keptDisk(snapshotDir: string): Promise<KeptDisk | undefined> {
    return keptDisk(this.#context, snapshotDir);
  }

  facts(snapshotDir: string): Promise<SnapshotFacts | undefined> {
    return snapshotFacts(snapshotDir, this.#context.keyring);
  }

  seal(request: SealRequest, { signal }: Options): Promise<SealedSnapshot> {
    return sealMachine(this.#context, request, { signal: this.#bounded(signal) });
  }

  launch(request: LaunchRequest, options: Options): Promise<Machine> {
    return this.#start(request.id, options, (bounded) => launchMachine(this.#context, request, bounded));
  }

  async rehearse({ id, snapshotDir, port }: RehearseRequest, options: Options): Promise<void> {
    try {
      await rehearse(
        await this.launch({ id, snapshotDir }, options),
        { port },
        { signal: this.#bounded(options.signal) },
      );
    } finally {
      await this.destroy(id);
    }
  }

  async prove(snapshotDir: string): Promise<void> {
    const { integrity, driver } = this.#context;
    const { parts } = await integrity.manifestOf(snapshotDir, driver);
    await integrity.verify(snapshotDir, parts, { isUrgent: false });
  }

  resume(request: ResumeRequest, options: Options): Promise<Machine> {
    return this.#start(request.id, options, (bounded) => resumeMachine(this.#context, request, bounded));
  }

  async adopt(request: LaunchRequest, { signal }: Options): Promise<Machine | undefined> {
    if (this.#machines.has(request.id)) throw new MachineError('failed', `${request.id} runs already`);
    const machine = await adoptMachine(this.#context, request, { signal: this.#bounded(signal) });
    return machine && this.#keep(machine);
  }

  async setEgress(id: string, egress: Egress): Promise<void> {
    await this.#machines.get(id)?.setEgress(egress);
  }

  flows(id: string, options: { follow?: boolean; signal?: AbortSignal }): AsyncIterable<FlowRecord> {
    return this.#context.network.flows(id, options);
  }

  async isSuspended(id: string): Promise<boolean> {
    const { folders, network } = this.#context;
    if (this.#machines.has(id) || !existsSync(machineFiles(folders.machine(id)).saved)) return false;
    await this.#jail.end(id, folders.run(id));
    // A server that was killed in the middle of the suspend left it. A gateway just found keeps who has this folder.
    await remove(folders.run(id));
    await network.detach(id);
    return true;
  }

  recall(id: string): Promise<Recalled> {
    const { folders, clock } = this.#context;
    return recall(machineFiles(folders.machine(id)), clock.sinceBoot().bootId);
  }

  forgetCheckpoints(id: string): Promise<void> {
    return forgetCheckpoints(machineFiles(this.#context.folders.machine(id)));
  }

  async destroy(id: string): Promise<void> {
    const { folders, network } = this.#context;
    const machine = this.#machines.get(id);
    if (machine === undefined) await this.#jail.end(id, folders.run(id));
    else await machine.destroy();
    // A gateway just found keeps who has a run folder.
    await Promise.all([remove(folders.run(id)), remove(folders.machine(id))]);
    await network.detach(id);
  }

  onDamage(listener: (damage: SnapshotDamage) => void): Disposable {
    return this.#context.integrity.watch(listener);
  }

  fit(snapshotDir: string): Promise<SnapshotFit> {
    const { driver, keyring, runtime } = this.#context;
    return snapshotFit(snapshotDir, { driver, keyring, kernelRelease: runtime.guest.kernelRelease });
  }

  async deleteSnapshot(snapshotDir: string): Promise<void> {
    this.#context.integrity.forget(snapshotDir);
    await rm(snapshotDir, { recursive: true, force: true });
  }

  leave(): void {
    this.#leaving.abort();
  }

  async residue(): Promise<readonly string[]> {
    return this.#context.folders.ids();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new MachineError('exited', 'the engine was closed'));
    this.#context.integrity[Symbol.dispose]();
    await this.#keptBuilder[Symbol.asyncDispose]();
    await Promise.all([...this.#machines.values()].map((machine) => machine[Symbol.asyncDispose]()));
    await this.#context.readAhead[Symbol.asyncDispose]();
    await this.#context.network[Symbol.asyncDispose]();
    await this.#caches[Symbol.asyncDispose]();
    await this.#context.vault[Symbol.asyncDispose]();
    await this.#jail[Symbol.asyncDispose]();
  }

  async #start(
    id: string,
    { signal }: Options,
    start: (options: { signal: AbortSignal }) => Promise<RunningMachine>,
  ): Promise<Machine> {
    if (this.#machines.has(id)) throw new MachineError('failed', `${id} runs already`);
    const runDir = this.#context.folders.run(id);
    if (existsSync(runDir)) await this.#jail.end(id, runDir);
    return this.#keep(await start({ signal: this.#bounded(signal) }));
  }

  async #keep(machine: RunningMachine): Promise<Machine> {
    const { id } = machine;
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
}
