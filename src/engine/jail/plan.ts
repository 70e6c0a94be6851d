/**
 * Decides how tight a jail this host can give. Everything is tried for real and as a whole first; only what the host
 * refuses is left out, and each thing left out is said.
 */
import type { HostCheck } from '../host/inspect.ts';

/** `user`: a user namespace. `no-more-users`: none can be made inside. */
export const PARTS = ['pid', 'ipc', 'uts', 'net', 'cgroup', 'no-more-users'] as const;
export type JailPart = (typeof PARTS)[number];

export interface JailPlan {
  /**
   * `uid`: a root server gives each VMM a user id of its own. `namespace`: it runs as the server's user, in a user namespace.
   * `none`: this host lets nobody make namespaces; limits and QEMU's own seccomp filter remain.
   */
  readonly kind: 'uid' | 'namespace' | 'none';
  readonly parts: ReadonlySet<JailPart>;
  readonly seccomp: boolean;
}

/** Starts a program in a jail of these parts; resolves with what went wrong, or undefined. */
export type Attempt = (kind: 'uid' | 'namespace', parts: ReadonlySet<JailPart>) => Promise<string | undefined>;

export interface JailFindings {
  readonly isRoot: boolean;
  /** Bubblewrap and a jail root are there. */
  readonly isInstalled: boolean;
  /** In the kernel and in QEMU. */
  readonly hasSeccomp: boolean;
  readonly attempt: Attempt;
}

export interface Planned {
  readonly plan: JailPlan;
  readonly checks: readonly HostCheck[];
}

export async function planJail(findings: JailFindings): Promise<Planned> {
  const { isRoot, hasSeccomp } = findings;
  const jail = await tightest(findings);
  const plan: JailPlan = { kind: jail.kind, parts: jail.parts, seccomp: hasSeccomp };
  return {
    plan,
    checks: [userCheck(plan, isRoot), namespaceCheck(plan, jail.refusals), seccompCheck(hasSeccomp)],
  };
}

interface Tightest {
  readonly kind: JailPlan['kind'];
  readonly parts: ReadonlySet<JailPart>;
  /** Why what is missing is missing. */
  readonly refusals: readonly string[];
}

async function tightest({ isRoot, isInstalled, attempt }: JailFindings): Promise<Tightest> {
  const none = { kind: 'none', parts: new Set<JailPart>() } as const;
  if (!isInstalled) return { ...none, refusals: ['bubblewrap is not installed'] };
  const refusals: string[] = [];
  // Root inside a container may lack the user ids, but may still have a namespace.
  for (const kind of isRoot ? (['uid', 'namespace'] as const) : (['namespace'] as const)) {
    const wanted = PARTS.filter((part) => kind === 'namespace' || part !== 'no-more-users');
    const refusal = await attempt(kind, new Set(wanted));
    if (refusal === undefined) return { kind, parts: new Set(wanted), refusals };
    const bare = await attempt(kind, new Set());
    if (bare !== undefined) {
      refusals.push(bare);
      continue;
    }
    const parts = new Set<JailPart>();
    for (const part of wanted) if ((await attempt(kind, new Set([...parts, part]))) === undefined) parts.add(part);
    return { kind, parts, refusals: [...refusals, refusal] };
  }
  return { ...none, refusals };
}

function userCheck({ kind }: JailPlan, isRoot: boolean): HostCheck {
  const id = 'users';
  if (kind === 'uid') return { id, ok: 'yes', what: 'each VMM runs under a user id of its own', remedy: '' };
  const who = isRoot ? 'root' : "the server's user";
  const where = kind === 'namespace' ? ', in a user namespace without capabilities' : '';
  return {
    id,
    ok: 'degraded',
    what: `all VMMs run as ${who}${where}: one that broke out could reach the others' files`,
    remedy: isRoot ? 'run the server outside of a container, or with all user ids mapped' : 'run the server as root',
  };
}

const NAMES: Readonly<Record<JailPart, string>> = {
  pid: 'processes',
  ipc: 'shared memory',
  uts: 'host name',
  net: 'network',
  cgroup: 'cgroups',
  'no-more-users': 'no further user namespaces',
};

function namespaceCheck({ kind, parts }: JailPlan, refusals: readonly string[]): HostCheck {
  const id = 'namespaces';
  const why = refusals.length === 0 ? '' : ` (${refusals.join('; ').slice(0, 300)})`;
  if (kind === 'none') {
    return {
      id,
      ok: 'degraded',
      what: `VMMs run without namespaces, on the host's files, processes and network${why}`,
      remedy: 'install bubblewrap and run `npm run setup`, as root or where unprivileged user namespaces are allowed',
    };
  }
  const missing = PARTS.filter((part) => !parts.has(part) && (kind === 'namespace' || part !== 'no-more-users'));
  if (missing.length === 0) {
    return { id, ok: 'yes', what: 'each VMM sees files, processes and network of its own', remedy: '' };
  }
  return {
    id,
    ok: 'degraded',
    what: `the jail of VMMs lacks: ${missing.map((part) => NAMES[part]).join(', ')}${why}`,
    remedy: 'run the server outside of a container, or in one that may make namespaces',
  };
}

function seccompCheck(hasSeccomp: boolean): HostCheck {
  const id = 'seccomp';
  if (hasSeccomp) return { id, ok: 'yes', what: 'VMMs filter their system calls', remedy: '' };
  return {
    id,
    ok: 'degraded',
    what: 'this kernel or QEMU has no seccomp: VMMs may make any system call',
    remedy: 'a kernel with CONFIG_SECCOMP_FILTER and a QEMU built with libseccomp',
  };
}
