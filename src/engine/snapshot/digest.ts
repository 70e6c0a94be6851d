/**
 * SHA-256 of what a sparse file holds: over its 64 KiB blocks that are not all zero, each after its place in the file. Holes
 * and written zeros count the same, so the digest does not depend on how the file was copied.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { MachineError } from '../../lib/index.ts';
import type { Part } from './manifest.ts';

const BLOCK_BYTES = 65_536;
const READ_BYTES = 1024 * 1024;
const MAP_TIMEOUT_MS = 60_000;
const ZERO_BLOCK = Buffer.alloc(BLOCK_BYTES);

interface Extent {
  readonly start: number;
  readonly length: number;
}

/** @param mapper qemu-img, which tells data from holes: reading 32 GiB of holes would take half a minute. */
export async function digestFile(path: string, mapper: string, signal: AbortSignal | undefined): Promise<Part> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  const place = Buffer.alloc(8);
  for (const { start, length } of await dataExtents(path, mapper, size)) {
    for (let at = start; at < start + length; at += READ_BYTES) {
      signal?.throwIfAborted();
      const { bytesRead } = await file.read(buffer, 0, Math.min(READ_BYTES, start + length - at), at);
      for (let block = 0; block < bytesRead; block += BLOCK_BYTES) {
        const part = buffer.subarray(block, Math.min(bytesRead, block + BLOCK_BYTES));
        if (part.compare(ZERO_BLOCK, 0, part.length) === 0) continue;
        place.writeUIntBE(at + block, 2, 6);
        hash.update(place).update(part);
      }
    }
  }
  return { bytes: size, sha256: hash.digest('hex') };
}

/** Data of the file in whole blocks, in order and without overlap. */
async function dataExtents(path: string, mapper: string, size: number): Promise<Extent[]> {
  const args = ['map', '-U', '--output=json', '-f', 'raw', path];
  const { stdout } = await promisify(execFile)(mapper, args, { timeout: MAP_TIMEOUT_MS, maxBuffer: 64 * 1024 * 1024 });
  const found = JSON.parse(stdout) as { start: number; length: number; data: boolean }[];
  if (!Array.isArray(found)) throw new MachineError('failed', 'the map of a disk could not be read');
  const extents: Extent[] = [];
  let done = 0;
  for (const { start, length, data } of found) {
    if (!data) continue;
    const from = Math.max(done, Math.floor(start / BLOCK_BYTES) * BLOCK_BYTES);
    const to = Math.min(size, Math.ceil((start + length) / BLOCK_BYTES) * BLOCK_BYTES);
    if (to > from) extents.push({ start: from, length: to - from });
    done = Math.max(done, to);
  }
  return extents;
}
