import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { type Logger, silentLogger, TestClock } from '../../lib/index.ts';
import type { Manifest } from './manifest.ts';
import { ReadAhead, samplesOf } from './read-ahead.ts';
import { PREFETCH_NAME, writeWorkingSet } from './working-set.ts';

const MIB = 2 ** 20;
const PART = { bytes: 64 * MIB, sha256: 'a'.repeat(64) };
const MANIFEST = { parts: { ram: PART, state: PART, disk: PART, changes: PART } };

interface Bench extends AsyncDisposable {
  readonly dir: string;
  readonly ram: string;
  readonly readAhead: ReadAhead;
  /** What is told of each read-ahead: its bytes, or what went wrong. */
  readonly told: unknown[];
}

/** @param fromDisk the counter at each look; the last one stays */
async function bench(fromDisk: readonly (number | undefined)[]): Promise<Bench> {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-ahead-'));
  stack.defer(() => rm(dir, { recursive: true }));
  const ram = path.join(dir, 'ram');
  await using file = await open(ram, 'wx');
  await file.truncate(PART.bytes);
  const told: unknown[] = [];
  const log: Logger = {
    ...silentLogger,
    debug: (fields: { bytes?: number }) => void told.push(fields.bytes),
    warn: (fields: { error?: string }) => void told.push(fields.error),
  };
  let looks = 0;
  const count = async () => fromDisk[Math.min(looks++, fromDisk.length - 1)];
  const readAhead = stack.use(new ReadAhead({ clock: new TestClock(), log, fromDisk: count }));
  const owned = stack.move();
  return { dir, ram, readAhead, told, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Two ranges, 5 MiB. */
async function noteTwo(dir: string): Promise<void> {
  const ranges = [
    { at: 32 * MIB, bytes: 4 * MIB },
    { at: 0, bytes: MIB },
  ];
  await writeWorkingSet(dir, ranges, PART);
}

test('what had to come from the disk is read ahead, whole', async () => {
  await using b = await bench([0, 4096]);
  await noteTwo(b.dir);
  using _one = b.readAhead.begin(b.dir, MANIFEST, b.ram);
  await b.readAhead.idle();
  assert.deepEqual(b.told, [5 * MIB]);
});

test('one page of many that is not in memory is enough', async () => {
  await using b = await bench([0, 0, 4096]);
  await noteTwo(b.dir);
  using _one = b.readAhead.begin(b.dir, MANIFEST, b.ram);
  await b.readAhead.idle();
  assert.deepEqual(b.told, [5 * MIB]);
});

test('what is in memory is left alone, and so it is where nobody counts', async () => {
  for (const counter of [7, undefined]) {
    await using b = await bench([counter]);
    await noteTwo(b.dir);
    using _one = b.readAhead.begin(b.dir, MANIFEST, b.ram);
    await b.readAhead.idle();
    assert.deepEqual(b.told, []);
  }
});

test('without a list nothing is read, nor from an encrypted snapshot', async () => {
  await using b = await bench([0, 4096]);
  using _none = b.readAhead.begin(b.dir, MANIFEST, b.ram);
  await b.readAhead.idle();
  await noteTwo(b.dir);
  using _encrypted = b.readAhead.begin(
    b.dir,
    { ...MANIFEST, encryption: {} as NonNullable<Manifest['encryption']> },
    b.ram,
  );
  await b.readAhead.idle();
  assert.deepEqual(b.told, []);
});

test('a damaged list is told once, and the launch goes on without', async () => {
  await using b = await bench([0, 4096]);
  await writeFile(path.join(b.dir, PREFETCH_NAME), '{"generation":1}');
  for (let i = 0; i < 2; i++) {
    using _one = b.readAhead.begin(b.dir, MANIFEST, b.ram);
    await b.readAhead.idle();
  }
  assert.deepEqual(b.told, ['the list of pages to read ahead is damaged']);
  assert.equal(existsSync(path.join(b.dir, PREFETCH_NAME)), false);
});

test('launches of a snapshot share what is read, until the last of them is called off', async () => {
  await using b = await bench([0, 4096]);
  await noteTwo(b.dir);
  const { promise: after, resolve: begin } = Promise.withResolvers<void>();
  const one = b.readAhead.begin(b.dir, MANIFEST, b.ram, after);
  const two = b.readAhead.begin(b.dir, MANIFEST, b.ram, after);
  one[Symbol.dispose]();
  one[Symbol.dispose]();
  begin();
  await b.readAhead.idle();
  assert.deepEqual(b.told, [5 * MIB], 'the second goes on, and only one was begun');
  two[Symbol.dispose]();
});

test('a launch that is called off, or finds its snapshot damaged, reads nothing ahead', async () => {
  await using b = await bench([0, 4096]);
  await noteTwo(b.dir);
  const { promise: after, resolve: begin } = Promise.withResolvers<void>();
  b.readAhead.begin(b.dir, MANIFEST, b.ram, after)[Symbol.dispose]();
  begin();
  using _failed = b.readAhead.begin(b.dir, MANIFEST, b.ram, Promise.reject(new Error('damaged')));
  await b.readAhead.idle();
  assert.deepEqual(b.told, []);
});

test('of many snapshots at once two are read ahead', async () => {
  await using b = await bench([0, 1, 2, 3, 4, 5, 6, 7]);
  const dirs = await Promise.all(
    ['x', 'y', 'z'].map(async (name) => {
      const dir = await mkdtemp(path.join(b.dir, name));
      await noteTwo(dir);
      return dir;
    }),
  );
  const begun = dirs.map((dir) => b.readAhead.begin(dir, MANIFEST, b.ram));
  await b.readAhead.idle();
  for (const one of begun) one[Symbol.dispose]();
  assert.deepEqual(b.told, [5 * MIB, 5 * MIB]);
});

test('the pages tried lie all over the ranges, each within one', () => {
  const ranges = [
    { at: 40 * MIB, bytes: 4096 },
    { at: 0, bytes: 15 * MIB },
    { at: 50 * MIB, bytes: MIB },
  ];
  const samples = samplesOf(ranges);
  assert.equal(samples.length, 16);
  assert.ok(samples.every((at) => ranges.some((range) => at >= range.at && at + 4096 <= range.at + range.bytes)));
  assert.ok(samples.some((at) => at >= 50 * MIB) && new Set(samples).size === 16);
  assert.deepEqual(samplesOf([{ at: 4096, bytes: 4096 }]), new Array(16).fill(4096));
});
