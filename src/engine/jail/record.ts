/**
 * `run/<id>/pid.json`: all that a later server needs to adopt a machine's process or to end it. The folder is the server's
 * own; what the VMM itself may write is in the folder below.
 */
import { readFileSync } from 'node:fs';
import { readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';

export interface ProcessRecord {
  readonly generation: 1;
  readonly id: string;
  /** Of the VMM itself, counted in the host. */
  readonly pid: number;
  /** A number alone may be another process's by now: it counts only with its start and the host's. */
  readonly startedAtTicks: number;
  readonly bootId: string;
  /** Of bubblewrap, which waits for the VMM and ends by itself; the VMM's own where there is none. */
  readonly supervisorPid: number;
  readonly uid: number;
  /** Absolute folders of its cgroups. */
  readonly cgroups: readonly string[];
}

const NAME = 'pid.json';
/** Of a machine's run folder: what the VMM sees as its working folder, with `link.sock` and `qmp.sock`. */
export const VMM_FOLDER = 'vm';

export async function writeRecord(runDir: string, record: ProcessRecord): Promise<void> {
  const file = path.join(runDir, NAME);
  await writeFile(`${file}.new`, JSON.stringify(record), { mode: 0o600 });
  await rename(`${file}.new`, file);
}

export async function readRecord(runDir: string): Promise<ProcessRecord | undefined> {
  try {
    const record = JSON.parse(await readFile(path.join(runDir, NAME), 'utf8')) as ProcessRecord;
    return record.generation === 1 ? record : undefined;
  } catch {
    return undefined;
  }
}

/** Whether the recorded process itself still lives, whoever started it. */
export function isAlive({ pid, startedAtTicks, bootId: recorded }: ProcessRecord): boolean {
  return recorded === bootId() && startOf(pid) === startedAtTicks;
}

/** Clock ticks from the host's start to the process's; undefined when there is none, or only its remains. */
export function startOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : Number(fields[19]);
  } catch {
    return undefined;
  }
}

/** Of this start of the host. */
export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}
