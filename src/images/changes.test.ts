import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { BuildFailure } from '../engine/index.ts';
import { ARN, type Bench, bench, INPUT } from './test-bench.ts';

const { name: _name, ...configuration } = INPUT;
const UPDATE = { ...configuration, imageIdentifier: ARN };
const RUNNING = 'Cannot delete microvm image with running microvms.';

async function built(b: Bench): Promise<void> {
  await b.images.create({ ...INPUT, description: 'first', tags: { team: 'a' } });
  await b.built();
}

async function builtTwice(b: Bench): Promise<void> {
  await built(b);
  await b.clock.advance(1);
  await b.images.update(UPDATE);
  await b.built('demo', '2.0');
}

/** Lets what runs by itself come to its end; files are really removed, so this takes as many turns as the disk does. */
async function settled(b: Bench, until: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 20_000; i++) {
    if (await until()) return;
    await b.clock.advance(0);
  }
  assert.fail('it did not come to that');
}

async function isGone(b: Bench): Promise<boolean> {
  return (await b.images.list({})).items.length === 0;
}

const stateOf = async (b: Bench) => (await b.images.get(ARN)).state;

/** A microVM's row as the microVMs room writes it. */
async function occupy(b: Bench, version: string, state: string): Promise<void> {
  const rows = b.store.records('microvms');
  const row = { id: `m-${state}-${version}`, group: ARN, subgroup: version, createdAt: 1, dueAt: null, body: {} };
  await b.store.write([rows.insert({ ...row, state })]);
}

test('an update replaces the configuration in full and mints the next version', async () => {
  await using b = await bench();
  await built(b);
  const updated = await b.images.update(UPDATE);
  assert.deepEqual(
    [updated.state, updated.imageVersion, updated.latestActiveImageVersion, updated.description, 'tags' in updated],
    ['UPDATING', '2.0', '1.0', null, false],
  );
  await b.built('demo', '2.0');
  const image = await b.images.get(ARN);
  assert.deepEqual([image.state, image.latestActiveImageVersion, image.tags], ['UPDATED', '2.0', { team: 'a' }]);
  assert.deepEqual(
    (await b.images.listVersions(ARN, {})).items
      .map((item) => [item.imageVersion, item.status, item.description])
      .sort(),
    [
      ['1.0', 'ACTIVE', 'first'],
      ['2.0', 'ACTIVE', null],
    ],
  );
  assert.equal((await b.images.resolve(ARN)).imageVersion, '2.0');
  assert.equal((await b.images.resolve(ARN, '1.0')).imageVersion, '1.0');
});

test('a failed update names the failed version and leaves the old one launchable', async () => {
  await using b = await bench();
  await built(b);
  b.engine.failNext('build', new BuildFailure('dockerfile-failed', 'failed'));
  await b.images.update(UPDATE);
  await b.built('demo', '2.0');
  const image = await b.images.get(ARN);
  assert.deepEqual(
    [image.state, image.latestActiveImageVersion, image.latestFailedImageVersion],
    ['UPDATE_FAILED', '1.0', '2.0'],
  );
  assert.equal((await b.images.resolve(ARN)).imageVersion, '1.0');
  assert.equal((await b.images.update(UPDATE)).imageVersion, '3.0', 'numbers are not given out twice');
});

test('nothing of an image that is being built can be changed or updated', async () => {
  await using b = await bench();
  const held = b.engine.hold('build');
  await b.images.create(INPUT);
  for (const state of ['CREATING', 'UPDATING']) {
    const conflict = { code: 'CONFLICT', message: `MicroVM Image is already in state: ${state}` };
    await assert.rejects(b.images.update(UPDATE), conflict);
    await assert.rejects(b.images.updateVersion(ARN, '1.0', 'INACTIVE'), conflict);
    const isOnly = state === 'CREATING';
    await assert.rejects(b.images.deleteVersion(ARN, '1.0'), isOnly ? { message: /last version/ } : conflict);
    if (state === 'UPDATING') break;
    held[Symbol.dispose]();
    await b.built();
    b.engine.hold('build');
    await b.images.update(UPDATE);
  }
});

test('an image of which a version is being deleted is not deleted', async () => {
  await using b = await bench();
  await builtTwice(b);
  b.engine.deleteSnapshot = () => new Promise(() => {});
  await b.images.deleteVersion(ARN, '1.0');
  await assert.rejects(b.images.delete(ARN), {
    code: 'INVALID',
    message: 'Cannot delete MicroVM image in its current state: UPDATING',
  });
});

