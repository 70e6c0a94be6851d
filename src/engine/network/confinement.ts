/**
 * How the gateway is started. It speaks with hostile guests all day, so it is given as little as can be: a user of its own
 * (root server) or a user namespace, a root file system with nothing in it but its program and the host's resolv.conf, its
 * own pid, ipc and uts namespaces, no capabilities, no way to new ones. It needs the host's network: that is its work.
 */
import { realpath } from 'node:fs/promises';
import path from 'node:path';
import type { Places } from './places.ts';

/**
 * `user`: root gives it a user id of its own. `namespace`: as the server's user, in a user namespace. `bare`: bubblewrap is
 * missing or the host forbids namespaces; a root server still gives it a user id of its own.
 */
export type Confinement = 'user' | 'namespace' | 'bare';

export interface Start {
  readonly program: string;
  readonly places: Places;
  readonly uid: number;
  readonly bubblewrap: string;
  /** Folder with `bin/setpriv` and the libraries it needs. */
  readonly toolsRoot: string;
}

export interface Command {
  readonly program: string;
  readonly args: readonly string[];
  /** Files it inherits from descriptor 3 on. */
  readonly opens: readonly string[];
  /** For the process itself; inside bubblewrap others do it. */
  readonly uid?: number;
  /** Descriptor on which the process id is told. */
  readonly infoFd?: number;
}

const INFO_FD = 3;
/** Inside. */
const [PROGRAM, DIR, FLOWS, CONFIG] = ['/rekindle-gateway', '/gateway', '/flows', '/config.json'];
const RESOLV_CONF = '/etc/resolv.conf';

/** The tightest first. */
export function confinements(isRoot: boolean, hasBubblewrap: boolean): Confinement[] {
  if (!hasBubblewrap) return ['bare'];
  return isRoot ? ['user', 'bare'] : ['namespace', 'bare'];
}

export async function commandFor(kind: Confinement, start: Start): Promise<Command> {
  if (kind === 'bare') return bareCommand(start);
  const { program, places, bubblewrap } = start;
  return {
    program: bubblewrap,
    args: [
      ...(kind === 'namespace' ? ['--unshare-user'] : CAPABILITIES_TO_CHANGE_USER),
      ...['--unshare-pid', '--as-pid-1', '--unshare-ipc', '--unshare-uts', '--unshare-cgroup-try'],
      ...['--info-fd', `${INFO_FD}`, '--clearenv', '--setenv', 'LD_LIBRARY_PATH', '/lib'],
      // Its own processes only; long paths of sockets go through /proc/self/fd.
      ...['--proc', '/proc'],
      ...(kind === 'user' ? toolMounts(start.toolsRoot) : []),
      ...(await resolverMounts()),
      ...['--ro-bind', program, PROGRAM, '--ro-bind', places.config, CONFIG],
      ...['--bind', places.dir, DIR, '--bind', places.flows, FLOWS],
      ...['--remount-ro', '/', '--chdir', '/', '--'],
      ...(kind === 'user' ? becomeUser(start.uid) : []),
      ...[PROGRAM, '--dir', DIR, '--flows', FLOWS, '--config', CONFIG],
    ],
    opens: [],
    infoFd: INFO_FD,
  };
}

/** Root keeps no more than it takes to become somebody else. */
const CAPABILITIES_TO_CHANGE_USER = [
  ...['--cap-drop', 'ALL'],
  ...['CAP_SETUID', 'CAP_SETGID', 'CAP_SETPCAP'].flatMap((name) => ['--cap-add', name]),
];

function toolMounts(root: string): string[] {
  return ['bin', 'lib', 'lib64'].flatMap((name) => ['--ro-bind-try', path.join(root, name), `/${name}`]);
}

function becomeUser(uid: number): string[] {
  return [
    ...['/bin/setpriv', '--reuid', `${uid}`, '--regid', `${uid}`, '--clear-groups', '--no-new-privs'],
    ...['--bounding-set=-all', '--inh-caps=-all', '--ambient-caps=-all'],
  ];
}

/** The folder, not the file: who changes it puts a new one in its place. */
async function resolverMounts(): Promise<string[]> {
  const real = await realpath(RESOLV_CONF).catch(() => undefined);
  if (real === undefined) return [];
  const dir = path.dirname(real);
  return ['--ro-bind', dir, dir, ...(dir === '/etc' ? [] : ['--symlink', real, RESOLV_CONF])];
}

/** What the user may not reach by its path it reaches by what it inherits. */
function bareCommand({ program, places, uid }: Start): Command {
  const at = (n: number) => `/proc/self/fd/${n}`;
  return {
    program: at(3),
    args: ['--dir', at(4), '--flows', at(5), '--config', at(6)],
    opens: [program, places.dir, places.flows, places.config],
    ...(process.geteuid?.() === 0 ? { uid } : {}),
  };
}
