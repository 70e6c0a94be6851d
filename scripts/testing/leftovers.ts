/**
 * Finds what tests leave behind: every process of a run carries a mark in its environment, every temporary file lies in
 * the run's own folder.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

export interface Leftover {
  readonly pid: number;
  readonly command: string;
}

/** Processes that carry the mark, other than this one. Processes that may not be looked into are not ours. */
export async function markedProcesses(mark: string): Promise<Leftover[]> {
  const found: Leftover[] = [];
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      const environment = await readFile(join('/proc', name, 'environ'), 'utf8');
      if (!environment.split('\0').includes(mark)) continue;
      const command = (await readFile(join('/proc', name, 'cmdline'), 'utf8')).replaceAll('\0', ' ').trim();
      // A zombie has no command line; it is only waiting for its parent.
      if (command !== '') found.push({ pid, command: command.slice(0, 200) });
    } catch {
      // Gone meanwhile, or another user's.
    }
  }
  return found;
}

/** Waits until no marked process is left, at most `forMs`; returns those that stayed. */
export async function waitForNone(mark: string, forMs: number): Promise<Leftover[]> {
  const until = performance.now() + forMs;
  for (;;) {
    const left = await markedProcesses(mark);
    if (left.length === 0 || performance.now() > until) return left;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
