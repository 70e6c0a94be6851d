import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { encodeSelfChecked } from './self-checked.ts';
import { PREFETCH_NAME, readWorkingSet, WorkingSet, writeWorkingSet } from './working-set.ts';

const PAGE = 4096;
const MIB = 2 ** 20;
const RAM = { bytes: 1024 * MIB, sha256: 'a'.repeat(64) };

interface Folder extends AsyncDisposable {
  readonly dir: string;
  readonly file: string;
}

async function folder(): Promise<Folder> {
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-prefetch-'));
  return { dir, file: path.join(dir, PREFETCH_NAME), [Symbol.asyncDispose]: () => rm(dir, { recursive: true }) };
}

/** `first+pages` of each. */
function pagesOf(set: WorkingSet): string {
  return set.ranges.map(({ at, bytes }) => `${at / PAGE}+${bytes / PAGE}`).join(' ');
}

test('what lies close together is one read, what lies apart is not', () => {
  const set = new WorkingSet([{ at: 0, bytes: RAM.bytes }]);
  set.add([
    { firstPage: 5, pages: 1 },
    { firstPage: 22, pages: 2 },
    { firstPage: 41, pages: 1 },
  ]);
  assert.equal(pagesOf(set), '5+19 41+1');
});

test('holes of the file are left out', () => {
  const set = new WorkingSet([
    { at: 2 * PAGE, bytes: 2 * PAGE },
    { at: 10 * PAGE, bytes: 90 * PAGE },
    { at: 1000 * PAGE, bytes: PAGE },
  ]);
  set.add([
    { firstPage: 0, pages: 12 },
    { firstPage: 50, pages: 10 },
    { firstPage: 95, pages: 20 },
  ]);
  assert.equal(pagesOf(set), '2+2 10+2 50+10 95+5');
});

test('what was touched first is read first, and nothing twice', () => {
  const set = new WorkingSet([{ at: 0, bytes: RAM.bytes }]);
  set.add([
    { firstPage: 500, pages: 10 },
    { firstPage: 900, pages: 1 },
  ]);
  set.add([
    { firstPage: 100, pages: 10 },
    { firstPage: 495, pages: 20 },
    { firstPage: 900, pages: 1 },
  ]);
  set.add([{ firstPage: 100, pages: 10 }]);
  assert.equal(pagesOf(set), '500+10 900+1 100+10 495+5 510+5');
  assert.equal(set.bytes, 31 * PAGE);
});

test('no more is noted than may be read', () => {
  const set = new WorkingSet([{ at: 0, bytes: RAM.bytes }]);
  set.add([{ firstPage: 0, pages: 256 * 300 }]);
  set.add([{ firstPage: 0, pages: 256 * 1000 }]);
  assert.equal(set.bytes, 300 * MIB);
});

test('a list comes back in its order, for the memory it is of', async () => {
  await using at = await folder();
  assert.equal(await readWorkingSet(at.dir, RAM), undefined);
  const ranges = [
    { at: 8 * MIB, bytes: MIB },
    { at: 0, bytes: PAGE },
  ];
  await writeWorkingSet(at.dir, [], RAM);
  await writeWorkingSet(at.dir, ranges, RAM);
  assert.deepEqual(await readWorkingSet(at.dir, RAM), ranges);
  assert.deepEqual(await readdir(at.dir), [PREFETCH_NAME]);
  await assert.rejects(readWorkingSet(at.dir, { ...RAM, sha256: 'b'.repeat(64) }), { kind: 'corrupt' });
});

test('a list with one other byte, or cut anywhere, is damaged', async () => {
  await using at = await folder();
  await writeWorkingSet(at.dir, [{ at: 8 * MIB, bytes: MIB }], RAM);
  const bytes = await readFile(at.file);
  for (let i = 0; i < bytes.length; i++) {
    const damaged = Buffer.from(bytes);
    damaged[i] = (damaged[i] ?? 0) ^ 1;
    await writeFile(`${at.file}`, damaged, { mode: 0o600 });
    await assert.rejects(readWorkingSet(at.dir, RAM), { kind: 'corrupt' }, `byte ${i}`);
    await writeFile(at.file, bytes.subarray(0, i));
    await assert.rejects(readWorkingSet(at.dir, RAM), { kind: 'corrupt' }, `cut at ${i}`);
  }
});

test('a whole list is not believed what cannot be', async () => {
  await using at = await folder();
  const pages = RAM.bytes / PAGE;
  const bad: Record<string, unknown> = {
    'no list': { runs: 7 },
    'no JSON': { runs: '[[0,1]' },
    'no runs': { runs: '[1,2]' },
    'a run of three': { runs: '[[0,1,2]]' },
    'no pages': { runs: '[[0,0]]' },
    'a negative place': { runs: '[[-1,1]]' },
    'half a page': { runs: '[[0.5,1]]' },
    words: { runs: '[["0","1"]]' },
    'beyond the end': { runs: `[[${pages - 1},2]]` },
    'far beyond the end': { runs: '[[9007199254740991,1]]' },
    'more than may be read': { runs: JSON.stringify(Array.from({ length: 600 }, () => [0, 256])) },
    'too many runs': { runs: JSON.stringify(Array.from({ length: 40_000 }, (_, i) => [2 * i, 1])) },
    'another generation': { generation: 2 },
    'of other memory': { ram: 'c'.repeat(64) },
    'too long': { padding: 'x'.repeat(2 * MIB) },
  };
  for (const [name, change] of Object.entries(bad)) {
    const value = { generation: 1, ram: RAM.sha256, runs: '[[0,1]]', ...(change as object) };
    await writeFile(at.file, encodeSelfChecked(value));
    await assert.rejects(readWorkingSet(at.dir, RAM), { kind: 'corrupt' }, name);
  }
  await writeFile(at.file, encodeSelfChecked({ generation: 1, ram: RAM.sha256, runs: '[[0,1]]' }));
  assert.deepEqual(await readWorkingSet(at.dir, RAM), [{ at: 0, bytes: PAGE }]);
});
