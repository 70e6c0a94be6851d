import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { BuildFailure } from '../../engine/index.ts';
import { type Logger, silentLogger } from '../../lib/index.ts';
import { ARN, type Bench, bench, INPUT } from '../test-bench.ts';

const { name: _name, ...configuration } = INPUT;

async function built(b: Bench): Promise<void> {
  await b.images.create(INPUT);
  await b.built();
}

const reseal = (b: Bench, ifNeeded = false) => b.images.upkeep.reseal(ARN, '1.0', { ifNeeded });
const parts = async (b: Bench) =>
  (await readdir(path.join(b.stateDir, 'images/demo/1.0'))).filter((name) => name !== 'provenance.json');
const launched = async (b: Bench) => path.basename((await b.images.resolve(ARN)).snapshotDir);
const isSealing = (b: Bench, count: number) => b.engine.calls.filter((call) => call.startsWith('seal')).length >= count;

async function until(b: Bench, isThere: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 20_000; i++) {
    if (await isThere()) return;
    await b.clock.advance(0);
  }
  assert.fail('it did not come to that');
}

/** A microVM's row as the microVMs room writes it, launched from this snapshot. */
async function sleeping(b: Bench, id: string, snapshot: number | undefined): Promise<void> {
  const body = snapshot === undefined ? {} : { snapshot };
  const row = { id, state: 'SUSPENDED', group: ARN, subgroup: '1.0', createdAt: 1, dueAt: null, body };
  await b.store.write([b.store.records('microvms').insert(row)]);
}

async function ended(b: Bench, id: string): Promise<void> {
  const rows = b.store.records('microvms');
  const row = await rows.get(id);
  assert.ok(row);
  await b.store.write([rows.save({ ...row, state: 'TERMINATED' })]);
}

test('a version sealed anew is the same version with another snapshot, and the old one goes', async () => {
  await using b = await bench();
  await built(b);
  const before = await b.images.getVersion(ARN, '1.0');
  assert.deepEqual(await reseal(b), { imageArn: ARN, imageVersion: '1.0', snapshot: 2, isNew: true });
  const { updatedAt: _a, ...after } = await b.images.getVersion(ARN, '1.0');
  const { updatedAt: _b, ...same } = before;
  assert.deepEqual(after, same);
  assert.deepEqual([await launched(b), (await b.images.resolve(ARN)).snapshot], ['snapshot-2', 2]);
  assert.deepEqual(await parts(b), ['snapshot-2']);
  assert.equal(b.engine.calls.filter((call) => call.startsWith('build')).length, 1, 'no Dockerfile ran again');
  assert.equal((await reseal(b)).snapshot, 3);
  assert.deepEqual(await parts(b), ['snapshot-3']);
  await b.images.rebuild(ARN, '1.0');
  assert.match(await b.built('demo', '2.0'), /using the root disk of version 1\.0[\s\S]*done/);
});

test('a snapshot that microVMs were launched from stays until the last of them is gone', async () => {
  await using b = await bench();
  await built(b);
  await sleeping(b, 'microvm-1', undefined);
  await reseal(b);
  await sleeping(b, 'microvm-2', 2);
  assert.deepEqual(await parts(b), ['snapshot', 'snapshot-2']);
  assert.equal(path.basename(b.images.snapshotDir(ARN, '1.0', undefined)), 'snapshot');
  assert.equal(path.basename(b.images.snapshotDir(ARN, '1.0', 2)), 'snapshot-2');
  assert.deepEqual((await b.images.upkeep.collectGarbage({ dryRun: false }, {})).files, []);
  const [image] = (await b.images.upkeep.diskUse(ARN, {})).images;
  assert.ok((image?.versions[0]?.earlier.apparentBytes ?? 0) > 0);
  await reseal(b);
  assert.deepEqual(await parts(b), ['snapshot', 'snapshot-2', 'snapshot-3']);
  await ended(b, 'microvm-1');
  await b.images.upkeep.collectGarbage({ dryRun: false }, {});
  assert.deepEqual(await parts(b), ['snapshot-2', 'snapshot-3']);
  await ended(b, 'microvm-2');
  await using again = await b.restart();
  assert.deepEqual(await parts(again), ['snapshot-3']);
  assert.equal(await launched(again), 'snapshot-3');
});

test('the old snapshot serves until the new one is there; nobody else may make one or clear it away meanwhile', async () => {
  await using b = await bench();
  await built(b);
  using gate = b.engine.hold('seal');
  const first = reseal(b);
  await until(b, () => isSealing(b, 2));
  await mkdir(path.join(b.stateDir, 'images/demo/1.0/snapshot-2.draft-00112233'));
  assert.equal(await launched(b), 'snapshot');
  await assert.rejects(reseal(b), { code: 'CONFLICT', message: /already/ });
  assert.deepEqual((await b.images.upkeep.collectGarbage({ dryRun: false }, {})).files, []);
  gate[Symbol.dispose]();
  assert.equal((await first).snapshot, 2);
  assert.equal(await launched(b), 'snapshot-2');
});

