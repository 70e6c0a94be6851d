/** The processes of a server, seen from outside: by what they have open or name, never by what the server says. */
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { basename } from 'node:path';

export interface Seen {
  readonly pid: number;
  readonly command: string;
}

/** Every process whose command line contains `text`. */
export function processesNaming(text: string): Seen[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map((name) => ({ pid: Number(name), command: commandOf(Number(name)) }))
    .filter(({ command }) => command.includes(text));
}

export function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return '';
  }
}

/** The VMMs of this state folder, by the id of what they run: in their jail they name nothing of it, but have it mounted. */
export function vmmsOf(stateDir: string): ReadonlyMap<string, number> {
  const run = mountOf(stateDir, 'run');
  const found = new Map<string, number>();
  for (const { pid, command } of processesNaming('')) {
    if (!/(^|\/)qemu(-system-\w+)?$/.test(programOf(pid))) continue;
    const inside = mountsOf(pid)
      .split('\n')
      .find((line) => line.includes(run));
    const [, id] = /^([\w-]+)/.exec(inside?.split(run)[1] ?? command.split(`${stateDir}/run/`)[1] ?? '') ?? [];
    if (id !== undefined) found.set(id, pid);
  }
  return found;
}

export function programOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/exe`);
  } catch {
    return '';
  }
}

export function isAlive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
}

export function openFiles(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/fd`).length;
  } catch {
    return 0;
  }
}

/** Ports the process listens on. */
export function listeningPorts(pid: number): number[] {
  const inodes = new Set<string>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const [, inode] = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`)) ?? [];
      if (inode !== undefined) inodes.add(inode);
    } catch {
      // closed meanwhile
    }
  }
  return readFileSync('/proc/net/tcp', 'latin1')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((row) => row[3] === '0A' && inodes.has(row[9] ?? ''))
    .map((row) => Number.parseInt(row[1]?.split(':')[1] ?? '0', 16));
}

export function residentMiB(pid: number): number {
  try {
    const [, kib = '0'] = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1')) ?? [];
    return Math.round(Number(kib) / 1024);
  } catch {
    return 0;
  }
}

/** Network gateways of this state folder. */
export function gatewaysOf(stateDir: string): number[] {
  const ours = mountOf(stateDir, 'gateway ');
  return processesNaming('')
    .filter(({ pid }) => programOf(pid).includes('rekindle-gateway') && mountsOf(pid).includes(ours))
    .map(({ pid }) => pid);
}

/** What a mount of something under the folder's `part` begins with, device and place in it. The folder is next to a disk's root. */
function mountOf(stateDir: string, part: string): string {
  const { dev } = statSync(stateDir);
  return `${dev >> 8}:${dev & 0xff} /${basename(stateDir)}/${part}${part.endsWith(' ') ? '' : '/'}`;
}

function mountsOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/mountinfo`, 'latin1');
  } catch {
    return '';
  }
}
