/** How many processes and threads this server and all it starts may come to. */
import { readFileSync } from 'node:fs';

const WHEN_UNKNOWN = 4096;

/** The least of what kernel, user and the server's own control groups allow. */
export function tasksMax(read: (file: string) => string = readFile): number {
  const limits = [
    number(read('/proc/sys/kernel/threads-max')),
    number(read('/proc/sys/kernel/pid_max')),
    number(/^Max processes\s+(\d+)/m.exec(read('/proc/self/limits'))?.[1]),
    ...groupsOf(read('/proc/self/cgroup')).map((file) => number(read(file))),
  ].filter((limit) => limit !== undefined);
  return limits.length === 0 ? WHEN_UNKNOWN : Math.min(...limits);
}

/** `pids.max` of the group the server is in and of all above it, whichever version of cgroups counts them. */
function groupsOf(text: string): string[] {
  return text.split('\n').flatMap((line) => {
    const [, controllers = '', group = ''] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (group === '' || (controllers !== '' && !controllers.split(',').includes('pids'))) return [];
    const root = controllers === '' ? '/sys/fs/cgroup' : `/sys/fs/cgroup/${controllers}`;
    const names = group.split('/').filter((name) => name !== '');
    return names.map((_, depth) => `${root}/${names.slice(0, depth + 1).join('/')}/pids.max`);
  });
}

/** Undefined for `max`, and for what is not there. */
function number(text: string | undefined): number | undefined {
  const value = Number.parseInt(text ?? '', 10);
  return value > 0 ? value : undefined;
}

/** Empty when it can't be read. */
function readFile(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch {
    return '';
  }
}
