/**
 * Writes a folder as a tar archive to the start of a raw disk: files, folders and links as they are, owner 0.
 *
 * GNU format: long names and link targets in records of type L and K, sizes beyond 8 GiB in base 256. Names are relative
 * and come from reading the folder, so none leads out of it; links are archived, never followed.
 */
import { constants, type Stats } from 'node:fs';
import { type FileHandle, lstat, open, readdir, readlink } from 'node:fs/promises';
import path from 'node:path';

const BLOCK_BYTES = 512;
const READ_BYTES = 1024 * 1024;
const NAME_BYTES = 100;

/** Returns the archive's length. Other things than files, folders and links are left out. */
export async function writeContextTar(dir: string, to: FileHandle, signal?: AbortSignal): Promise<number> {
  const writer = new TarWriter(to);
  await addFolder(writer, dir, '', signal);
  return writer.finish();
}

async function addFolder(writer: TarWriter, root: string, relative: string, signal?: AbortSignal): Promise<void> {
  const names = await readdir(path.join(root, relative));
  for (const name of names.sort()) {
    signal?.throwIfAborted();
    const inside = relative === '' ? name : `${relative}/${name}`;
    const file = path.join(root, inside);
    const stats = await lstat(file);
    if (stats.isDirectory()) {
      await writer.add(`${inside}/`, '5', stats, 0);
      await addFolder(writer, root, inside, signal);
    } else if (stats.isSymbolicLink()) await writer.add(inside, '2', stats, 0, await readlink(file));
    else if (stats.isFile()) await addFile(writer, file, inside);
  }
}

async function addFile(writer: TarWriter, file: string, name: string): Promise<void> {
  await using source = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW);
  const stats = await source.stat();
  await writer.add(name, '0', stats, stats.size);
  const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, stats.size));
  let left = stats.size;
  while (left > 0) {
    const { bytesRead } = await source.read(buffer, 0, Math.min(buffer.length, left), null);
    // A file that shrank meanwhile is filled up: the header's size is written already.
    const part = bytesRead === 0 ? Buffer.alloc(Math.min(buffer.length, left)) : buffer.subarray(0, bytesRead);
    await writer.write(part);
    left -= part.length;
  }
  await writer.pad();
}

class TarWriter {
  readonly #to: FileHandle;
  #position = 0;

  constructor(to: FileHandle) {
    this.#to = to;
  }

  async add(name: string, type: string, stats: Stats, size: number, linkTarget = ''): Promise<void> {
    await this.#addLong('L', name);
    await this.#addLong('K', linkTarget);
    const mtime = Math.max(0, Math.floor(stats.mtimeMs / 1000));
    await this.write(encodeHeader({ name, type, mode: stats.mode & 0o7777, mtime, size, linkTarget }));
  }

  async write(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const { bytesWritten } = await this.#to.write(bytes, at, bytes.length - at, this.#position);
      at += bytesWritten;
      this.#position += bytesWritten;
    }
  }

  async pad(): Promise<void> {
    const over = this.#position % BLOCK_BYTES;
    if (over !== 0) await this.write(Buffer.alloc(BLOCK_BYTES - over));
  }

  async finish(): Promise<number> {
    await this.write(Buffer.alloc(2 * BLOCK_BYTES));
    return this.#position;
  }

  async #addLong(type: 'L' | 'K', text: string): Promise<void> {
    const bytes = Buffer.from(`${text}\0`);
    if (bytes.length <= NAME_BYTES) return;
    await this.write(
      encodeHeader({ name: '././@LongLink', type, mode: 0o644, mtime: 0, size: bytes.length, linkTarget: '' }),
    );
    await this.write(bytes);
    await this.pad();
  }
}

interface Header {
  readonly name: string;
  readonly type: string;
  readonly mode: number;
  readonly mtime: number;
  readonly size: number;
  readonly linkTarget: string;
}

function encodeHeader({ name, type, mode, mtime, size, linkTarget }: Header): Buffer {
  const header = Buffer.alloc(BLOCK_BYTES);
  const octal = (value: number, at: number, length: number) =>
    header.write(value.toString(8).padStart(length - 1, '0'), at, length - 1, 'latin1');
  Buffer.from(name).copy(header, 0, 0, NAME_BYTES);
  octal(mode, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  if (size < 8 ** 11) octal(size, 124, 12);
  else {
    header[124] = 0x80;
    header.writeUIntBE(size, 130, 6);
  }
  octal(mtime, 136, 12);
  header.fill(0x20, 148, 156);
  header.write(type, 156, 'latin1');
  Buffer.from(linkTarget).copy(header, 157, 0, NAME_BYTES);
  header.write('ustar  \0', 257, 'latin1');
  let sum = 0;
  for (const byte of header) sum += byte;
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return header;
}
