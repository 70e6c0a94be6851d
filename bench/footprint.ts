import { readdirSync, readFileSync } from 'node:fs';

/** Proportional and anonymous memory of the QEMU process that names `microvmId`, from /proc/<pid>/smaps_rollup. */
export function footprint(microvmId: string): { pssMB: number; anonymousMB: number } {
  const pid = readdirSync('/proc').find((name) => /^\d+$/.test(name) && commandLine(name).includes(microvmId));
  if (pid === undefined) throw new Error(`no process names ${microvmId}`);
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const megabytes = (field: string) =>
    Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? Number.NaN) / 1000;
  return { pssMB: megabytes('Pss'), anonymousMB: megabytes('Anonymous') };
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}
