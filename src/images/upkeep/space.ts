/**
 * What files take on disk: allocated bytes, and beside them the length that sparse files pretend to have. Folders change while
 * they are measured; what is gone when its turn comes counts nothing. Links are never followed.
 */
import { lstat, readdir } from 'node:fs/promises';
import path from 'node:path';

export interface Space {
  /** Allocated on disk. Parts that a file system shares between files (reflinks) count in each of them. */
  readonly bytes: number;
  /** Sum of lengths: what a copy that knows no holes would take. */
  readonly apparentBytes: number;
}

export const NOTHING: Space = { bytes: 0, apparentBytes: 0 };

const BLOCK_BYTES = 512;
/** Entries looked at beside each other. */
const LANES = 16;

export function sum(spaces: Iterable<Space>): Space {
  let [bytes, apparentBytes] = [0, 0];
  for (const space of spaces) {
    bytes += space.bytes;
    apparentBytes += space.apparentBytes;
  }
  return { bytes, apparentBytes };
}

/** A file, or a folder with all below it. */
export async function spaceOf(place: string, signal?: AbortSignal): Promise<Space> {
  let total = NOTHING;
  let level = [place];
  while (level.length > 0) {
    const below: string[] = [];
    await forEachOf(level, async (file) => {
      signal?.throwIfAborted();
      const stats = await unlessGone(lstat(file));
      if (stats === undefined) return;
      const apparentBytes = stats.isFile() ? stats.size : 0;
      total = sum([total, { bytes: stats.blocks * BLOCK_BYTES, apparentBytes }]);
      if (!stats.isDirectory()) return;
      for (const name of (await unlessGone(readdir(file))) ?? []) below.push(path.join(file, name));
    });
    level = below;
  }
  return total;
}

/** Names in a folder, sorted; none when it is not there or no folder. */
export async function namesIn(dir: string): Promise<string[]> {
  return ((await unlessGone(readdir(dir))) ?? []).sort();
}

export async function forEachOf<T>(items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
  const next = items[Symbol.iterator]();
  const lane = async () => {
    for (let item = next.next(); !item.done; item = next.next()) await work(item.value);
  };
  await Promise.all(Array.from({ length: LANES }, lane));
}

async function unlessGone<T>(found: Promise<T>): Promise<T | undefined> {
  try {
    return await found;
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR'))
      return undefined;
    throw error;
  }
}
