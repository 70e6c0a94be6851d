/** What the kernel says of a process: its rights, its namespaces, what it has open and mounted. */
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

export const NAMESPACES = ['mnt', 'pid', 'ipc', 'uts', 'net', 'cgroup', 'user'] as const;
export type Namespace = (typeof NAMESPACES)[number];

export interface Mounted {
  /** Path within its file system of what is mounted. */
  readonly root: string;
  readonly place: string;
  readonly options: readonly string[];
  readonly type: string;
}

export interface ProcessFacts {
  readonly pid: number;
  readonly command: readonly string[];
  readonly environment: readonly string[];
  /** Of `/proc/<pid>/status`. */
  readonly status: Readonly<Record<string, string>>;
  readonly namespaces: Readonly<Record<Namespace, string>>;
  readonly openFiles: readonly string[];
  readonly mounts: readonly Mounted[];
  /** Group by controller, `''` for cgroup v2. */
  readonly cgroups: Readonly<Record<string, string>>;
  /** Soft and hard limit by name. */
  readonly limits: Readonly<Record<string, readonly [string, string]>>;
  /** Names in the root folder it sees. */
  readonly root: readonly string[];
}

/** @throws when the process has ended */
export function factsOf(pid: number): ProcessFacts {
  const proc = join('/proc', String(pid));
  const text = (name: string) => readFileSync(join(proc, name), 'utf8');
  const lines = (name: string) => text(name).trimEnd().split('\n');
  return {
    pid,
    command: text('cmdline').split('\0').slice(0, -1),
    environment: text('environ').split('\0').slice(0, -1),
    status: Object.fromEntries(
      lines('status').map((line) => {
        const colon = line.indexOf(':');
        return [line.slice(0, colon), line.slice(colon + 1).trim()];
      }),
    ),
    namespaces: namespacesOf(pid),
    openFiles: readdirSync(join(proc, 'fd')).flatMap((fd) => linkOr(join(proc, 'fd', fd))),
    mounts: lines('mountinfo').map((line) => {
      const [before = '', after = ''] = line.split(' - ');
      const [, , , root = '', place = '', options = ''] = before.split(' ');
      return { root, place, options: options.split(','), type: after.split(' ')[0] ?? '' };
    }),
    cgroups: Object.fromEntries(
      lines('cgroup').flatMap((line) => {
        const [, controllers = '', group = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
        return controllers.split(',').map((controller) => [controller, group] as const);
      }),
    ),
    limits: Object.fromEntries(
      lines('limits').flatMap((line) => {
        const [, name = '', soft = '', hard = ''] = /^(Max .+?) {2,}(\S+) +(\S+)/.exec(line) ?? [];
        return name === '' ? [] : [[name, [soft, hard] as const] as const];
      }),
    ),
    root: readdirSync(join(proc, 'root')).sort(),
  };
}

export function namespacesOf(pid: number): Record<Namespace, string> {
  const names = NAMESPACES.map((name) => [name, readlinkSync(`/proc/${pid}/ns/${name}`)] as const);
  return Object.fromEntries(names) as Record<Namespace, string>;
}

/** VMMs that a server of this state folder has recorded, by the id of their machine. */
export function recordedVmms(stateDir: string): Map<string, ProcessRecordView> {
  const found = new Map<string, ProcessRecordView>();
  const run = join(stateDir, 'run');
  for (const id of existsSync(run) ? readdirSync(run) : []) {
    try {
      found.set(id, JSON.parse(readFileSync(join(run, id, 'pid.json'), 'utf8')) as ProcessRecordView);
    } catch {
      // Not yet, or not any more.
    }
  }
  return found;
}

export interface ProcessRecordView {
  readonly pid: number;
  readonly supervisorPid: number;
  readonly uid: number;
  readonly cgroups: readonly string[];
}

function linkOr(path: string): string[] {
  try {
    return [readlinkSync(path)];
  } catch {
    return [];
  }
}
