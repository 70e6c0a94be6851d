/** The arguments of the programs a VMM is started by: `bwrap … prlimit … setpriv … qemu`. */
import { LIBRARIES, PRLIMIT, RUN, SETPRIV } from './places.ts';
import type { JailPart, JailPlan } from './plan.ts';
import type { Mount } from './view.ts';

/** Open files: sockets and disks, and an eventfd or two per virtio queue. */
const OPEN_FILES = 1024;

export interface Limits {
  /** The largest file it writes. */
  readonly fileBytes: number;
  /** Absent where the kernel would count those of other machines too. */
  readonly tasks?: number;
}

export interface JailArguments {
  readonly root: string;
  /** Where bubblewrap tells the process id, counted in the host. */
  readonly infoFd: number;
  readonly plan: Pick<JailPlan, 'kind' | 'parts'>;
  readonly mounts: readonly Mount[];
  readonly limits: Limits;
  /** The machine's own, under a root server. */
  readonly user: JailUser | undefined;
}

export interface JailUser {
  readonly uid: number;
  /** Further groups: that of /dev/kvm where it is needed. */
  readonly groups: readonly number[];
}

const FLAGS: Readonly<Record<JailPart, readonly string[]>> = {
  pid: ['--unshare-pid', '--as-pid-1'],
  ipc: ['--unshare-ipc'],
  uts: ['--unshare-uts', '--hostname', 'vm'],
  net: ['--unshare-net'],
  cgroup: ['--unshare-cgroup'],
  'no-more-users': ['--disable-userns'],
};

/** Everything before the program and its own arguments. */
export function bubblewrapArguments(jail: JailArguments): string[] {
  const { plan, mounts } = jail;
  return [
    ...(plan.kind === 'namespace' ? ['--unshare-user'] : CAPABILITIES_TO_CHANGE_USER),
    ...[...plan.parts].flatMap((part) => FLAGS[part]),
    ...['--info-fd', `${jail.infoFd}`, '--ro-bind', jail.root, '/'],
    ...mounts.flatMap(({ kind, from, to }) => [MOUNTS[kind], from, to]),
    ...['--chdir', mounts.some(({ to }) => to === RUN) ? RUN : '/'],
    ...['--clearenv', '--setenv', 'LD_LIBRARY_PATH', LIBRARIES, '--'],
    ...[PRLIMIT, ...limitArguments(jail.limits), '--'],
    ...(jail.user === undefined ? [] : userArguments(jail.user)),
  ];
}

const MOUNTS: Readonly<Record<Mount['kind'], string>> = {
  read: '--ro-bind',
  write: '--bind',
  device: '--dev-bind',
};

/** Root keeps no more than it takes to become somebody else. */
const CAPABILITIES_TO_CHANGE_USER = [
  ...['--cap-drop', 'ALL'],
  ...['CAP_SETUID', 'CAP_SETGID', 'CAP_SETPCAP'].flatMap((name) => ['--cap-add', name]),
];

/** `prlimit`'s. */
export function limitArguments({ fileBytes, tasks }: Limits): string[] {
  const processes = tasks === undefined ? [] : [`--nproc=${tasks}`];
  return ['--core=0', `--nofile=${OPEN_FILES}`, `--fsize=${fileBytes}`, ...processes];
}

function userArguments({ uid, groups }: JailUser): string[] {
  return [
    SETPRIV,
    ...['--reuid', `${uid}`, '--regid', `${uid}`],
    ...(groups.length === 0 ? ['--clear-groups'] : ['--groups', groups.join(',')]),
    ...['--no-new-privs', '--bounding-set=-all', '--inh-caps=-all', '--ambient-caps=-all'],
  ];
}
