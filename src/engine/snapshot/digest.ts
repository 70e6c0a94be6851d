/**
 * SHA-256 of what a sparse file holds: over the list of its 1 MiB chunks that are not all zero, each by its place and its own
 * SHA-256. Holes and written zeros count the same, so the digest does not depend on how the file was copied; and the chunks
 * are hashed beside each other, away from the event loop.
 */
import { createHash, webcrypto } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { MachineError } from '../../lib/index.ts';
import { dataExtents } from './extents.ts';
import type { Part } from './manifest.ts';

const CHUNK_BYTES = 1024 * 1024;
/** As many as Node's threads; one alone reaches two fifths of the rate. */
const LANES = 4;
/** Reading holes of a file up to this size is quicker than asking for its map. */
const MAP_FROM_BYTES = 64 * CHUNK_BYTES;
const ZEROS = Buffer.alloc(CHUNK_BYTES);

export interface DigestOptions {
  /** qemu-img, which tells data from holes: reading 32 GiB of holes would take half a minute. */
  readonly mapper: string;
  readonly signal?: AbortSignal | undefined;
  /** Only the file's beginning. */
  readonly upToBytes?: number;
  /** Waited for after each chunk; one chunk at a time then. */
  readonly pace?: (bytes: number) => Promise<void>;
}

/** A chunk that is not all zero. */
export interface DigestedChunk {
  readonly at: number;
  readonly digest: Buffer;
}

export async function digestFile(path: string, options: DigestOptions): Promise<Part> {
  const { bytes, sha256 } = await digestChunks(path, options);
  return { bytes, sha256 };
}

/** The digest with what it was made of, in order. */
export async function digestChunks(
  path: string,
  options: DigestOptions,
): Promise<Part & { readonly chunks: readonly DigestedChunk[] }> {
  const chunks: DigestedChunk[] = [];
  const bytes = await forEachChunk(path, options, async (at, chunk) => {
    if (chunk.compare(ZEROS, 0, chunk.length) === 0) return;
    chunks.push({ at, digest: Buffer.from(await webcrypto.subtle.digest('SHA-256', chunk)) });
  });
  const hash = createHash('sha256');
  const place = Buffer.alloc(8);
  for (const { at, digest } of chunks.sort((a, b) => a.at - b.at)) {
    place.writeUIntBE(at, 2, 6);
    hash.update(place).update(digest);
  }
  return { bytes, sha256: hash.digest('hex'), chunks };
}

/**
 * Hands on every chunk that may hold data, several at a time and in any order; one after another with `pace`. A chunk's buffer
 * is used again afterwards. Returns the file's length.
 */
export async function forEachChunk(
  path: string,
  options: DigestOptions,
  use: (at: number, chunk: Buffer<ArrayBuffer>) => Promise<void>,
): Promise<number> {
  await using file = await open(path, 'r');
  const { size, blocks } = await file.stat();
  const length = Math.min(size, options.upToBytes ?? size);
  const isSparse = length > MAP_FROM_BYTES && blocks * 512 < length;
  const places = isSparse ? await dataPlaces(path, options.mapper, length) : placesOf(0, length);
  const next = places[Symbol.iterator]();
  const lane = async () => {
    const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
    for (let place = next.next(); !place.done; place = next.next()) {
      options.signal?.throwIfAborted();
      const at = place.value;
      const part = await readChunk(file, buffer, at, Math.min(CHUNK_BYTES, length - at));
      await use(at, part);
      await options.pace?.(part.length);
    }
  };
  await Promise.all(Array.from({ length: options.pace === undefined ? LANES : 1 }, lane));
  return size;
}

async function readChunk(file: FileHandle, buffer: Buffer<ArrayBuffer>, at: number, length: number) {
  for (let have = 0; have < length; ) {
    const { bytesRead } = await file.read(buffer, have, length - have, at + have);
    if (bytesRead === 0) throw new MachineError('failed', 'a file became shorter while it was read');
    have += bytesRead;
  }
  return buffer.subarray(0, length);
}

function* placesOf(from: number, to: number): Generator<number> {
  for (let at = from; at < to; at += CHUNK_BYTES) yield at;
}

/** Places of the chunks that hold data, in order, each once. */
async function dataPlaces(path: string, mapper: string, length: number): Promise<number[]> {
  const places: number[] = [];
  let done = 0;
  for (const { at, bytes } of await dataExtents(path, mapper)) {
    const from = Math.max(done, Math.floor(at / CHUNK_BYTES) * CHUNK_BYTES);
    const to = Math.min(length, at + bytes);
    for (const place of placesOf(from, to)) places.push(place);
    done = Math.max(done, Math.ceil(to / CHUNK_BYTES) * CHUNK_BYTES);
  }
  return places;
}
