/**
 * What a VM wrote to its private mapping of the RAM file since it started, read from and written to its process.
 *
 * A page that is present or swapped and not file-backed (pagemap bit 61 clear) was copied on write, hence changed. Pages of
 * zeros are only named. Each chunk stands for itself: the number of its runs, the runs, their pages in the same order.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { MachineError } from '../../../lib/index.ts';
import type { ChangedMemory, MemorySink, PageRun } from '../vmm.ts';
import { findMappings, forEachRun, isChanged, isTouched, type Mapping, PAGE_BYTES } from './page-map.ts';

const COUNT_BYTES = 4;
/** First page, number of pages, whether they are zeros. */
const RUN_BYTES = 16;
/** With the page data below the chunk limit of `MemorySink`. */
const MAX_RUNS = 4096;
/** Page data moved at once; the event loop gets its turn in between. Reads of memory are too quick to leave the thread. */
const CHUNK_BYTES = 1024 * 1024;
const ZERO_PAGE = Buffer.alloc(PAGE_BYTES);

/** Neighbouring pages, by their place in the RAM file. */
interface Run {
  readonly firstPage: number;
  pages: number;
  readonly isZero: boolean;
}

export function changedMemoryOf(pid: number, ramPath: string): ChangedMemory {
  return {
    save: (sink) => save(pid, ramPath, sink),
    load: (chunks) => load(pid, ramPath, chunks),
    touched: () => touched(pid, ramPath),
  };
}

async function save(pid: number, ramPath: string, sink: MemorySink): Promise<number> {
  const mappings = await findMappings(pid, ramPath);
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  try {
    const writer = new DeltaWriter(sink, memory);
    for (const mapping of mappings) await scan(pid, mapping, writer);
    return await writer.finish();
  } finally {
    closeSync(memory);
  }
}

async function load(pid: number, ramPath: string, chunks: AsyncIterable<Buffer>): Promise<void> {
  const mappings = await findMappings(pid, ramPath);
  const memory = openSync(`/proc/${pid}/mem`, 'r+');
  try {
    for await (const chunk of chunks) loadChunk(memory, mappings, chunk);
  } finally {
    closeSync(memory);
  }
}

function loadChunk(memory: number, mappings: readonly Mapping[], chunk: Buffer): void {
  const runs = readRuns(chunk);
  let at = COUNT_BYTES + runs.length * RUN_BYTES;
  for (const { firstPage, pages, isZero } of runs) {
    const place = firstPage * PAGE_BYTES;
    if (isZero) {
      for (let page = 0; page < pages; page++) {
        const to = place + page * PAGE_BYTES;
        writeFully(memory, ZERO_PAGE, addressOf(mappings, to, PAGE_BYTES));
      }
    } else {
      const part = chunk.subarray(at, at + pages * PAGE_BYTES);
      if (part.length !== pages * PAGE_BYTES) throw new MachineError('corrupt', 'the saved memory is cut short');
      writeFully(memory, part, addressOf(mappings, place, part.length));
      at += part.length;
    }
  }
}

/** Collects changed pages in chunks, each with the runs it holds. */
class DeltaWriter {
  readonly #sink: MemorySink;
  readonly #memory: number;
  readonly #buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  #runs: Run[] = [];
  #used = 0;
  #pageBytes = 0;

  constructor(sink: MemorySink, memory: number) {
    this.#sink = sink;
    this.#memory = memory;
  }

  /** Neighbouring pages of the process, which are those of the RAM file from `filePage` on. */
  async add(address: number, filePage: number, pages: number): Promise<void> {
    for (let done = 0; done < pages; ) {
      // Each page may begin a run of its own.
      const room = Math.min((CHUNK_BYTES - this.#used) / PAGE_BYTES, MAX_RUNS - this.#runs.length);
      const count = Math.min(pages - done, room);
      const part = this.#buffer.subarray(this.#used, this.#used + count * PAGE_BYTES);
      readFully(this.#memory, part, address + done * PAGE_BYTES);
      this.#take(part, filePage + done, count);
      done += count;
      if (this.#used === CHUNK_BYTES || this.#runs.length === MAX_RUNS) await this.#flush();
    }
  }

  /** Returns the bytes of page data. */
  async finish(): Promise<number> {
    await this.#flush();
    return this.#pageBytes;
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
    if (this.#runs.length === 0) return;
    await this.#sink.write(encodeRuns(this.#runs), this.#buffer.subarray(0, this.#used));
    this.#pageBytes += this.#used;
    this.#used = 0;
    this.#runs = [];
  }
}

/** Walks one mapping's pagemap and hands every run of changed pages on. */
function scan(pid: number, mapping: Mapping, writer: DeltaWriter): Promise<void> {
  return forEachRun(pid, mapping, isChanged, (first, pages) =>
    writer.add(mapping.address + first * PAGE_BYTES, mapping.fileOffset / PAGE_BYTES + first, pages),
  );
}

/** See `ChangedMemory.touched`. */
async function touched(pid: number, ramPath: string): Promise<PageRun[]> {
  const runs: PageRun[] = [];
  for (const mapping of await findMappings(pid, ramPath)) {
    const before = mapping.fileOffset / PAGE_BYTES;
    await forEachRun(pid, mapping, isTouched, (first, pages) => {
      runs.push({ firstPage: before + first, pages });
    });
  }
  return runs.sort((a, b) => a.firstPage - b.firstPage);
}

function encodeRuns(runs: readonly Run[]): Buffer {
  const bytes = Buffer.alloc(COUNT_BYTES + runs.length * RUN_BYTES);
  bytes.writeUInt32LE(runs.length);
  for (const [i, run] of runs.entries()) {
    const at = COUNT_BYTES + i * RUN_BYTES;
    bytes.writeUIntLE(run.firstPage, at, 6);
    bytes.writeUInt32LE(run.pages, at + 8);
    bytes.writeUInt32LE(run.isZero ? 1 : 0, at + 12);
  }
  return bytes;
}

function readRuns(chunk: Buffer): Run[] {
  const count = chunk.length < COUNT_BYTES ? -1 : chunk.readUInt32LE();
  if (count < 0 || count > MAX_RUNS || chunk.length < COUNT_BYTES + count * RUN_BYTES) {
    throw new MachineError('corrupt', 'the saved memory is cut short');
  }
  return Array.from({ length: count }, (_, i) => {
    const at = COUNT_BYTES + i * RUN_BYTES;
    return {
      firstPage: chunk.readUIntLE(at, 6),
      pages: chunk.readUInt32LE(at + 8),
      isZero: chunk.readUInt32LE(at + 12) === 1,
    };
  });
}

function addressOf(mappings: readonly Mapping[], fileOffset: number, bytes: number): number {
  for (const m of mappings) {
    const at = fileOffset - m.fileOffset;
    if (at >= 0 && at + bytes <= m.bytes) return m.address + at;
  }
  throw new MachineError('corrupt', 'the saved memory does not fit the machine');
}

function readFully(fd: number, buffer: Buffer, position: number): void {
  for (let at = 0; at < buffer.length; ) {
    const length = readSync(fd, buffer, at, buffer.length - at, position + at);
    if (length === 0) throw new MachineError('failed', "the VMM's memory could not be read");
    at += length;
  }
}

function writeFully(fd: number, buffer: Buffer, position: number): void {
  for (let at = 0; at < buffer.length; ) {
    const length = writeSync(fd, buffer, at, buffer.length - at, position + at);
    // So the kernel answers once the process has ended.
    if (length === 0) throw new MachineError('exited', "the VMM's memory could not be written: it has ended");
    at += length;
  }
}
