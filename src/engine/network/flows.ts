/**
 * Reads a guest's flow log while the gateway writes and rotates it: `<guest>.1.ndjson`, then `<guest>.ndjson`.
 *
 * Invariant: memory is bounded by one block and one line, whatever is in the files; a line that is not whole yet is not given.
 */
import { type FileHandle, open, stat } from 'node:fs/promises';
import path from 'node:path';
import { sleep } from '../../lib/index.ts';
import type { FlowRecord } from '../egress.ts';
import { parseFlow } from './flow-record.ts';

/** Of the protocol. */
const GUEST = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
const BLOCK_BYTES = 64 * 1024;
const MAX_LINE_BYTES = 64 * 1024;
/** Files are rotated at 4 MiB; a log that grows faster than it is read is given up here unless it is followed. */
const MAX_FILES = 4;
const FOLLOW_MS = 250;

/** Oldest first. With `follow` it goes on until the signal aborts, over rotations. */
export async function* readFlows(
  dir: string,
  guest: string,
  options: { follow?: boolean; signal?: AbortSignal },
): AsyncIterable<FlowRecord> {
  const { follow = false, signal } = options;
  if (!GUEST.test(guest)) return;
  const current = path.join(dir, `${guest}.ndjson`);
  await using stack = new AsyncDisposableStack();
  const first = await openIfThere(current, stack);
  const older = await openIfThere(path.join(dir, `${guest}.1.ndjson`), stack);
  if (older !== undefined && !(await isSame(older, first))) yield* recordsOf(new LineReader(older), guest, signal);
  let reader = first && new LineReader(first);
  for (let files = 1; ; ) {
    if (reader !== undefined) yield* recordsOf(reader, guest, signal);
    if (signal?.aborted === true) return;
    if (await isAt(reader?.file, current)) {
      if (!follow) return;
      await sleep(FOLLOW_MS, { signal }).catch(() => {});
      continue;
    }
    // Rotated, or begun. What was written to the one before it was renamed is read already, or is now.
    if (reader !== undefined) yield* recordsOf(reader, guest, signal);
    const next = await openIfThere(current, stack);
    if (next !== undefined) {
      await reader?.file.close();
      reader = new LineReader(next);
      if (++files > MAX_FILES && !follow) return;
    } else if (!follow) return;
    else await sleep(FOLLOW_MS, { signal }).catch(() => {});
  }
}

async function* recordsOf(
  reader: LineReader,
  guest: string,
  signal: AbortSignal | undefined,
): AsyncIterable<FlowRecord> {
  for await (const line of reader.lines()) {
    if (signal?.aborted === true) return;
    const record = parseFlow(line);
    if (record?.guest === guest) yield record;
  }
}

/** Whole lines up to the present end of a file; asked again, it goes on from there. */
class LineReader {
  readonly file: FileHandle;
  #rest = Buffer.alloc(0);
  #isSkipping = false;

  constructor(file: FileHandle) {
    this.file = file;
  }

  async *lines(): AsyncIterable<string> {
    for (;;) {
      const block = Buffer.allocUnsafe(BLOCK_BYTES);
      const { bytesRead } = await this.file.read(block, 0, BLOCK_BYTES);
      if (bytesRead === 0) return;
      let rest = Buffer.concat([this.#rest, block.subarray(0, bytesRead)]);
      for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
        if (!this.#isSkipping) yield rest.toString('utf8', 0, end);
        this.#isSkipping = false;
        rest = rest.subarray(end + 1);
      }
      if (rest.length > MAX_LINE_BYTES) {
        this.#isSkipping = true;
        rest = Buffer.alloc(0);
      }
      this.#rest = Buffer.from(rest);
    }
  }
}

async function openIfThere(file: string, stack: AsyncDisposableStack): Promise<FileHandle | undefined> {
  try {
    return stack.use(await open(file, 'r'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

async function isSame(one: FileHandle, other: FileHandle | undefined): Promise<boolean> {
  return other !== undefined && (await one.stat()).ino === (await other.stat()).ino;
}

/** True also when there is neither. */
async function isAt(file: FileHandle | undefined, at: string): Promise<boolean> {
  const there = await stat(at).catch(() => undefined);
  return there?.ino === (file && (await file.stat()).ino);
}
