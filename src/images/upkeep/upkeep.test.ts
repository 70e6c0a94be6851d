import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, open, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { BuildFailure } from '../../engine/index.ts';
import { ARN, type Bench, bench, INPUT } from '../test-bench.ts';
import { spaceOf } from './space.ts';

const { name: _name, ...configuration } = INPUT;
const UPDATE = { ...configuration, imageIdentifier: ARN };
const DAY_MS = 86_400_000;

/** Versions 1.0 to `count`.0, each a second after the one before. */
async function withVersions(b: Bench, count: number): Promise<void> {
  await b.images.create(INPUT);
  await b.built();
  for (let major = 2; major <= count; major++) {
    await b.clock.advance(1000);
    await b.images.update(UPDATE);
    await b.built('demo', `${major}.0`);
  }
}

/** A microVM's row as the microVMs room writes it. */
async function launched(b: Bench, id: string, version: string, state = 'SUSPENDED'): Promise<void> {
  const row = { id, state, group: ARN, subgroup: version, createdAt: 1, dueAt: null, body: {} };
  const result = await b.store.write([b.store.records('microvms').insert(row)]);
  assert.equal(result.kind, 'written');
}

async function put(b: Bench, file: string, bytes = 10_000): Promise<void> {
  const place = path.join(b.stateDir, file);
  await mkdir(path.dirname(place), { recursive: true });
  await writeFile(place, Buffer.alloc(bytes, 1));
}

const versions = async (b: Bench) => (await b.images.listVersions(ARN, {})).items.map((item) => item.imageVersion);

test('what a sparse file takes and what it pretends to take are told apart, and links are not followed', async () => {
  await using b = await bench();
  const dir = path.join(b.stateDir, 'sparse');
  await mkdir(dir);
  await using file = await open(path.join(dir, 'ram'), 'w');
  await file.truncate(1024 ** 3);
  await file.write(Buffer.alloc(4096, 1), 0, 4096, 512 * 1024 ** 2);
  await symlink('/', path.join(dir, 'root'));
  const { bytes, apparentBytes } = await spaceOf(dir);
  assert.equal(apparentBytes, 1024 ** 3);
  assert.ok(bytes >= 4096 && bytes < 1024 ** 2, `${bytes}`);
});

test('disk use is told by version with its parts, by microVM with what it changed, and by what nobody owns', async () => {
  await using b = await bench();
  await withVersions(b, 2);
  await launched(b, 'microvm-1', '2.0');
  await put(b, 'microvms/microvm-1/overlay.qcow2', 50_000);
  await put(b, 'microvms/microvm-1/delta/memory', 90_000);
  await put(b, 'microvms/microvm-2/overlay.qcow2', 30_000);
  await put(b, 'images/gone/1.0/snapshot/ram', 70_000);
  await put(b, 'builder-cache/ann/cache.qcow2', 20_000);
  await put(b, 'notes.txt');

  const use = await b.images.upkeep.diskUse(undefined, {});
  const [image] = use.images;
  assert.deepEqual(
    image?.versions.map((v) => [v.imageVersion, v.state, v.status, v.microvms.count, v.parts.ram.apparentBytes]),
    [
      ['2.0', 'SUCCESSFUL', 'ACTIVE', 1, 3],
      ['1.0', 'SUCCESSFUL', 'ACTIVE', 0, 3],
    ],
  );
  const [vm] = use.microvms;
  assert.equal(vm?.overlay.apparentBytes, 50_000);
  assert.equal(vm?.suspended.apparentBytes, 90_000);
  assert.equal(image?.versions[0]?.microvms.apparentBytes, 140_000);
  assert.deepEqual(
    use.unowned?.map((item) => item.path),
    ['images/gone', 'microvms/microvm-2'],
  );
  assert.deepEqual(
    use.caches?.map((item) => [item.name, item.apparentBytes]),
    [['ann', 20_000]],
  );
  assert.ok(use.others?.some((item) => item.name === 'notes.txt'));
  assert.ok(use.total.apparentBytes > 270_000);
  assert.ok(use.fileSystem.freeBytes > 0);

  const one = await b.images.upkeep.diskUse(ARN, {});
  assert.equal(one.unowned, undefined);
  assert.equal(one.microvms.length, 1);
  await assert.rejects(b.images.upkeep.diskUse('demo', {}), { code: 'INVALID' });
  await assert.rejects(b.images.upkeep.diskUse(`${ARN}-2`, {}), { code: 'NOT_FOUND' });
});

