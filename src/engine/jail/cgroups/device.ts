/** The disk behind a folder, as cgroups name it. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';

/** `major:minor` of the whole disk; undefined where the folder's file system is not on one block device. */
export function deviceOf(folder: string): string | undefined {
  try {
    let at = path.resolve(folder);
    while (!existsSync(at)) at = path.dirname(at);
    const name = deviceName(statSync(at, { bigint: true }).dev);
    const block = `/sys/dev/block/${name}`;
    if (!existsSync(block)) return undefined;
    // Limits are the disk's, not a partition's.
    if (!existsSync(`${block}/partition`)) return name;
    return readFileSync(`${block}/../dev`, 'latin1').trim();
  } catch {
    return undefined;
  }
}

/** Of Linux's 64-bit device number. */
export function deviceName(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xffff_f000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffff_ff00n);
  return `${major}:${minor}`;
}