test('an app that does not start any more leaves the version as it was', async () => {
  await using b = await bench();
  await built(b);
  using _failing = b.engine.failNext('seal', new BuildFailure('app-exited', 'it ended', 3));
  await assert.rejects(reseal(b), {
    code: 'CONFLICT',
    message: /could not be sealed anew and is as it was: The application exited with code 3/,
  });
  assert.deepEqual([await launched(b), await parts(b)], ['snapshot', ['snapshot']]);
  await assert.rejects(b.images.upkeep.reseal(ARN, '9.0', { ifNeeded: false }), { code: 'NOT_FOUND' });
  b.engine.damage({ snapshotDir: b.images.snapshotDir(ARN, '1.0'), part: 'ram' });
  await until(b, async () => (await b.images.getVersion(ARN, '1.0')).state === 'FAILED');
  await assert.rejects(reseal(b), { code: 'CONFLICT', message: /in state: FAILED/ });
});

test('what a crash left half made is gone at the next start, and what is on record is not', async () => {
  await using first = await bench();
  await built(first);
  await reseal(first);
  const dir = path.join(first.stateDir, 'images/demo/1.0');
  for (const left of ['snapshot-3', 'snapshot-3.draft-00112233', 'snapshot']) {
    await mkdir(path.join(dir, left), { recursive: true });
    await writeFile(path.join(dir, left, 'ram'), 'half');
  }
  await using b = await first.restart();
  assert.deepEqual(await parts(b), ['snapshot-2']);
  assert.equal((await reseal(b)).snapshot, 3);
});

test('an image deleted while its version is sealed anew is gone with all of it', async () => {
  await using b = await bench();
  await built(b);
  using gate = b.engine.hold('seal', { deaf: true });
  const resealed = reseal(b);
  resealed.catch(() => {});
  await until(b, () => isSealing(b, 2));
  await b.images.delete(ARN);
  await until(b, async () => (await b.images.list({})).items.length === 0);
  gate[Symbol.dispose]();
  await assert.rejects(resealed, { code: 'NOT_FOUND' });
  await b.images.upkeep.collectGarbage({ dryRun: false }, {});
  assert.ok(!existsSync(path.join(b.stateDir, 'images/demo')));
});

test('asked for only if needed, what fits this host is left alone, and what is older or does not fit is made anew', async () => {
  await using b = await bench();
  await built(b);
  assert.deepEqual(await reseal(b, true), { imageArn: ARN, imageVersion: '1.0', snapshot: 1, isNew: false });
  b.engine.disk.fits.set(b.images.snapshotDir(ARN, '1.0'), { kind: 'older', why: 'another kernel' });
  assert.equal((await reseal(b, true)).snapshot, 2);
  assert.equal((await reseal(b, true)).isNew, false);
  b.engine.disk.fits.set(b.images.snapshotDir(ARN, '1.0', 2), { kind: 'misfit', why: 'another QEMU' });
  assert.equal((await reseal(b, true)).snapshot, 3);
});

test('damage of an earlier snapshot is not the version’s, damage of the one that is launched is', async () => {
  await using b = await bench();
  await built(b);
  await sleeping(b, 'microvm-1', undefined);
  await reseal(b);
  b.engine.damage({ snapshotDir: b.images.snapshotDir(ARN, '1.0', 1), part: 'ram' });
  await b.images.update({ ...configuration, imageIdentifier: ARN });
  await b.built('demo', '2.0');
  assert.equal((await b.images.getVersion(ARN, '1.0')).state, 'SUCCESSFUL');
  b.engine.damage({ snapshotDir: b.images.snapshotDir(ARN, '1.0', 2), part: 'ram' });
  await until(b, async () => (await b.images.getVersion(ARN, '1.0')).state === 'FAILED');
});

test('a start says which versions do not fit this host, and the command that mends it', async () => {
  const lines: [string, string, unknown][] = [];
  const log: Logger = {
    ...silentLogger,
    child: () => log,
    info: (fields, text) => void lines.push(['info', text, fields]),
    warn: (fields, text) => void lines.push(['warn', text, fields]),
  };
  await using first = await bench({ log });
  await built(first);
  const disk = first.engine.disk;
  disk.fits.set(first.images.snapshotDir(ARN, '1.0'), { kind: 'misfit', why: 'another QEMU' });
  lines.length = 0;
  await using _again = await first.restart({ disk });
  const command = 'rekindle images reseal demo:1.0';
  const told = lines.filter(([level]) => level === 'warn');
  assert.deepEqual(told, [
    [
      'warn',
      'a version cannot be launched on this host until it is sealed anew',
      { imageArn: ARN, imageVersion: '1.0', why: 'another QEMU', command },
    ],
  ]);
});
