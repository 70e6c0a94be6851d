/** What this host has, what it lacks and how to mend it: the engine's part of `rekindle doctor`. Changes nothing. */
import { existsSync } from 'node:fs';
import { readFile, statfs } from 'node:fs/promises';
import { availableParallelism, freemem, totalmem } from 'node:os';
import { dirname } from 'node:path';
import { findJailParts } from '../jail/attempt.ts';
import { cgroupChecks } from '../jail/cgroups/checks.ts';
import { findCgroups } from '../jail/cgroups/find.ts';
import { type CgroupPlaces, findPlaces } from '../jail/cgroups/places.ts';
import { type JailFindings, type JailPlan, planJail } from '../jail/plan.ts';
import type { Runtime } from '../runtime.ts';
import { probeKvm } from './kvm-probe.ts';

export interface HostCheck {
  readonly id:
    | 'accelerator'
    | 'vmm'
    | 'ptrace'
    | 'memory'
    | 'disk'
    | 'cpus'
    // The jail of VMMs, item by item.
    | 'users'
    | 'namespaces'
    | 'seccomp'
    | 'cgroup-cpu'
    | 'cgroup-memory'
    | 'cgroup-pids'
    | 'cgroup-io';
  /** `degraded`: it works, with a consequence that `what` names. */
  readonly ok: 'yes' | 'no' | 'degraded';
  readonly what: string;
  /** What to do about it; empty when there is nothing to do. */
  readonly remedy: string;
}

const GIB = 1024 ** 3;
/** A builder machine may touch this much, and the smallest microVM half of it. */
const MEMORY_NEEDED = 3 * GIB;
/** One image with its work folder while it is built. */
const DISK_NEEDED = 4 * GIB;

export async function inspectHost(options: {
  readonly runtime: Runtime | undefined;
  readonly stateDir: string;
}): Promise<readonly HostCheck[]> {
  return (await inspect({ ...options, isDry: true })).checks;
}

export interface Inspection {
  readonly checks: readonly HostCheck[];
  readonly plan: JailPlan;
  readonly places: CgroupPlaces;
}

/** @param options.isDry leaves the server's cgroups as they are */
export async function inspect(options: {
  readonly runtime: Runtime | undefined;
  readonly stateDir: string;
  readonly isDry: boolean;
}): Promise<Inspection> {
  const { runtime, stateDir, isDry } = options;
  const [probed, { plan, checks: jail }, places] = await Promise.all([
    runtime === undefined ? undefined : accelerator(runtime),
    planJail(runtime === undefined ? NOTHING : findJailParts(runtime)),
    findCgroups().then((host) => findPlaces(host, { isDry })),
  ]);
  const checks = [
    ...(runtime === undefined || probed === undefined ? [missingRuntime] : [vmm(runtime), probed]),
    cpus(),
    ...(runtime === undefined ? [] : jail),
    ...cgroupChecks(places),
    await ptrace(),
    await memory(),
    await disk(stateDir),
  ];
  return { checks, plan, places };
}

const NOTHING: JailFindings = {
  isRoot: false,
  isInstalled: false,
  hasSeccomp: false,
  attempt: async () => 'set-up has not run',
};

const missingRuntime: HostCheck = {
  id: 'vmm',
  ok: 'no',
  what: 'set-up has not run: QEMU, the guest kernel and the base image are missing',
  remedy: 'npm run setup',
};

function vmm(runtime: Runtime): HostCheck {
  if (existsSync(runtime.qemu.binary)) {
    return { id: 'vmm', ok: 'yes', what: `QEMU ${runtime.qemu.version}`, remedy: '' };
  }
  return { id: 'vmm', ok: 'no', what: 'the QEMU that set-up found is gone', remedy: 'npm run setup' };
}

async function accelerator(runtime: Runtime): Promise<HostCheck> {
  const kvm = await probeKvm(runtime.qemu);
  if (kvm.usable) return { id: 'accelerator', ok: 'yes', what: 'KVM: a test guest ran at native speed', remedy: '' };
  return {
    id: 'accelerator',
    ok: 'degraded',
    what: `software emulation (TCG), guests compute 3 to 10 times slower: ${kvm.why}`,
    remedy:
      'use a host with hardware virtualisation (bare metal, or a cloud VM with nesting), with this user in group kvm',
  };
}

function cpus(): HostCheck {
  const count = availableParallelism();
  if (count >= 2) return { id: 'cpus', ok: 'yes', what: `${count} CPUs`, remedy: '' };
  return { id: 'cpus', ok: 'degraded', what: 'one CPU: builds and guests take turns', remedy: 'two or more CPUs' };
}

/** Delta saving writes /proc/<pid>/mem of a child of this process. */
async function ptrace(): Promise<HostCheck> {
  const scope = (await readFile('/proc/sys/kernel/yama/ptrace_scope', 'utf8').catch(() => '0')).trim();
  const root = process.geteuid?.() === 0;
  if (scope === '0' || scope === '1' || (scope === '2' && root)) {
    return { id: 'ptrace', ok: 'yes', what: 'memory of child processes may be read and written', remedy: '' };
  }
  return {
    id: 'ptrace',
    ok: 'degraded',
    what: `kernel.yama.ptrace_scope is ${scope}: suspends save whole memory instead of what changed`,
    remedy: 'sysctl kernel.yama.ptrace_scope=1',
  };
}

async function memory(): Promise<HostCheck> {
  const text = await readFile('/proc/meminfo', 'utf8').catch(() => '');
  const available = Number(/^MemAvailable:\s+(\d+)/m.exec(text)?.[1] ?? 0) * 1024 || freemem();
  const what = `${(available / GIB).toFixed(1)} GiB of ${(totalmem() / GIB).toFixed(1)} GiB memory available`;
  if (available >= MEMORY_NEEDED) return { id: 'memory', ok: 'yes', what, remedy: '' };
  return { id: 'memory', ok: 'degraded', what, remedy: 'builds want 3 GiB: end other programs or use a larger host' };
}

async function disk(stateDir: string): Promise<HostCheck> {
  const stat = await statfs(nearestExisting(stateDir));
  const free = stat.bavail * stat.bsize;
  const what = `${(free / GIB).toFixed(1)} GiB disk free for the state folder`;
  if (free >= DISK_NEEDED) return { id: 'disk', ok: 'yes', what, remedy: '' };
  return { id: 'disk', ok: 'no', what, remedy: 'free some space, or choose another folder with --state' };
}

function nearestExisting(path: string): string {
  let at = path;
  while (!existsSync(at) && dirname(at) !== at) at = dirname(at);
  return at;
}
