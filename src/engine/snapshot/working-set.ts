/**
 * What a guest needs first: the parts of a sealed snapshot's `ram` that a clone touched, in the order in which it did. It lies
 * beside the parts as `prefetch`, written once the snapshot is sealed, for a clone must run to know.
 *
 * Only advice: it vouches for itself and names the `ram` it is of, and one that is missing, damaged or of something else
 * is as good as none (docs/decisions/0013-read-ahead.md).
 */
import { open, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { MachineError } from '../../lib/index.ts';
import type { PageRun } from '../vmm/vmm.ts';
import type { Range } from './extents.ts';
import type { Part } from './manifest.ts';
import { decodeSelfChecked, encodeSelfChecked } from './self-checked.ts';

export const PREFETCH_NAME = 'prefetch';
const GENERATION = 1;
const PAGE_BYTES = 4096;
/** A disk gives this much about as soon as two reads. */
const GAP_PAGES = 16;
/** Whoever needs more than that in its first second waits for its disk in any case; the host's memory is for others too. */
const MAX_BYTES = 512 * 1024 * 1024;
const MAX_RUNS = 32_768;
const MAX_TEXT_BYTES = 1024 * 1024;

/** Collects what is touched later only where it was not before. */
export class WorkingSet {
  readonly #data: readonly Range[];
  readonly #phases: Range[][] = [];
  #bytes = 0;
  #runs = 0;

  /** @param data of the file, in order; its holes are not worth a read */
  constructor(data: readonly Range[]) {
    this.#data = data;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** @param runs in order, each page once */
  add(runs: readonly PageRun[]): void {
    const touched = closeGaps(
      runs.map(({ firstPage, pages }) => ({ at: firstPage * PAGE_BYTES, bytes: pages * PAGE_BYTES })),
    );
    const known = this.#phases.flat().sort((a, b) => a.at - b.at);
    const phase: Range[] = [];
    for (const range of without(within(touched, this.#data), known)) {
      if (this.#bytes + range.bytes > MAX_BYTES || this.#runs === MAX_RUNS) break;
      this.#bytes += range.bytes;
      this.#runs += 1;
      phase.push(range);
    }
    this.#phases.push(phase);
  }

  /** In the order of need. */
  get ranges(): readonly Range[] {
    return this.#phases.flat();
  }
}

/** Replaces what was there. Not synced: a loss of power may take it. */
export async function writeWorkingSet(snapshotDir: string, ranges: readonly Range[], ram: Part): Promise<void> {
  const file = path.join(snapshotDir, PREFETCH_NAME);
  const runs = ranges.map(({ at, bytes }) => [at / PAGE_BYTES, bytes / PAGE_BYTES]);
  const text = encodeSelfChecked({ generation: GENERATION, ram: ram.sha256, runs: JSON.stringify(runs) });
  if (text.length > MAX_TEXT_BYTES) throw new MachineError('failed', 'the list of pages to read ahead is too long');
  await writeFile(`${file}.new`, text, { mode: 0o444 });
  await rename(`${file}.new`, file);
}

/** Undefined when there is none. @throws MachineError `corrupt` when what is there is not what was written for this `ram` */
export async function readWorkingSet(snapshotDir: string, ram: Part): Promise<readonly Range[] | undefined> {
  const text = await readBounded(path.join(snapshotDir, PREFETCH_NAME));
  if (text === undefined) return undefined;
  const ranges = decode(text, ram);
  if (ranges === undefined) throw new MachineError('corrupt', 'the list of pages to read ahead is damaged');
  return ranges;
}

/** What is damaged is of no use to the next launch either. */
export function removeWorkingSet(snapshotDir: string): Promise<void> {
  return rm(path.join(snapshotDir, PREFETCH_NAME), { force: true });
}

/** What is too long is as good as empty. */
async function readBounded(file: string): Promise<string | undefined> {
  try {
    await using handle = await open(file, 'r');
    const { size } = await handle.stat();
    if (size > MAX_TEXT_BYTES) return '';
    const buffer = Buffer.allocUnsafe(size);
    const { bytesRead } = await handle.read(buffer, 0, size, 0);
    return buffer.toString('latin1', 0, bytesRead);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

/** Believes nothing but what it can be: whole, of this file, within it, and bounded. */
function decode(text: string, ram: Part): Range[] | undefined {
  let runs: unknown;
  try {
    const found = decodeSelfChecked(text) as { generation?: unknown; ram?: unknown; runs?: unknown } | undefined;
    if (found?.generation !== GENERATION || found.ram !== ram.sha256 || typeof found.runs !== 'string')
      return undefined;
    runs = JSON.parse(found.runs);
  } catch {
    return undefined;
  }
  if (!Array.isArray(runs) || runs.length > MAX_RUNS) return undefined;
  const ranges: Range[] = [];
  let total = 0;
  for (const run of runs as unknown[]) {
    if (!Array.isArray(run) || run.length !== 2) return undefined;
    const [first, pages] = run as unknown[];
    if (!isCount(first) || !isCount(pages) || pages === 0) return undefined;
    const range = { at: first * PAGE_BYTES, bytes: pages * PAGE_BYTES };
    total += range.bytes;
    if (range.at + range.bytes > ram.bytes || total > MAX_BYTES) return undefined;
    ranges.push(range);
  }
  return ranges;
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value < 2 ** 40;
}

/** @param ranges in order */
function closeGaps(ranges: readonly Range[]): Range[] {
  const closed: Range[] = [];
  for (const range of ranges) {
    const last = closed.at(-1);
    if (last !== undefined && range.at - (last.at + last.bytes) <= GAP_PAGES * PAGE_BYTES) {
      closed[closed.length - 1] = { at: last.at, bytes: range.at + range.bytes - last.at };
    } else closed.push(range);
  }
  return closed;
}

/** What both have. Both in order. */
function within(ranges: readonly Range[], others: readonly Range[]): Range[] {
  const both: Range[] = [];
  let i = 0;
  for (const { at, bytes } of ranges) {
    const end = at + bytes;
    for (; i < others.length && endOf(others[i]) <= at; i++);
    for (let j = i; j < others.length; j++) {
      const other = others[j];
      if (other === undefined || other.at >= end) break;
      const from = Math.max(at, other.at);
      both.push({ at: from, bytes: Math.min(end, other.at + other.bytes) - from });
    }
  }
  return both;
}

/** What `others` do not have. Both in order. */
function without(ranges: readonly Range[], others: readonly Range[]): Range[] {
  const gaps: Range[] = [];
  let at = 0;
  for (const other of others) {
    if (other.at > at) gaps.push({ at, bytes: other.at - at });
    at = Math.max(at, other.at + other.bytes);
  }
  gaps.push({ at, bytes: Number.MAX_SAFE_INTEGER - at });
  return within(ranges, gaps);
}

function endOf(range: Range | undefined): number {
  return range === undefined ? 0 : range.at + range.bytes;
}
