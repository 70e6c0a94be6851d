/**
 * Folders in which machines' groups can be made. With v1 every writable folder is one. With v2 controllers have to be handed
 * down first, which the kernel refuses to a group that holds processes: the server moves itself into a leaf of its own then,
 * unless others are in its group.
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type CgroupHost, CONTROLLERS, type Controller } from './find.ts';

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
  if (host.version === 1) return host;
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
