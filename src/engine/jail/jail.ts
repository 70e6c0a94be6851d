/**
 * Starts VMMs in jails of this host's plan, and takes back what they were given when they end.
 *
 * Invariant: no guest instruction runs before its VMM is where it belongs: `settle` is awaited between the VMM's own start
 * and its guest's. Files a VMM writes to are its user's while it lives and the server's again afterwards.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, chown, open, stat } from 'node:fs/promises';
import { release } from 'node:os';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { MachineError } from '../../lib/index.ts';
import type { Runtime } from '../runtime.ts';
import type { VmmConfig, VmmLimits } from '../vmm/vmm.ts';
import { bubblewrapArguments, type JailUser, type Limits, limitArguments } from './bubblewrap.ts';
import { type Cgroups, killGroup, type MachineGroup } from './cgroups/groups.ts';
import { ExchangeFolder } from './exchange-folder.ts';
import { killLeftOver } from './leftovers.ts';
import { FIRMWARE, QEMU } from './places.ts';
import type { JailPlan } from './plan.ts';
import { bootId, isAlive, type ProcessRecord, readRecord, startOf, VMM_FOLDER, writeRecord } from './record.ts';
import { jailUser } from './users.ts';
import { type View, viewOf, writtenFiles } from './view.ts';

/** Of the child: control is the VMM's, this one bubblewrap's. */
const INFO_FD = 4;
const INFO_LIMIT_BYTES = 4096;
/** 5 ms on a quiet host, seconds when many start at once. */
const INFO_TIMEOUT_MS = 30_000;
const MIB = 1024 * 1024;
/** A disk image's own tables, and small files. */
const FILE_SLACK_BYTES = 64 * MIB;

export interface JailOptions {
  readonly plan: JailPlan;
  readonly runtime: Pick<Runtime, 'jail' | 'qemu'>;
  readonly accelerator: 'kvm' | 'tcg';
  readonly cgroups: Cgroups;
}

/** What the VMM's arguments are made from. */
export interface Inside {
  readonly config: VmmConfig;
  readonly dataDirs: readonly string[];
  readonly seccomp: boolean;
}

/** A secret that is in the VMM's working folder when it starts. */
export interface Handed {
  readonly name: string;
  readonly text: string;
}

export interface Jailed extends AsyncDisposable {
  /** Of the first program of the chain; it ends with the VMM. Descriptors 2 and 3 are the VMM's. */
  readonly child: ChildProcess;
  /** Of the VMM, counted in the host; undefined when it ended before it had one. */
  readonly pid: Promise<number | undefined>;
  /** The VMM's working folder, as the host knows it. */
  readonly folder: ExchangeFolder;
  /**
   * To be called when the VMM has made its sockets: resolves when it is recorded and in its cgroups, and can make nothing in
   * its working folder any more.
   */
  settle(): Promise<void>;
  /** See `Vmm.calm`. */
  calm(): void;
}

/** A VMM that an earlier server started. */
export interface Left extends AsyncDisposable {
  readonly record: ProcessRecord;
  readonly folder: ExchangeFolder;
  /** See `Vmm.calm`. */
  calm(): void;
}

export class Jail implements AsyncDisposable {
  readonly #o: JailOptions;

  constructor(options: JailOptions) {
    this.#o = options;
  }

