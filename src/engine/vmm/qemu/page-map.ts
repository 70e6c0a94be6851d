/** Where a process maps the RAM file, and what the kernel says of the pages there. */
import { open, readFile, stat } from 'node:fs/promises';
import { MachineError } from '../../../lib/index.ts';

export const PAGE_BYTES = 4096;
/** Entries read at once: 512 MiB of memory. */
const SCAN_ENTRIES = 131_072;

/** One mapping of the RAM file. */
export interface Mapping {
  readonly address: number;
  readonly bytes: number;
  /** Place of its start in the RAM file. */
  readonly fileOffset: number;
}

export async function findMappings(pid: number, ramPath: string): Promise<Mapping[]> {
  const { ino } = await stat(ramPath, { bigint: true });
  const found: Mapping[] = [];
  for (const line of (await readFile(`/proc/${pid}/maps`, 'latin1')).split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ (\d+) /.exec(line);
    if (match === null || match[4] !== `${ino}`) continue;
    const address = Number.parseInt(match[1] ?? '', 16);
    const bytes = Number.parseInt(match[2] ?? '', 16) - address;
    found.push({ address, bytes, fileOffset: Number.parseInt(match[3] ?? '', 16) });
  }
  if (found.length === 0) throw new MachineError('failed', 'the VMM does not map its RAM file');
  return found;
}

/**
 * Walks one mapping and awaits `use` for every run of pages whose entry `matches`; it is given the high half of an entry.
 * @param use takes the first page's number within the mapping, and how many there are
 */
export async function forEachRun(
  pid: number,
  mapping: Mapping,
  matches: (high: number) => boolean,
  use: (firstPage: number, pages: number) => Promise<void> | void,
): Promise<void> {
  await using pagemap = await open(`/proc/${pid}/pagemap`, 'r');
  const entries = new Uint32Array(SCAN_ENTRIES * 2);
  const bytes = Buffer.from(entries.buffer);
  const total = mapping.bytes / PAGE_BYTES;
  for (let base = 0; base < total; base += SCAN_ENTRIES) {
    const count = Math.min(SCAN_ENTRIES, total - base);
    const { bytesRead } = await pagemap.read(bytes, 0, count * 8, (mapping.address / PAGE_BYTES + base) * 8);
    if (bytesRead !== count * 8) throw new MachineError('failed', 'the page map of the VMM is cut short');
    for (let page = 0; page < count; page++) {
      if (!matches(entries[page * 2 + 1] ?? 0)) continue;
      let end = page + 1;
      while (end < count && matches(entries[end * 2 + 1] ?? 0)) end += 1;
      await use(base + page, end - page);
      page = end;
    }
  }
}

/** Bit 63 present, 62 swapped, 61 file-backed: of the VM's own, copied when it wrote. */
export function isChanged(high: number): boolean {
  const bits = high >>> 29;
  return (bits & 1) === 0 && bits !== 0;
}

/** Read or written. The kernel maps up to 15 neighbours of a page that is read, if the file's cache has them. */
export function isTouched(high: number): boolean {
  return high >>> 30 !== 0;
}
