/**
 * How many connections this process can hold: each is a file descriptor. Node raises the soft limit to the hard one when
 * it starts, so what is read here is all there is.
 */
import { readFileSync } from 'node:fs';
import type { Logger } from '../lib/index.ts';

/** For everything else: the store, files being served, links to machines and their VMMs, build contexts. */
const RESERVED = 1024;
const LEAST = 16;

/** `wanted`, or fewer when the limit on open files says so, with a remark for the operator. */
export function affordableConnections(wanted: number, log: Logger, limit = openFilesLimit()): number {
  if (limit >= wanted + RESERVED) return wanted;
  const affordable = Math.max(LEAST, limit - RESERVED);
  log.warn(
    { openFiles: limit, connections: affordable, wanted },
    `endpoints take at most ${affordable} connections, since this process may open ${limit} files only; raise the limit (ulimit -Hn, LimitNOFILE= of systemd) to ${wanted + RESERVED}`,
  );
  return affordable;
}

function openFilesLimit(): number {
  const [, soft] = /^Max open files\s+(\d+|unlimited)/m.exec(readFileSync('/proc/self/limits', 'latin1')) ?? [];
  return soft === undefined || soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft);
}
