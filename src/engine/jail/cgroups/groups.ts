/**
 * The groups of one server's machines: `rekindle/<server>/<machine>` under every controller that can be had.
 *
 * Invariant: a machine's groups end with it. What a killed server left is removed when the next one starts, unless a process
 * still lives in it: that is a machine which somebody may adopt, or which `killGroups` ends.
 */
import { createHash } from 'node:crypto';
import { existsSync, realpathSync } from 'node:fs';
import { mkdir, readdir, readFile, rmdir, stat, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { MachineError, messageOf, sleep } from '../../../lib/index.ts';
import type { VmmLimits } from '../../vmm/vmm.ts';
import { deviceOf } from './device.ts';
import type { Controller } from './find.ts';
import type { CgroupPlaces } from './places.ts';
import { valuesOf, weightOf, writeValues } from './values.ts';

const FAMILY = 'rekindle';
/** The kernel lets go of an ended process's group a moment after the process. */
const REMOVE_WAIT_MS = 3000;
const REMOVE_POLL_MS = 5;
/** A foreign group without processes that is older than this was forgotten by a killed server. */
const FORGOTTEN_MS = 60_000;
/** Of a machine that somebody waits for, beside one that nobody does. */
const AWAITED_TIMES = 64;
/** A guest that is not ready by then holds the others up no longer. */
const AWAITED_MS = 5000;

export interface MachineGroup extends AsyncDisposable {
  readonly folders: readonly string[];
  /** Moves a process with all its threads in. Takes 10 to 20 ms: the kernel waits for every CPU. */
  add(pid: number): Promise<void>;
}

export class Cgroups implements AsyncDisposable {
  readonly #places: CgroupPlaces;
  readonly #server: string;
  readonly #device: string | undefined;

  private constructor(places: CgroupPlaces, server: string, device: string | undefined) {
    this.#places = places;
    this.#server = server;
    this.#device = device;
  }

  static async open(places: CgroupPlaces, stateDir: string): Promise<Cgroups> {
    const groups = new Cgroups(places, serverName(stateDir), deviceOf(stateDir));
    await groups.#sweep();
    return groups;
  }

  /** @throws MachineError `failed`; nothing is left then */
  async create(id: string, limits: VmmLimits): Promise<MachineGroup> {
    // Another server that starts in this moment may take the still empty group of this one for forgotten.
    return this.#tryCreate(id, limits).catch(() => this.#tryCreate(id, limits));
  }

  async #tryCreate(id: string, limits: VmmLimits): Promise<MachineGroup> {
    await using stack = new AsyncDisposableStack();
    const folders: string[] = [];
    try {
      for (const [controller, folder] of this.#distinct()) {
        const server = await this.#serverFolder(folder, controller);
        const group = path.join(server, id);
        stack.defer(() => removeGroup(group));
        // What a killed server left has its own limits, which not every order of writing can change.
        await rmdir(group).catch(() => {});
        await mkdir(group, { recursive: true });
        folders.push(group);
      }
      await Promise.all(this.#controllers().map((each) => this.#limit(each, id, limits)));
    } catch (cause) {
      throw new MachineError('failed', `the cgroup of ${id} could not be made: ${messageOf(cause)}`, { cause });
    }
    const owned = stack.move();
    return {
      folders,
      add: async (pid) => {
        await Promise.all(folders.map((folder) => writeFile(path.join(folder, 'cgroup.procs'), `${pid}`)));
      },
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    };
  }

  /**
   * Somebody waits for the machine: those that only idle let it run first, until this is disposed, or for `AWAITED_MS`. Its limits
   * stay. `made`: when its groups are there.
   */
  hurry(id: string, { cpuWeight }: VmmLimits, made: Promise<unknown> = Promise.resolve()): Disposable {
    // Where the weight can't be written, the machine only comes later.
    let work = made.then(() => this.#weigh(id, cpuWeight * AWAITED_TIMES)).catch(() => {});
    const calm = () => {
      clearTimeout(timer);
      work = work.then(() => this.#weigh(id, cpuWeight)).catch(() => {});
    };
    const timer = setTimeout(calm, AWAITED_MS).unref();
    return { [Symbol.dispose]: calm };
  }

  /** Where a machine's groups are or would be. */
  foldersOf(id: string): string[] {
    return this.#distinct().map(([, folder]) => path.join(folder, FAMILY, this.#server, id));
  }

  /** Removes this server's own groups, if all its machines are gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const [, folder] of this.#distinct()) {
      await rmdir(path.join(folder, FAMILY, this.#server)).catch(() => {});
      await rmdir(path.join(folder, FAMILY)).catch(() => {});
    }
  }

  #controllers(): [Controller, string][] {
    return Object.entries(this.#places.folders) as [Controller, string][];
  }

  /** One entry per folder: with v2 all controllers share it. */
  #distinct(): [Controller, string][] {
    return this.#places.version === 1 ? this.#controllers() : this.#controllers().slice(0, 1);
  }

  async #limit([controller, folder]: [Controller, string], id: string, limits: VmmLimits): Promise<void> {
    const group = path.join(folder, FAMILY, this.#server, id);
    await writeValues(group, valuesOf(this.#places.version, controller, limits, this.#device));
  }

  async #weigh(id: string, cpuWeight: number): Promise<void> {
    const { version, folders } = this.#places;
    if (folders.cpu === undefined) return;
    await writeValues(path.join(folders.cpu, FAMILY, this.#server, id), [weightOf(version, cpuWeight)]);
  }

  /** The machines of one server together weigh as much as the host's CPUs, not as one process. */
  async #serverFolder(folder: string, controller: Controller): Promise<string> {
    const family = path.join(folder, FAMILY);
    const server = path.join(family, this.#server);
    if (existsSync(server)) return server;
    for (const made of [family, server]) {
      await mkdir(made, { recursive: true });
      if (this.#places.version === 2) {
        const all = this.#controllers().map(([name]) => `+${name}`);
        await writeFile(path.join(made, 'cgroup.subtree_control'), all.join(' '));
        await writeFile(path.join(made, 'cpu.weight'), `${100 * availableParallelism()}`).catch(() => {});
      } else if (controller === 'cpu') {
        await writeFile(path.join(made, 'cpu.shares'), `${1024 * availableParallelism()}`);
      }
    }
    return server;
  }

  /** Groups without processes: this server's, and what others forgot. */
  async #sweep(): Promise<void> {
    for (const [, folder] of this.#distinct()) {
      const family = path.join(folder, FAMILY);
      for (const server of await foldersIn(family)) {
        const isOurs = server === this.#server;
        for (const id of await foldersIn(path.join(family, server))) {
          const group = path.join(family, server, id);
          if (isOurs || (await isOld(group))) await rmdir(group).catch(() => {});
        }
        if (!isOurs) await rmdir(path.join(family, server)).catch(() => {});
      }
    }
  }
}

/** Ends every process in a group and removes it. Idempotent. */
export async function killGroup(folder: string): Promise<void> {
  for (const pid of await processesOf(folder)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // ended meanwhile
    }
  }
  await removeGroup(folder);
}

export async function processesOf(folder: string): Promise<number[]> {
  const text = await readFile(path.join(folder, 'cgroup.procs'), 'utf8').catch(() => '');
  return text.split('\n').filter(Boolean).map(Number);
}

async function removeGroup(folder: string): Promise<void> {
  for (let waited = 0; ; waited += REMOVE_POLL_MS) {
    try {
      await rmdir(folder);
      return;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOENT') return;
      // The next server's sweep finds it.
      if (code !== 'EBUSY' || waited >= REMOVE_WAIT_MS) return;
    }
    await sleep(REMOVE_POLL_MS);
  }
}

/** The same for every server of a state folder, so that a later one finds the groups of machines it adopts. */
function serverName(stateDir: string): string {
  const real = existsSync(stateDir) ? realpathSync(stateDir) : path.resolve(stateDir);
  return createHash('sha256').update(real).digest('hex').slice(0, 12);
}

async function foldersIn(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
}

async function isOld(folder: string): Promise<boolean> {
  const { mtimeMs } = await stat(folder).catch(() => ({ mtimeMs: Number.POSITIVE_INFINITY }));
  return Date.now() - mtimeMs > FORGOTTEN_MS;
}
