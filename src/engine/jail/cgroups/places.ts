/**
 * Folders in which machines' groups can be made. With v1 every writable folder is one. With v2 controllers have to be handed
 * down first, which the kernel refuses to a group that holds processes: the server moves itself into a leaf of its own then,
 * unless others are in its group.
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { limitsOf } from '../limits.ts';
import { type CgroupHost, CONTROLLERS, type Controller } from './find.ts';
import { valuesOf, writeValues } from './values.ts';

/** The server's own leaf. A service that has one already (systemd's `DelegateSubgroup=`) gives it this name. */
export const SERVER_LEAF = 'rekindle-server';

export interface CgroupPlaces {
  readonly version: 1 | 2;
  readonly folders: Readonly<Partial<Record<Controller, string>>>;
}

const NOWHERE: CgroupPlaces = { version: 2, folders: {} };

/** @param options.isDry only says what could be had, for `rekindle doctor` */
export async function findPlaces(host: CgroupHost | undefined, options: { isDry: boolean }): Promise<CgroupPlaces> {
  if (host === undefined) return NOWHERE;
  const { version, folders } = host.version === 1 ? host : await delegated(host, options);
  if (options.isDry) return { version, folders };
  const held = await Promise.all(
    entries(folders).map(async (entry) => ((await holds(version, ...entry)) ? [entry] : [])),
  );
  return { version, folders: Object.fromEntries(held.flat()) };
}

async function delegated(host: CgroupHost, options: { isDry: boolean }): Promise<CgroupPlaces> {
  const own = host.folders.cpu;
  const candidates = [
    ...(own === undefined ? [] : [path.basename(own) === SERVER_LEAF ? path.dirname(own) : own]),
    ...(host.mountPoint === undefined ? [] : [host.mountPoint]),
  ];
  for (const folder of candidates) {
    const controllers = await handDown(folder, options);
    if (controllers.length > 0) return { version: 2, folders: Object.fromEntries(controllers.map((c) => [c, folder])) };
  }
  return NOWHERE;
}

/** Whether the kernel takes the limits of a machine: it may have been built without one of them. */
async function holds(version: 1 | 2, controller: Controller, folder: string): Promise<boolean> {
  const trial = path.join(folder, `rekindle-trial-${process.pid}-${controller}`);
  try {
    await mkdir(trial);
    await writeValues(trial, valuesOf(version, controller, limitsOf({ memoryMiB: 2048, cpus: 1 }), undefined));
    return true;
  } catch {
    return false;
  } finally {
    await rmdir(trial).catch(() => {});
  }
}

function entries(folders: CgroupPlaces['folders']): [Controller, string][] {
  return CONTROLLERS.flatMap((controller) => {
    const folder = folders[controller];
    return folder === undefined ? [] : [[controller, folder] satisfies [Controller, string]];
  });
}

/** Makes the controllers available to groups below `folder`; which of them are. */
async function handDown(folder: string, { isDry }: { isDry: boolean }): Promise<Controller[]> {
  const words = async (file: string) => (await readFile(path.join(folder, file), 'utf8')).trim().split(/\s+/);
  try {
    const offered = await words('cgroup.controllers');
    const wanted = CONTROLLERS.filter((controller) => offered.includes(controller));
    const handed = await words('cgroup.subtree_control');
    const missing = wanted.filter((controller) => !handed.includes(controller));
    if (missing.length === 0) return wanted;
    const processes = await words('cgroup.procs');
    const strangers = processes.filter((pid) => pid !== '' && !ourFamily().has(Number(pid)));
    // The hierarchy's root alone may hold processes and hand down controllers; it has no `cgroup.type`.
    const isRoot = !existsSync(path.join(folder, 'cgroup.type'));
    if (!isRoot && strangers.length > 0) return wanted.filter((controller) => handed.includes(controller));
    if (isDry) return wanted;
    if (!isRoot) await moveToLeaf(folder, processes);
    for (const controller of missing) {
      await writeFile(path.join(folder, 'cgroup.subtree_control'), `+${controller}`).catch(() => {});
    }
    const now = await words('cgroup.subtree_control');
    return wanted.filter((controller) => now.includes(controller));
  } catch {
    return [];
  }
}

async function moveToLeaf(folder: string, processes: readonly string[]): Promise<void> {
  const leaf = path.join(folder, SERVER_LEAF);
  await mkdir(leaf, { recursive: true });
  for (const pid of processes) if (pid !== '') await writeFile(path.join(leaf, 'cgroup.procs'), pid);
}

/** This process and those that started it (npm, a shell, systemd's wrapper). */
function ourFamily(): ReadonlySet<number> {
  const family = new Set<number>();
  for (let pid = process.pid; pid > 0 && !family.has(pid); pid = parentOf(pid)) family.add(pid);
  return family;
}

function parentOf(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
  } catch {
    return 0;
  }
}
