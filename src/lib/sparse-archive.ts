/**
 * Large sparse files as one stream: a manifest that lists every chunk with its digest, then the chunks, compressed. Whoever
 * knows the manifest's digest knows the whole content, and what is read is proven chunk by chunk before it is handed on.
 *
 *     "RKARCH1\n"  u32 length  manifest (JSON)  { u32 length and sort  body }…
 *
 *     manifest: {"about": …, "parts": [{"name", "bytes", "chunks": [[number, sha256], …]}, …]}
 *
 * Numbers are big-endian. A part is cut into chunks of 1 MiB (its last may be shorter); those that are all zero are left out,
 * the others come in the manifest's order. A body is a zstd frame, or the bytes themselves when the length's top bit is set.
 *
 * Invariant: nothing is believed before it is checked, and no length in the stream is allocated beyond fixed bounds.
 */
import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { zstdCompress, zstdDecompress } from 'node:zlib';
import { DomainError } from './errors.ts';

export const ARCHIVE_CHUNK_BYTES = 1024 * 1024;
/** Fits 128 GiB without a hole. */
const MAX_MANIFEST_BYTES = 16 * 1024 * 1024;
const MAX_PART_BYTES = 64 * 1024 ** 3;
const MAX_PARTS = 8;
const MAGIC = Buffer.from('RKARCH1\n');
const STORED_BIT = 0x8000_0000;
const LENGTH_BYTES = 4;
/** Chunks that are read and compressed beside each other. */
const AHEAD = 4;

export interface ArchiveChunk {
  /** Place in the part; a multiple of the chunk size. */
  readonly at: number;
  /** SHA-256. */
  readonly digest: Buffer;
}

export interface ArchivePart {
  readonly name: string;
  readonly bytes: number;
  readonly chunks: readonly ArchiveChunk[];
}

export interface SourcePart extends ArchivePart {
  /** Exactly `length` bytes from `at` on, in a buffer that is the caller's. */
  read(at: number, length: number): Promise<Buffer>;
}

export interface ArchiveHead {
  /** Whatever the writer said; any JSON. */
  readonly about: unknown;
  readonly parts: readonly ArchivePart[];
  /** SHA-256 of the manifest, in hexadecimal. */
  readonly digest: string;
}

export interface ArchiveReader {
  readonly head: ArchiveHead;
  /** Every chunk of every part, in order, each as its digest says; a buffer is the caller's. @throws DomainError `INVALID` */
  chunks(): AsyncGenerator<{ readonly part: string; readonly at: number; readonly data: Buffer }>;
}

/** The archive piece by piece. @throws DomainError `CONFLICT` when a part is not as its digests say */
export async function* writeArchive(about: unknown, parts: readonly SourcePart[]): AsyncGenerator<Buffer> {
  const manifest = Buffer.from(
    JSON.stringify({
      about,
      parts: parts.map(({ name, bytes, chunks }) => ({
        name,
        bytes,
        chunks: chunks.map(({ at, digest }) => [at / ARCHIVE_CHUNK_BYTES, digest.toString('hex')]),
      })),
    }),
  );
  if (manifest.length > MAX_MANIFEST_BYTES) throw new RangeError('too large for an archive');
  yield Buffer.concat([MAGIC, number(manifest.length), manifest]);
  for (const part of parts) {
    const frames: Promise<Buffer>[] = [];
    for (const chunk of part.chunks) {
      const frame = frameOf(part, chunk);
      frame.catch(() => {});
      frames.push(frame);
      const oldest = frames.length < AHEAD ? undefined : frames.shift();
      if (oldest !== undefined) yield await oldest;
    }
    for (const frame of frames) yield await frame;
  }
}

async function frameOf(part: SourcePart, { at, digest }: ArchiveChunk): Promise<Buffer> {
  const data = await part.read(at, Math.min(ARCHIVE_CHUNK_BYTES, part.bytes - at));
  if (!digest.equals(sha256(data))) throw new DomainError('CONFLICT', `${part.name} changed while it was read.`);
  const packed = await promisify(zstdCompress)(data);
  if (packed.length >= data.length) return Buffer.concat([number((data.length | STORED_BIT) >>> 0), data]);
  return Buffer.concat([number(packed.length), packed]);
}

/** Reads the manifest; the chunks follow on demand. @throws DomainError `INVALID` saying what is wrong with the file */
export async function readArchive(source: AsyncIterable<Buffer>): Promise<ArchiveReader> {
  const bytes = new Bytes(source);
  const magic = await bytes.take(MAGIC.length);
  if (!magic.equals(MAGIC)) throw bad('it does not begin like one');
  const length = (await bytes.take(LENGTH_BYTES)).readUInt32BE(0);
  if (length > MAX_MANIFEST_BYTES) throw bad('its manifest is too long');
  const text = await bytes.take(length);
  const head = { ...manifestIn(text), digest: sha256(text).toString('hex') };
  return { head, chunks: () => chunksOf(bytes, head.parts) };
}

