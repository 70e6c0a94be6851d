/**
 * What a VM wrote to its private mapping of the RAM file since it started, read from and written to its process.
 *
 * A page that is present or swapped and not file-backed (pagemap bit 61 clear) was copied on write, hence changed. Pages of
 * zeros are only named. The file: a header, the pages, then an index of runs in the same order as the pages.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { type FileHandle, open, readFile, stat } from 'node:fs/promises';
import { MachineError } from '../../../lib/index.ts';
import type { ChangedMemory } from '../vmm.ts';

const PAGE_BYTES = 4096;
const MAGIC = 'RKDELTA1';
/** Magic, number of runs, end of the page data; padded to a page. */
const HEADER_BYTES = PAGE_BYTES;
const RECORD_BYTES = 16;
/** Pagemap entries read at once: 512 MiB of memory. */
const SCAN_ENTRIES = 131_072;
/** Page data moved at once; the event loop gets its turn in between. Reads of memory are too quick to leave the thread. */
const CHUNK_BYTES = 1024 * 1024;
const ZERO_PAGE = Buffer.alloc(PAGE_BYTES);

/** Neighbouring pages, by their place in the RAM file. */
interface Run {
  readonly firstPage: number;
  pages: number;
  readonly isZero: boolean;
}

/** One mapping of the RAM file. */
interface Mapping {
  readonly address: number;
  readonly bytes: number;
  /** Place of its start in the RAM file. */
  readonly fileOffset: number;
}

export function changedMemoryOf(pid: number, ramPath: string): ChangedMemory {
  return {
    save: (path) => save(pid, ramPath, path),
    load: (path) => load(pid, ramPath, path),
  };
}

async function save(pid: number, ramPath: string, path: string): Promise<number> {
  const mappings = await findMappings(pid, ramPath);
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  try {
    await using file = await open(path, 'wx', 0o600);
    const writer = new DeltaWriter(file, memory);
    for (const mapping of mappings) await scan(pid, mapping, writer);
    return await writer.finish();
  } finally {
    closeSync(memory);
  }
}

async function load(pid: number, ramPath: string, path: string): Promise<void> {
  await using file = await open(path, 'r');
  const runs = await readIndex(file);
  const mappings = await findMappings(pid, ramPath);
  const memory = openSync(`/proc/${pid}/mem`, 'r+');
  try {
    let position = HEADER_BYTES;
    const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
    let have = Buffer.alloc(0);
    for (const run of runs) {
      for (let done = 0; done < run.pages; ) {
        if (!run.isZero && have.length === 0) {
          const { bytesRead } = await file.read(buffer, 0, CHUNK_BYTES, position);
          have = buffer.subarray(0, bytesRead - (bytesRead % PAGE_BYTES));
          if (have.length === 0) throw new MachineError('failed', 'the saved memory is cut short');
          position += have.length;
        }
        const count = run.isZero ? 1 : Math.min(run.pages - done, have.length / PAGE_BYTES);
        const part = run.isZero ? ZERO_PAGE : have.subarray(0, count * PAGE_BYTES);
        writeFully(memory, part, addressOf(mappings, (run.firstPage + done) * PAGE_BYTES, part.length));
        if (!run.isZero) have = have.subarray(part.length);
        done += count;
      }
    }
  } finally {
    closeSync(memory);
  }
}

/** Collects changed pages in chunks and keeps the index of what it wrote. */
class DeltaWriter {
  readonly #file: FileHandle;
  readonly #memory: number;
  readonly #buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  readonly #runs: Run[] = [];
  #used = 0;
  #position = HEADER_BYTES;

  constructor(file: FileHandle, memory: number) {
    this.#file = file;
    this.#memory = memory;
  }