  /** @throws MachineError; nothing is left then */
  async start(
    config: VmmConfig,
    argumentsOf: (inside: Inside) => readonly string[],
    options: { readonly handed?: readonly Handed[] } = {},
  ): Promise<Jailed> {
    const { plan, accelerator, cgroups } = this.#o;
    await using stack = new AsyncDisposableStack();
    const grouping = cgroups.create(config.id, config.limits);
    stack.defer(async () => (await grouping.catch(() => undefined))?.[Symbol.asyncDispose]());
    grouping.catch(() => {});
    const hurry = config.isAwaited === true ? stack.use(cgroups.hurry(config.id, config.limits, grouping)) : undefined;
    const user = plan.kind === 'uid' ? await jailUser(accelerator) : undefined;
    await makeRam(config);
    const folder = await ExchangeFolder.make(path.join(config.runDir, VMM_FOLDER), user);
    for (const { text, name } of options.handed ?? []) await folder.hand(text, name);
    const files = writtenFiles(config);
    const view = viewOf(config, { folder: folder.path, accelerator });
    if (user !== undefined) {
      stack.defer(() => giveTo(process.geteuid?.() ?? 0, process.getegid?.() ?? 0, files));
      await giveTo(user.uid, user.uid, files);
      await Promise.all(view.mounts.map(({ kind, from }) => (kind === 'read' ? makeReadable(from) : undefined)));
    }
    const limits = { fileBytes: await largestFile(config), ...(this.#countsTasks() ? config.limits : {}) };
    const child = this.#spawn(view, limits, user, folder.path, argumentsOf);
    const pid =
      plan.kind === 'none'
        ? Promise.resolve(child.pid)
        : toldPid((child.stdio as readonly unknown[])[INFO_FD] as Readable);
    const confine = async () => {
      const [known, group] = await Promise.all([pid, grouping]);
      if (known === undefined || child.pid === undefined) return;
      const uid = user?.uid ?? process.geteuid?.() ?? 0;
      await Promise.all([group.add(known), record(config, { pid: known, supervisorPid: child.pid, uid, group })]);
    };
    pid.catch(() => {});
    // Beside the VMM's own start.
    const confined = confine();
    confined.catch(() => {});
    const settle = async () => {
      await Promise.all([confined, folder.close()]);
    };
    const calm = () => hurry?.[Symbol.dispose]();
    const owned = stack.move();
    return { child, pid, folder, settle, calm, [Symbol.asyncDispose]: () => owned.disposeAsync() };
  }

  /** Ends what is left of a machine, whoever started it. Idempotent. @throws MachineError `failed` when it does not end */
  async end(id: string, runDir: string): Promise<void> {
    await killLeftOver(id, runDir, this.#o.cgroups.foldersOf(id));
  }

  /** What an earlier server started there, if it lives. Disposing takes back what it was given; its end comes first. */
  async adopt({
    id,
    runDir,
    limits,
    written,
  }: {
    id: string;
    runDir: string;
    limits: VmmLimits;
    written: readonly string[];
  }): Promise<Left | undefined> {
    const record = await readRecord(runDir);
    if (record === undefined || record.id !== id || !isAlive(record)) return undefined;
    await using stack = new AsyncDisposableStack();
    stack.defer(async () => void (await Promise.all(record.cgroups.map(killGroup))));
    const server = process.geteuid?.() ?? 0;
    const hurry = stack.use(this.#o.cgroups.hurry(id, limits));
    const isOther = record.uid !== server;
    if (isOther) stack.defer(() => giveTo(server, process.getegid?.() ?? 0, written));
    const user = isOther ? { uid: record.uid, groups: [] } : undefined;
    const folder = ExchangeFolder.found(path.join(runDir, VMM_FOLDER), user);
    // It may have been cut short before it was shut.
    await folder.close();
    const owned = stack.move();
    return {
      record,
      folder,
      calm: () => hurry[Symbol.dispose](),
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#o.cgroups[Symbol.asyncDispose]();
  }

  #spawn(
    view: View,
    limits: Limits,
    user: JailUser | undefined,
    folder: string,
    argumentsOf: (inside: Inside) => readonly string[],
  ): ChildProcess {
    const { plan, runtime } = this.#o;
    const { bubblewrap, root } = runtime.jail;
    const { seccomp } = plan;
    // stderr and control: socket pairs, which the VMM outlives when this process dies.
    const options = { cwd: folder, detached: true, stdio: [...STDIO] };
    if (plan.kind === 'none' || bubblewrap === undefined) {
      const { binary, dataDirs } = runtime.qemu;
      const config = { ...view.outside, runDir: folder };
      const args = [...limitArguments(limits), '--', binary, ...argumentsOf({ config, dataDirs, seccomp })];
      return spawn('prlimit', args, { ...options, env: { PATH: '/usr/local/bin:/usr/bin:/bin' } });
    }
    const before = bubblewrapArguments({ ...view, root, infoFd: INFO_FD, plan, limits, user });
    const args = argumentsOf({ config: view.config, dataDirs: [FIRMWARE], seccomp });
    return spawn(bubblewrap, [...before, QEMU, ...args], options);
  }

  /** Newer kernels count a user's processes per user namespace; older ones would count everything the server's user runs. */
  #countsTasks(): boolean {
    const { kind } = this.#o.plan;
    return kind === 'uid' || (kind === 'namespace' && isKernelFrom(5, 14));
  }
}

const STDIO = ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'] as const;

/** What bubblewrap says of the process it started. @throws MachineError `timeout` */
async function toldPid(info: Readable): Promise<number | undefined> {
  let text = '';
  const late = new MachineError('timeout', 'the jail of the VMM was not ready in time');
  const timer = setTimeout(() => info.destroy(late), INFO_TIMEOUT_MS);
  try {
    for await (const chunk of info) {
      text += chunk;
      if (text.includes('}') || text.length > INFO_LIMIT_BYTES) break;
    }
  } catch (error) {
    if (error === late) throw late;
    // It ended; what its owner hears of that says more.
  } finally {
    clearTimeout(timer);
  }
  const found = /"child-pid": (\d+)/.exec(text)?.[1];
  return found === undefined ? undefined : Number(found);
}

/** A file the VMM would make itself has to be there before it can be mounted. */
async function makeRam({ ram, memoryMiB }: VmmConfig): Promise<void> {
  if (ram.sharing !== 'shared') return;
  await using file = await open(ram.path, 'a', 0o600);
  if ((await file.stat()).size === 0) await file.truncate(memoryMiB * MIB);
}

async function giveTo(uid: number, gid: number, files: readonly string[]): Promise<void> {
  await Promise.all(
    files.map((file) =>
      chown(file, uid, gid).catch((error: NodeJS.ErrnoException) => {
        // The guest's owner may have moved it on, or the machine is being removed.
        if (error.code !== 'ENOENT') throw error;
      }),
    ),
  );
}

/** Others may read it: it is in a folder they cannot enter, and reaches the VMM by its mount alone. */
async function makeReadable(file: string): Promise<void> {
  const found = await stat(file).catch(() => undefined);
  if (found?.isFile() && (found.mode & 0o004) === 0) await chmod(file, (found.mode & 0o777) | 0o444);
}

async function largestFile({ disks }: VmmConfig): Promise<number> {
  const sizes = disks.map(async ({ source }) => {
    if (source.kind === 'empty') return 0;
    const { size } = await stat(source.kind === 'raw' ? source.path : source.basePath).catch(() => ({ size: 0 }));
    return size;
  });
  const largest = Math.max(...(await Promise.all(sizes)));
  return Math.ceil(largest * 1.01) + FILE_SLACK_BYTES;
}

async function record(
  { id, runDir }: VmmConfig,
  known: { pid: number; supervisorPid: number; uid: number; group: MachineGroup },
): Promise<void> {
  const { group, ...numbers } = known;
  const startedAtTicks = startOf(known.pid);
  // Its end is told by the child's.
  if (startedAtTicks === undefined) return;
  const cgroups = group.folders;
  await writeRecord(runDir, { generation: 1, id, ...numbers, startedAtTicks, bootId: bootId(), cgroups });
}

function isKernelFrom(major: number, minor: number): boolean {
  const [, a = '0', b = '0'] = /^(\d+)\.(\d+)/.exec(release()) ?? [];
  return Number(a) > major || (Number(a) === major && Number(b) >= minor);
}
