/** Where a sparse file holds data. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { MachineError } from '../../lib/index.ts';

const TIMEOUT_MS = 60_000;

/** Part of a file. */
export interface Range {
  readonly at: number;
  readonly bytes: number;
}

/** In order. @param mapper qemu-img */
export async function dataExtents(file: string, mapper: string): Promise<Range[]> {
  const args = ['map', '-U', '--output=json', '-f', 'raw', file];
  const { stdout } = await promisify(execFile)(mapper, args, { timeout: TIMEOUT_MS, maxBuffer: 64 * 1024 * 1024 });
  const found = JSON.parse(stdout) as { start: number; length: number; data: boolean }[];
  if (!Array.isArray(found)) throw new MachineError('failed', 'the map of a disk could not be read');
  return found.filter(({ data }) => data).map(({ start, length }) => ({ at: start, bytes: length }));
}
