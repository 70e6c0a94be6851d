/** Tries a jail for real: starts one of its own programs in it, as a VMM would be started. */
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import type { Runtime } from '../runtime.ts';
import { bubblewrapArguments } from './bubblewrap.ts';
import { PRLIMIT } from './places.ts';
import type { Attempt, JailFindings } from './plan.ts';
import { randomUser } from './users.ts';

const TIMEOUT_MS = 10_000;
const LIMITS = { fileBytes: 1024 };

export function findJailParts({ jail }: Runtime): JailFindings {
  const { bubblewrap, root } = jail;
  const isRoot = process.geteuid?.() === 0;
  const isInstalled = bubblewrap !== undefined && existsSync(bubblewrap) && existsSync(root);
  return {
    isRoot,
    isInstalled,
    hasSeccomp: jail.hasSeccomp && kernelFilters(),
    attempt: isInstalled ? attemptWith(bubblewrap, root) : async () => 'bubblewrap is not installed',
  };
}

function attemptWith(bubblewrap: string, root: string): Attempt {
  return (kind, parts) => {
    const user = kind === 'uid' ? { uid: randomUser(), groups: [] } : undefined;
    const plan = { kind, parts };
    const args = bubblewrapArguments({ root, infoFd: 1, plan, mounts: [], limits: LIMITS, user });
    return new Promise((resolve) => {
      execFile(bubblewrap, [...args, PRLIMIT, '--version'], { timeout: TIMEOUT_MS }, (error, _, stderr) => {
        resolve(error === null ? undefined : (stderr.trim().split('\n').at(-1) ?? '') || error.message);
      });
    });
  };
}

function kernelFilters(): boolean {
  try {
    return /^Seccomp_filters:/m.test(readFileSync('/proc/self/status', 'latin1')) || existsSync(ACTIONS);
  } catch {
    return existsSync(ACTIONS);
  }
}

const ACTIONS = '/proc/sys/kernel/seccomp/actions_avail';
