/**
 * Ends what a killed server left running of a machine: known by its record, by its cgroups, and, where a server died before
 * either was there, by the folder it works in.
 */
import type { BigIntStats } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { MachineError, sleep } from '../../lib/index.ts';
import { killGroup, processesOf } from './cgroups/groups.ts';
import { isAlive, type ProcessRecord, readRecord, startOf, VMM_FOLDER } from './record.ts';

const KILL_WAIT_MS = 5000;
const KILL_POLL_MS = 10;

/** @param groups of the machine, as this server would name them. @throws MachineError `failed` when something does not end */
export async function killLeftOver(id: string, runDir: string, groups: readonly string[]): Promise<void> {
  const record = await readRecord(runDir);
  const folders = [...new Set([...groups, ...(record?.cgroups ?? [])])];
  for (let waited = 0; ; waited += KILL_POLL_MS) {
    const pids = await processesLeft(id, runDir, record, folders);
    if (pids.length === 0) break;
    if (waited >= KILL_WAIT_MS) throw new MachineError('failed', `a process of ${id} does not end`);
    for (const pid of pids) kill(pid);
    await sleep(KILL_POLL_MS);
  }
  await Promise.all(folders.map(killGroup));
}

async function processesLeft(
  id: string,
  runDir: string,
  record: ProcessRecord | undefined,
  groups: readonly string[],
): Promise<number[]> {
  const pids = new Set(await processesIn(path.join(runDir, VMM_FOLDER), id));
  if (record !== undefined && isAlive(record)) pids.add(record.pid);
  for (const group of groups) for (const pid of await processesOf(group)) pids.add(pid);
  return [...pids].filter((pid) => startOf(pid) !== undefined);
}

/** Processes that name the machine and work in `dir`, whatever they call it in their jail. */
async function processesIn(dir: string, id: string): Promise<number[]> {
  const wanted = await identity(dir);
  const names = wanted === undefined ? [] : (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    names.map(async (name) => {
      if ((await identity(`/proc/${name}/cwd`)) !== wanted) return undefined;
      const words = await readFile(`/proc/${name}/cmdline`, 'latin1').catch(() => '');
      // Not the shell of somebody who looks around there.
      return words.split('\0').includes(id) ? Number(name) : undefined;
    }),
  );
  return found.filter((pid) => pid !== undefined);
}

async function identity(place: string): Promise<string | undefined> {
  const found: BigIntStats | undefined = await stat(place, { bigint: true }).catch(() => undefined);
  return found === undefined ? undefined : `${found.dev}:${found.ino}`;
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // ended meanwhile
  }
}