test('a client token of an update replays it, also while it is built, and with other parameters is a conflict', async () => {
  await using b = await bench();
  await built(b);
  const [first, again] = await Promise.all([
    b.images.update({ ...UPDATE, clientToken: 't' }),
    b.images.update({ ...UPDATE, clientToken: 't' }),
  ]);
  assert.deepEqual(again, first);
  await b.built('demo', '2.0');
  assert.equal((await b.images.update({ ...UPDATE, clientToken: 't' })).imageVersion, '2.0');
  assert.equal((await b.images.listVersions(ARN, {})).items.length, 2);
  await assert.rejects(b.images.update({ ...UPDATE, description: 'x', clientToken: 't' }), { code: 'CONFLICT' });
});

test('two creates at once with one client token make one image', async () => {
  await using b = await bench();
  const both = await Promise.all([
    b.images.create({ ...INPUT, clientToken: 't' }),
    b.images.create({ ...INPUT, clientToken: 't' }),
  ]);
  assert.equal(both[0].id, both[1].id);
});

test('an INACTIVE version is not launched, by name or as the latest', async () => {
  await using b = await bench();
  await builtTwice(b);
  const changed = await b.images.updateVersion(ARN, '2.0', 'INACTIVE');
  assert.deepEqual([changed.state, changed.status, changed.tags], ['SUCCESSFUL', 'INACTIVE', null]);
  assert.equal((await b.images.get(ARN)).latestActiveImageVersion, '1.0');
  await assert.rejects(b.images.resolve(ARN, '2.0'), {
    code: 'NOT_FOUND',
    message: `No active version found for MicroVM image ${ARN} and version 2.0`,
  });
  assert.equal((await b.images.resolve(ARN)).imageVersion, '1.0');
  await b.images.updateVersion(ARN, '1.0', 'INACTIVE');
  await assert.rejects(b.images.resolve(ARN), { message: `No active version found for MicroVM image ${ARN}` });
  await b.images.updateVersion(ARN, '2.0', 'ACTIVE');
  assert.equal((await b.images.resolve(ARN)).imageVersion, '2.0');
  await assert.rejects(b.images.updateVersion(ARN, '9.0', 'ACTIVE'), { code: 'NOT_FOUND' });
});

test('a version that failed cannot be activated', async () => {
  await using b = await bench();
  b.engine.failNext('build', new BuildFailure('dockerfile-failed', 'failed'));
  await b.images.create(INPUT);
  await b.built();
  await assert.rejects(b.images.updateVersion(ARN, '1.0', 'ACTIVE'), { code: 'INVALID' });
  assert.equal((await b.images.updateVersion(ARN, '1.0', 'INACTIVE')).status, 'INACTIVE');
});

test('a launch that raced the end of its version does not get through', async () => {
  await using b = await bench();
  await builtTwice(b);
  const { unchanged } = await b.images.resolve(ARN, '1.0');
  assert.equal((await b.store.write([unchanged])).kind, 'written');
  await b.images.deleteVersion(ARN, '1.0');
  assert.equal((await b.store.write([unchanged])).kind, 'conflict');
});

test('a deleted version drains while the image is UPDATING, and then it, its files and builds are gone', async () => {
  await using b = await bench();
  await builtTwice(b);
  const deleting = Promise.withResolvers<void>();
  const deleteSnapshot = b.engine.deleteSnapshot.bind(b.engine);
  b.engine.deleteSnapshot = async (dir) => {
    await deleting.promise;
    await deleteSnapshot(dir);
  };
  assert.deepEqual(await b.images.deleteVersion(ARN, '2.0'), {
    imageIdentifier: ARN,
    imageVersion: '2.0',
    state: 'DELETING',
  });
  assert.equal((await b.images.getVersion(ARN, '2.0')).state, 'DELETING');
  assert.equal(await stateOf(b), 'UPDATING');
  await assert.rejects(b.images.resolve(ARN, '2.0'), { code: 'NOT_FOUND' });
  await assert.rejects(b.images.update(UPDATE), { code: 'CONFLICT' });
  deleting.resolve();
  await settled(b, async () => (await stateOf(b)) === 'UPDATED');
  await assert.rejects(b.images.getVersion(ARN, '2.0'), { code: 'NOT_FOUND' });
  await assert.rejects(b.images.listBuilds(ARN, '2.0', {}), { code: 'NOT_FOUND' });
  assert.deepEqual(await readdir(path.join(b.stateDir, 'images/demo')), ['1.0']);
  assert.equal((await readdir(path.join(b.stateDir, 'logs/builds'))).length, 1);
  assert.equal((await b.images.get(ARN)).latestActiveImageVersion, '1.0');
  assert.equal((await b.images.update(UPDATE)).imageVersion, '3.0');
});

