/**
 * Finds what tests leave behind: every process of a run carries a mark in its environment, or was given something of the
 * run's own folder, where every temporary file lies.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

export interface Leftover {
  readonly pid: number;
  readonly command: string;
}

export interface Run {
  /** `NAME=value`. */
  readonly mark: string;
  readonly folder: string;
}

/** Processes of the run, other than this one. Processes that may not be looked into are not ours. */
export async function processesOf({ mark, folder }: Run): Promise<Leftover[]> {
  const found: Leftover[] = [];
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      const environment = await readFile(join('/proc', name, 'environ'), 'utf8');
      const command = (await readFile(join('/proc', name, 'cmdline'), 'utf8')).replaceAll('\0', ' ').trim();
      if (!environment.split('\0').includes(mark) && !command.includes(folder)) continue;
      // A zombie has no command line; it is only waiting for its parent.
      if (command !== '') found.push({ pid, command: command.slice(0, 200) });
    } catch {
      // Gone meanwhile, or another user's.
    }
  }
  return found;
}

/** Waits until no process of the run is left, at most `forMs`; returns those that stayed. */
export async function waitForNone(run: Run, forMs: number): Promise<Leftover[]> {
  const until = performance.now() + forMs;
  for (;;) {
    const left = await processesOf(run);
    if (left.length === 0 || performance.now() > until) return left;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