  /** Neighbouring pages of the process, which are those of the RAM file from `filePage` on. */
  async add(address: number, filePage: number, pages: number): Promise<void> {
    for (let done = 0; done < pages; ) {
      const count = Math.min(pages - done, (CHUNK_BYTES - this.#used) / PAGE_BYTES);
      const part = this.#buffer.subarray(this.#used, this.#used + count * PAGE_BYTES);
      readFully(this.#memory, part, address + done * PAGE_BYTES);
      this.#take(part, filePage + done, count);
      done += count;
      if (this.#used === CHUNK_BYTES) await this.#flush();
    }
  }

  /** Writes index and header, syncs. Returns the bytes of page data. */
  async finish(): Promise<number> {
    await this.#flush();
    const index = Buffer.alloc(this.#runs.length * RECORD_BYTES);
    for (const [i, run] of this.#runs.entries()) {
      index.writeUIntLE(run.firstPage, i * RECORD_BYTES, 6);
      index.writeUInt32LE(run.pages, i * RECORD_BYTES + 8);
      index.writeUInt32LE(run.isZero ? 1 : 0, i * RECORD_BYTES + 12);
    }
    const header = Buffer.alloc(HEADER_BYTES);
    header.write(MAGIC, 'latin1');
    header.writeUIntLE(this.#runs.length, 8, 6);
    header.writeUIntLE(this.#position, 16, 6);
    await this.#file.write(index, 0, index.length, this.#position);
    await this.#file.write(header, 0, header.length, 0);
    await this.#file.datasync();
    return this.#position - HEADER_BYTES;
  }

  /** Keeps the pages just read behind `#used`, without those of zeros. */
  #take(part: Buffer, filePage: number, count: number): void {
    for (let page = 0; page < count; page++) {
      const from = page * PAGE_BYTES;
      const isZero = part[from] === 0 && part.compare(ZERO_PAGE, 0, PAGE_BYTES, from, from + PAGE_BYTES) === 0;
      this.#note(filePage + page, isZero);
      if (isZero) continue;
      const start = part.byteOffset - this.#buffer.byteOffset + from;
      if (start !== this.#used) this.#buffer.copyWithin(this.#used, start, start + PAGE_BYTES);
      this.#used += PAGE_BYTES;
    }
  }

  #note(page: number, isZero: boolean): void {
    const last = this.#runs.at(-1);
    if (last !== undefined && last.isZero === isZero && last.firstPage + last.pages === page) last.pages += 1;
    else this.#runs.push({ firstPage: page, pages: 1, isZero });
  }

  async #flush(): Promise<void> {
    if (this.#used === 0) return;
    await this.#file.write(this.#buffer, 0, this.#used, this.#position);
    this.#position += this.#used;
    this.#used = 0;
  }
}

/** Walks one mapping's pagemap and hands every run of changed pages on. */
async function scan(pid: number, mapping: Mapping, writer: DeltaWriter): Promise<void> {
  await using pagemap = await open(`/proc/${pid}/pagemap`, 'r');
  const entries = new Uint32Array(SCAN_ENTRIES * 2);
  const bytes = Buffer.from(entries.buffer);
  const total = mapping.bytes / PAGE_BYTES;
  for (let base = 0; base < total; base += SCAN_ENTRIES) {
    const count = Math.min(SCAN_ENTRIES, total - base);
    const { bytesRead } = await pagemap.read(bytes, 0, count * 8, (mapping.address / PAGE_BYTES + base) * 8);
    if (bytesRead !== count * 8) throw new MachineError('failed', 'the page map of the VMM is cut short');
    for (let page = 0; page < count; page++) {
      if (!isChanged(entries[page * 2 + 1] ?? 0)) continue;
      let end = page + 1;
      while (end < count && isChanged(entries[end * 2 + 1] ?? 0)) end += 1;
      const first = base + page;
      await writer.add(mapping.address + first * PAGE_BYTES, mapping.fileOffset / PAGE_BYTES + first, end - page);
      page = end;
    }
  }
}

/** High half of a pagemap entry: bit 63 present, 62 swapped, 61 file-backed. */
function isChanged(high: number): boolean {
  const bits = high >>> 29;
  return (bits & 1) === 0 && bits !== 0;
}

async function findMappings(pid: number, ramPath: string): Promise<Mapping[]> {
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

async function readIndex(file: FileHandle): Promise<Run[]> {
  const header = Buffer.alloc(HEADER_BYTES);
  await file.read(header, 0, HEADER_BYTES, 0);
  if (header.toString('latin1', 0, MAGIC.length) !== MAGIC) throw new MachineError('failed', 'no saved memory');
  const index = Buffer.alloc(header.readUIntLE(8, 6) * RECORD_BYTES);
  const { bytesRead } = await file.read(index, 0, index.length, header.readUIntLE(16, 6));
  if (bytesRead !== index.length) throw new MachineError('failed', 'the saved memory is cut short');
  const runs: Run[] = [];
  for (let at = 0; at < index.length; at += RECORD_BYTES) {
    runs.push({
      firstPage: index.readUIntLE(at, 6),
      pages: index.readUInt32LE(at + 8),
      isZero: index.readUInt32LE(at + 12) === 1,
    });
  }
  return runs;
}

function addressOf(mappings: readonly Mapping[], fileOffset: number, bytes: number): number {
  for (const m of mappings) {
    const at = fileOffset - m.fileOffset;
    if (at >= 0 && at + bytes <= m.bytes) return m.address + at;
  }
  throw new MachineError('failed', 'the saved memory does not fit the machine');
}

function readFully(fd: number, buffer: Buffer, position: number): void {
  for (let at = 0; at < buffer.length; ) {
    const length = readSync(fd, buffer, at, buffer.length - at, position + at);
    if (length === 0) throw new MachineError('failed', "the VMM's memory could not be read");
    at += length;
  }
}

function writeFully(fd: number, buffer: Buffer, position: number): void {
  for (let at = 0; at < buffer.length; ) at += writeSync(fd, buffer, at, buffer.length - at, position + at);
}