test('the last version and one in use are not deleted', async () => {
  await using b = await bench();
  await built(b);
  await assert.rejects(b.images.deleteVersion(ARN, '1.0'), { code: 'INVALID', message: /last version/ });
  await b.images.update(UPDATE);
  await b.built('demo', '2.0');
  await occupy(b, '1.0', 'SUSPENDED');
  await occupy(b, '2.0', 'TERMINATED');
  await assert.rejects(b.images.deleteVersion(ARN, '1.0'), { code: 'INVALID', message: /running microvms/ });
  assert.equal(await stateOf(b), 'UPDATED');
  await b.images.deleteVersion(ARN, '2.0');
});

test('a deleted image keeps its name until it drained, and then is not found', async () => {
  await using b = await bench();
  await builtTwice(b);
  const deleting = Promise.withResolvers<void>();
  const deleteSnapshot = b.engine.deleteSnapshot.bind(b.engine);
  b.engine.deleteSnapshot = async (dir) => {
    await deleting.promise;
    await deleteSnapshot(dir);
  };
  const answer = { imageIdentifier: ARN, state: 'DELETING' };
  assert.deepEqual(await b.images.delete(ARN), answer);
  assert.equal(await stateOf(b), 'DELETING');
  assert.equal((await b.images.list({})).items.length, 1);
  await assert.rejects(b.images.create(INPUT), { code: 'INVALID', message: /already exists/ });
  await assert.rejects(b.images.resolve(ARN), { code: 'NOT_FOUND' });
  assert.deepEqual(await b.images.delete(ARN), answer);
  deleting.resolve();
  await settled(b, () => isGone(b));
  for (const gone of [b.images.get(ARN), b.images.delete(ARN), b.images.update(UPDATE)]) {
    await assert.rejects(gone, { code: 'NOT_FOUND', message: `MicroVMImage not found for MicroVMImageID: ${ARN}` });
  }
  assert.deepEqual(await readdir(path.join(b.stateDir, 'images')), []);
  assert.deepEqual(await readdir(path.join(b.stateDir, 'logs/builds')), []);
  assert.equal((await b.images.create(INPUT)).imageVersion, '1.0');
});

test('a client token is free again once what it made was deleted', async () => {
  await using b = await bench();
  const first = await b.images.create({ ...INPUT, clientToken: 't' });
  await b.built();
  await b.images.delete(ARN);
  await settled(b, () => isGone(b));
  const second = await b.images.create({ ...INPUT, clientToken: 't' });
  assert.notEqual(second.id, first.id);
  await b.built();
  assert.equal(await stateOf(b), 'CREATED');
});

test('an image with microVMs that have not ended is not deleted', async () => {
  await using b = await bench();
  await built(b);
  await occupy(b, '1.0', 'TERMINATED');
  await occupy(b, '1.0', 'TERMINATING');
  await assert.rejects(b.images.delete(ARN), { code: 'INVALID', message: RUNNING });
  assert.equal(await stateOf(b), 'CREATED');
});

test('a removal goes on after a restart', async () => {
  await using before = await bench();
  await builtTwice(before);
  before.engine.deleteSnapshot = () => new Promise(() => {});
  await before.images.deleteVersion(ARN, '1.0');
  await using after = await before.restart();
  await settled(after, async () => (await stateOf(after)) === 'UPDATED');
  assert.ok(!existsSync(path.join(after.stateDir, 'images/demo/1.0')));
  after.engine.deleteSnapshot = () => new Promise(() => {});
  await after.images.delete(ARN);
  await using last = await after.restart();
  await settled(last, () => isGone(last));
  assert.deepEqual(await readdir(path.join(last.stateDir, 'images')), []);
});

test('a removal that keeps failing ends in a state that says so, and can be asked for again', async () => {
  await using b = await bench();
  await builtTwice(b);
  const deleteSnapshot = b.engine.deleteSnapshot.bind(b.engine);
  b.engine.deleteSnapshot = async () => assert.fail('the disk is gone');
  const failedState = async (state: string) => {
    for (let i = 0; i < 20_000 && (await stateOf(b)) !== state; i++) await b.clock.advance(1000);
    assert.equal(await stateOf(b), state);
  };
  await b.images.deleteVersion(ARN, '2.0');
  await failedState('UPDATE_FAILED');
  assert.equal((await b.images.getVersion(ARN, '2.0')).state, 'DELETE_FAILED');
  await b.images.delete(ARN);
  await failedState('DELETE_FAILED');
  b.engine.deleteSnapshot = deleteSnapshot;
  await b.images.delete(ARN);
  await settled(b, () => isGone(b));
});