async function* chunksOf(bytes: Bytes, parts: readonly ArchivePart[]): ReturnType<ArchiveReader['chunks']> {
  for (const { name, bytes: partBytes, chunks } of parts) {
    for (const { at, digest } of chunks) {
      const length = Math.min(ARCHIVE_CHUNK_BYTES, partBytes - at);
      const data = await bodyOf(bytes, length);
      if (!digest.equals(sha256(data))) throw bad(`what it holds of ${name} is not what its manifest says`);
      yield { part: name, at, data };
    }
  }
  if (!(await bytes.isOver())) throw bad('something follows its end');
}

async function bodyOf(bytes: Bytes, length: number): Promise<Buffer> {
  const word = (await bytes.take(LENGTH_BYTES)).readUInt32BE(0);
  const stored = (word & ~STORED_BIT) >>> 0;
  // A writer compresses only what becomes shorter by it.
  if (stored === 0 || stored > length) throw bad('a chunk has a wrong length');
  const body = await bytes.take(stored);
  if (word >= STORED_BIT) {
    if (stored !== length) throw bad('a chunk has a wrong length');
    return body;
  }
  let data: Buffer;
  try {
    data = await promisify(zstdDecompress)(body, { maxOutputLength: length });
  } catch {
    throw bad('a chunk cannot be decompressed');
  }
  if (data.length !== length) throw bad('a chunk has a wrong length');
  return data;
}

function manifestIn(text: Buffer): Pick<ArchiveHead, 'about' | 'parts'> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(text));
  } catch {
    throw bad('its manifest is no JSON');
  }
  const { about, parts } = objectOf(value);
  if (!Array.isArray(parts) || parts.length > MAX_PARTS) throw bad('its manifest has no list of parts');
  const found = parts.map(partIn);
  if (new Set(found.map(({ name }) => name)).size !== found.length) throw bad('a part comes twice');
  return { about, parts: found };
}

function partIn(value: unknown): ArchivePart {
  const { name, bytes, chunks } = objectOf(value);
  if (typeof name !== 'string' || !/^[a-z]{1,32}$/.test(name)) throw bad('a part has no proper name');
  if (!isCount(bytes, MAX_PART_BYTES)) throw bad(`the size of ${name} is none that can be`);
  if (!Array.isArray(chunks)) throw bad(`${name} has no list of chunks`);
  let before = -1;
  const found = chunks.map((chunk: unknown): ArchiveChunk => {
    const [index, digest] = Array.isArray(chunk) && chunk.length === 2 ? (chunk as unknown[]) : [];
    if (!isCount(index, Math.ceil(bytes / ARCHIVE_CHUNK_BYTES) - 1) || index <= before) {
      throw bad(`the chunks of ${name} are not in order or out of its bounds`);
    }
    if (typeof digest !== 'string' || !/^[0-9a-f]{64}$/.test(digest)) throw bad(`a chunk of ${name} has no digest`);
    before = index;
    return { at: index * ARCHIVE_CHUNK_BYTES, digest: Buffer.from(digest, 'hex') };
  });
  return { name, bytes, chunks: found };
}

function isCount(value: unknown, most: number): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value <= most;
}

function objectOf(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad('its manifest has a wrong shape');
  return { ...value };
}

/** Pieces of any length, taken in lengths that are wanted. */
class Bytes {
  readonly #source: AsyncIterator<Buffer>;
  #left: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** A buffer of its own. */
  async take(length: number): Promise<Buffer> {
    const whole = Buffer.allocUnsafeSlow(length);
    for (let have = 0; have < length; ) {
      if (this.#left.length === 0 && !(await this.#more())) throw bad('it is cut off');
      const part = this.#left.subarray(0, length - have);
      part.copy(whole, have);
      have += part.length;
      this.#left = this.#left.subarray(part.length);
    }
    return whole;
  }

  async isOver(): Promise<boolean> {
    while (this.#left.length === 0) if (!(await this.#more())) return true;
    return false;
  }

  async #more(): Promise<boolean> {
    const next = await this.#source.next();
    if (next.done === true) return false;
    this.#left = next.value;
    return true;
  }
}

function sha256(bytes: Buffer): Buffer {
  return createHash('sha256').update(bytes).digest();
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(LENGTH_BYTES);
  bytes.writeUInt32BE(value, 0);
  return bytes;
}

function bad(why: string): DomainError {
  return new DomainError('INVALID', `The file is no whole archive: ${why}.`);
}
