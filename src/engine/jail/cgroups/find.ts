/**
 * Finds where this server may make cgroups: below the group it is in itself, so that whatever limits the server limits its
 * machines too, and what ends its service ends nothing else.
 */
import { constants } from 'node:fs';
import { access, readFile } from 'node:fs/promises';
import path from 'node:path';

export const CONTROLLERS = ['cpu', 'memory', 'pids', 'io'] as const;
export type Controller = (typeof CONTROLLERS)[number];

/** Where groups can be made, per controller; with v2 the folders are the same. */
export interface CgroupHost {
  readonly version: 1 | 2;
  readonly folders: Readonly<Partial<Record<Controller, string>>>;
  /** Of v2: where root may make groups when others share the server's own group. */
  readonly mountPoint?: string;
}

/** Of `/proc/self/mountinfo` and `/proc/self/cgroup`. Says where the groups would be, not whether they can be written. */
export function parseCgroups(mountinfo: string, cgroup: string): CgroupHost | undefined {
  const own = new Map<string, string>();
  for (const line of cgroup.trim().split('\n')) {
    const [, controllers = '', group = '/'] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    for (const name of controllers.split(',')) own.set(name, group);
  }
  const folders: Partial<Record<Controller, string>> = {};
  let unified: { mountPoint: string; own: string } | undefined;
  for (const line of mountinfo.trim().split('\n')) {
    const [before = '', after = ''] = line.split(' - ');
    const [, , , root = '/', mountPoint = ''] = before.split(' ');
    const [type, , options = ''] = after.split(' ');
    if (type === 'cgroup2') {
      unified = { mountPoint, own: below(mountPoint, root, own.get('') ?? '/') };
    }
    if (type !== 'cgroup') continue;
    for (const option of options.split(',')) {
      const controller = option === 'blkio' ? 'io' : CONTROLLERS.find((name) => name === option);
      if (controller !== undefined) folders[controller] = below(mountPoint, root, own.get(option) ?? '/');
    }
  }
  if (Object.keys(folders).length > 0) return { version: 1, folders };
  if (unified === undefined) return undefined;
  const { mountPoint } = unified;
  return {
    version: 2,
    folders: Object.fromEntries(CONTROLLERS.map((controller) => [controller, unified.own])),
    mountPoint,
  };
}

/** A container sees its own group as the root of the mount, or at its full path below it. */
function below(mountPoint: string, root: string, own: string): string {
  const group = own === root ? '/' : own.startsWith(`${root}/`) ? own.slice(root.length) : own;
  return group.startsWith('/..') ? mountPoint : path.resolve(mountPoint, `.${group}`);
}

/** Of this process, with the folders that cannot be written left out. */
export async function findCgroups(): Promise<CgroupHost | undefined> {
  const read = (name: string) => readFile(`/proc/self/${name}`, 'utf8').catch(() => '');
  const found = parseCgroups(await read('mountinfo'), await read('cgroup'));
  if (found === undefined) return undefined;
  const folders: Partial<Record<Controller, string>> = {};
  for (const controller of CONTROLLERS) {
    const folder = found.folders[controller];
    if (folder === undefined) continue;
    if (await isWritable(folder)) folders[controller] = folder;
  }
  const { version, mountPoint } = found;
  return { version, folders, ...(mountPoint !== undefined && (await isWritable(mountPoint)) ? { mountPoint } : {}) };
}

function isWritable(folder: string): Promise<boolean> {
  return access(folder, constants.W_OK).then(
    () => true,
    () => false,
  );
}