test('tags are added, replaced and taken away, up to fifty', async () => {
  await using b = await bench();
  await built(b);
  await b.images.tag(ARN, { team: 'b', stage: '' });
  assert.deepEqual((await b.images.get(ARN)).tags, { team: 'b', stage: '' });
  await b.images.untag(ARN, ['team', 'nobody']);
  assert.deepEqual(await b.images.tags(ARN), { stage: '' });
  const many = Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`k${i}`, 'v']));
  await assert.rejects(b.images.tag(ARN, many), { code: 'INVALID', message: /50 tags/ });
  await assert.rejects(b.images.tags(ARN.replace('demo', 'nobody')), { code: 'NOT_FOUND' });
});

test('quotas bound images, versions and builds at once', async () => {
  await using b = await bench({ quotas: { images: 2, versionsPerImage: 2, concurrentBuilds: 1 } });
  const held = b.engine.hold('build');
  await b.images.create(INPUT);
  await assert.rejects(b.images.create({ ...INPUT, name: 'two' }), { code: 'QUOTA', message: /concurrent/ });
  held[Symbol.dispose]();
  await b.built();
  await b.images.create({ ...INPUT, name: 'two' });
  await b.built('two');
  await assert.rejects(b.images.create({ ...INPUT, name: 'three' }), { code: 'QUOTA', message: /MicroVM images/ });
  await b.images.update(UPDATE);
  await b.built('demo', '2.0');
  await assert.rejects(b.images.update(UPDATE), { code: 'QUOTA', message: /versions/ });
  assert.equal(await stateOf(b), 'UPDATED');
});

test('a version whose snapshot is damaged is FAILED with the reason, and the one before it is the latest again', async () => {
  await using b = await bench();
  await builtTwice(b);
  b.engine.damage({ snapshotDir: b.images.snapshotDir(ARN, '2.0'), part: 'ram' });
  await settled(b, async () => (await b.images.getVersion(ARN, '2.0')).state === 'FAILED');
  const image = await b.images.get(ARN);
  assert.deepEqual(
    [image.state, image.latestActiveImageVersion, image.latestFailedImageVersion],
    ['UPDATED', '1.0', '2.0'],
  );
  const [build] = (await b.images.listBuilds(ARN, '2.0', {})).items;
  assert.match(build?.stateReason ?? '', /^SNAPSHOT_DAMAGED: .*\(ram\)/);
  await assert.rejects(b.images.resolve(ARN, '2.0'), {
    code: 'NOT_FOUND',
    message: /damaged.*rekindle images rebuild/,
  });
  assert.equal((await b.images.resolve(ARN)).imageVersion, '1.0');
});

test('damage in what is no version of ours, or is gone, is let pass', async () => {
  await using b = await bench();
  await built(b);
  const { stateDir } = b;
  for (const dir of ['images/demo/9.0/snapshot', 'images/nobody/1.0/snapshot', 'images/demo/1.0', '../elsewhere']) {
    b.engine.damage({ snapshotDir: path.join(stateDir, dir), part: 'disk' });
  }
  await b.clock.advance(1);
  assert.equal((await b.images.getVersion(ARN, '1.0')).state, 'SUCCESSFUL');
});

test('a rebuild makes the next version from the root disk that was kept, without its artifact', async () => {
  await using b = await bench();
  await built(b);
  b.engine.damage({ snapshotDir: b.images.snapshotDir(ARN, '1.0'), part: 'state' });
  await settled(b, async () => (await b.images.getVersion(ARN, '1.0')).state === 'FAILED');
  const rebuilt = await b.images.rebuild(ARN, '1.0');
  assert.deepEqual([rebuilt.imageVersion, rebuilt.state], ['2.0', 'UPDATING']);
  assert.match(await b.built('demo', '2.0'), /using the root disk of version 1\.0/);
  assert.equal((await b.images.get(ARN)).latestActiveImageVersion, '2.0');
  assert.equal((await b.images.resolve(ARN)).imageVersion, '2.0');
  assert.equal(b.engine.calls.filter((call) => call.startsWith('build ')).length, 1);
});

test('a rebuild takes the artifact when the root disk is damaged too', async () => {
  await using b = await bench();
  await built(b);
  await rm(path.join(b.images.snapshotDir(ARN, '1.0'), 'disk'));
  await b.images.rebuild(ARN, '1.0');
  assert.match(await b.built('demo', '2.0'), /damaged too; building from the artifact\n.*fetching s3:/);
  assert.equal(b.engine.calls.filter((call) => call.startsWith('build ')).length, 2);
  await assert.rejects(b.images.rebuild(ARN, '7.0'), { code: 'NOT_FOUND' });
});