test('garbage is what no record owns: a dry run names it, a run takes it away, a second run finds nothing', async () => {
  await using b = await bench();
  await withVersions(b, 1);
  const garbage = [
    'builds/0b0e/context/Dockerfile',
    'images/demo/1.0/snapshot.draft-00112233/ram',
    'images/demo/1.0/snapshot-7/ram',
    'images/demo/9.0/snapshot/ram',
    'images/gone/1.0/snapshot/ram',
    'imports/1/disk',
    'logs/builds/unknown.log',
  ];
  for (const file of garbage) await put(b, file);
  await put(b, 'microvms/microvm-2/overlay.qcow2');
  const dry = await b.images.upkeep.collectGarbage({ dryRun: true }, {});
  assert.deepEqual(dry.files.map((item) => item.path).sort(), [
    'builds/0b0e',
    'images/demo/1.0/snapshot-7',
    'images/demo/1.0/snapshot.draft-00112233',
    'images/demo/9.0',
    'images/gone',
    'imports/1',
    'logs/builds/unknown.log',
  ]);
  for (const file of garbage) assert.ok(existsSync(path.join(b.stateDir, file)), file);
  const real = await b.images.upkeep.collectGarbage({ dryRun: false }, {});
  assert.deepEqual(real.files, dry.files);
  assert.ok(real.total.bytes >= 7 * 10_000);
  for (const file of garbage) assert.ok(!existsSync(path.join(b.stateDir, file)), file);
  assert.deepEqual((await b.images.upkeep.collectGarbage({ dryRun: false }, {})).files, []);
  assert.ok(existsSync(path.join(b.stateDir, 'microvms/microvm-2')), 'microVMs are for the sweep at start');
  assert.ok((await b.images.resolve(ARN)).snapshotDir);
  assert.ok(existsSync(path.join(b.stateDir, 'images/demo/1.0/snapshot/ram')));
  assert.match(await b.built(), /done/);
});

test('what a build has under way is no garbage, however it is asked for', async () => {
  await using b = await bench();
  using gate = b.engine.hold('seal');
  await b.images.create(INPUT);
  while (!b.engine.calls.some((call) => call.startsWith('seal'))) await b.clock.advance(0);
  await put(b, 'images/demo/1.0/snapshot.draft-00112233/ram');
  const found = await b.images.upkeep.collectGarbage({ dryRun: false, keep: 0 }, {});
  assert.deepEqual([found.files, found.versions, found.left], [[], [], []]);
  gate[Symbol.dispose]();
  assert.match(await b.built(), /done/);
  const after = await b.images.upkeep.collectGarbage({ dryRun: false }, {});
  assert.deepEqual(
    after.files.map((item) => item.path),
    ['images/demo/1.0/snapshot.draft-00112233'],
  );
});

test('images made while garbage is collected keep all that is theirs', async () => {
  await using b = await bench();
  for (let round = 0; round < 20; round++) {
    const name = `image-${round}`;
    await put(b, `images/${name}/1.0/snapshot/left-behind`);
    const [, , found] = await Promise.all([
      b.images.create({ ...INPUT, name }),
      b.built(name).catch(() => ''),
      b.images.upkeep.collectGarbage({ dryRun: false }, {}),
    ]);
    assert.match(await b.built(name), /done/);
    assert.ok(existsSync(path.join(b.stateDir, `images/${name}/1.0/snapshot/ram`)), JSON.stringify(found.files));
  }
});

test('with keep, inactive and failed versions beyond the newest go, but none that is active, used or the last', async () => {
  await using b = await bench();
  await withVersions(b, 5);
  using _failing = b.engine.failNext('seal', new BuildFailure('app-exited', 'it ended', 3));
  await b.clock.advance(1000);
  await b.images.update(UPDATE);
  await b.built('demo', '6.0');
  for (const version of ['1.0', '2.0', '3.0']) await b.images.updateVersion(ARN, version, 'INACTIVE');
  await launched(b, 'microvm-1', '1.0');
  await launched(b, 'microvm-2', '2.0', 'TERMINATED');
  // Spent: 6.0 FAILED, 3.0, 2.0, 1.0 INACTIVE.
  const request = { keep: 1, olderThanDays: undefined };
  const dry = await b.images.upkeep.collectGarbage({ ...request, dryRun: true }, {});
  assert.deepEqual(await versions(b), ['6.0', '5.0', '4.0', '3.0', '2.0', '1.0']);
  const real = await b.images.upkeep.collectGarbage({ ...request, dryRun: false }, {});
  for (const found of [dry, real]) {
    assert.deepEqual(
      found.versions.map((item) => [item.imageVersion, item.why]),
      [
        ['3.0', 'INACTIVE'],
        ['2.0', 'INACTIVE'],
      ],
    );
    assert.deepEqual(
      found.left.map((item) => [item.imageVersion, item.why]),
      [['1.0', 'Cannot delete microvm image version with running microvms.']],
    );
  }
  assert.deepEqual(await versions(b), ['6.0', '5.0', '4.0', '1.0']);
  assert.ok(!existsSync(path.join(b.stateDir, 'images/demo/3.0')));
  await b.images.upkeep.collectGarbage({ dryRun: false, keep: 0 }, {});
  assert.deepEqual(await versions(b), ['5.0', '4.0', '1.0']);
});

test('with an age, only versions that last changed so long ago go; the last one of an image never does', async () => {
  await using b = await bench();
  await withVersions(b, 2);
  for (const version of ['1.0', '2.0']) await b.images.updateVersion(ARN, version, 'INACTIVE');
  await b.clock.advance(9 * DAY_MS);
  const young = await b.images.upkeep.collectGarbage({ dryRun: false, olderThanDays: 10 }, {});
  assert.deepEqual([young.versions, young.left], [[], []]);
  await b.clock.advance(2 * DAY_MS);
  const old = await b.images.upkeep.collectGarbage({ dryRun: false, olderThanDays: 10 }, {});
  assert.deepEqual(
    old.versions.map((item) => item.imageVersion),
    ['2.0'],
  );
  assert.match(old.left[0]?.why ?? '', /last version/);
  assert.deepEqual(await versions(b), ['1.0']);
});
