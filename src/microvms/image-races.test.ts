/** Launches beside the deletion, deactivation, update and build of what they are launched from. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { arnOf, imageInput, type Rooms, rooms } from './test-rooms.ts';

const ARN = arnOf('demo');
const { name: _name, ...CONFIG } = imageInput('demo');
const UPDATE = { ...CONFIG, imageIdentifier: ARN };

const run = (b: Rooms, imageVersion?: string) =>
  b.microvms.run({ imageIdentifier: ARN, ...(imageVersion !== undefined && { imageVersion }) });

async function isGone(b: Rooms): Promise<boolean> {
  return (await b.images.list({})).items.length === 0;
}

async function hasState(b: Rooms, id: string, state: string): Promise<boolean> {
  return (await b.microvms.get(id)).state === state;
}

/** Two versions, the second the latest. */
async function builtTwice(b: Rooms): Promise<void> {
  await b.build('demo');
  await b.clock.advance(1);
  await b.images.update(UPDATE);
  await b.built(ARN, '2.0');
}

describe('an image that is deleted while it is launched', () => {
  it('loses to a launch that was accepted, and that one runs', async () => {
    await using b = await rooms();
    await b.build('demo');
    const held = b.engine.hold('launch');
    const { microvmId } = await run(b);
    await assert.rejects(b.images.delete(ARN), { code: 'INVALID', message: /running microvms/ });
    held[Symbol.dispose]();
    await b.until('it runs', () => hasState(b, microvmId, 'RUNNING'));
    assert.equal((await b.images.get(ARN)).state, 'CREATED');
  });

  it('and the launch, both at once: one of the two is done, never half of each', async () => {
    let deleted = 0;
    for (let turns = 0; turns < 12; turns++) {
      await using b = await rooms();
      await b.build('demo');
      const launching = afterTurns(turns, () => run(b));
      const deleting = afterTurns(11 - turns, () => b.images.delete(ARN));
      const [launch, removal] = await Promise.allSettled([launching, deleting]);
      assert.notEqual(launch.status, removal.status, `${turns}: ${JSON.stringify([launch, removal])}`);
      if (launch.status === 'fulfilled') {
        await b.until('it runs', () => hasState(b, launch.value.microvmId, 'RUNNING'));
        assert.equal((await b.images.get(ARN)).state, 'CREATED');
      } else {
        deleted++;
        assert.equal(launch.reason.code, 'NOT_FOUND');
        await b.until('the image is gone', () => isGone(b));
        assert.deepEqual((await b.microvms.list({})).items, []);
        assert.equal(b.engine.machines.size, 0);
        await assert.rejects(run(b), { code: 'NOT_FOUND' }, 'it does not come back');
      }
    }
    assert.ok(deleted > 0 && deleted < 12, `${deleted} of 12 were deleted: both ends were met`);
  });

  it('can be deleted once the last of its microVMs has ended, and no later resume brings one back', async () => {
    await using b = await rooms();
    await b.build('demo');
    const policy = { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 900, autoResumeEnabled: true };
    const { microvmId } = await b.microvms.run({ imageIdentifier: ARN, idlePolicy: policy });
    await b.until('it runs', () => hasState(b, microvmId, 'RUNNING'));
    await b.microvms.suspend(microvmId);
    await b.until('it sleeps', () => hasState(b, microvmId, 'SUSPENDED'));
    await assert.rejects(b.images.delete(ARN), { code: 'INVALID' });
    const held = b.engine.hold('resume');
    await b.microvms.resume(microvmId);
    await b.microvms.terminate(microvmId);
    await assert.rejects(b.images.delete(ARN), { code: 'INVALID' }, 'what ends may still have its snapshot open');
    held[Symbol.dispose]();
    await b.until('it has ended', () => hasState(b, microvmId, 'TERMINATED'));
    await b.images.delete(ARN);
    await b.until('the image is gone', () => isGone(b));
    await assert.rejects(b.microvms.resume(microvmId), { code: /CONFLICT|INVALID/ });
    await assert.rejects(b.microvms.wake(microvmId, {}), { code: 'CONFLICT' });
    assert.equal(b.engine.machines.size, 0);
  });
});

describe('a version that is taken away while it is launched', () => {
  it('lets a launch finish that was accepted before it was deactivated, and refuses the next', async () => {
    await using b = await rooms();
    await b.build('demo');
    const held = b.engine.hold('launch');
    const { microvmId } = await run(b);
    await b.images.updateVersion(ARN, '1.0', 'INACTIVE');
    await assert.rejects(run(b), { code: 'NOT_FOUND' });
    held[Symbol.dispose]();
    await b.until('it runs', () => hasState(b, microvmId, 'RUNNING'));
  });

  it('and the launch, both at once: what was accepted runs, what was not left nothing', async () => {
    let accepted = 0;
    for (let turns = 0; turns < 12; turns++) {
      await using b = await rooms();
      await b.build('demo');
      const launching = afterTurns(turns, () => run(b));
      const deactivating = afterTurns(11 - turns, () => b.images.updateVersion(ARN, '1.0', 'INACTIVE'));
      const [launch, change] = await Promise.allSettled([launching, deactivating]);
      assert.equal(change.status, 'fulfilled');
      if (launch.status === 'fulfilled') {
        accepted++;
        await b.until('it runs', () => hasState(b, launch.value.microvmId, 'RUNNING'));
      } else {
        assert.equal(launch.reason.code, 'NOT_FOUND');
        assert.deepEqual((await b.microvms.list({})).items, []);
      }
      await assert.rejects(run(b), { code: 'NOT_FOUND' });
    }
    assert.ok(accepted > 0 && accepted < 12, `${accepted} of 12 were accepted: both ends were met`);
  });

  it('runs on and comes back from a suspend though it is INACTIVE', async () => {
    await using b = await rooms();
    await b.build('demo');
    const policy = { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 900, autoResumeEnabled: true };
    const { microvmId } = await b.microvms.run({ imageIdentifier: ARN, idlePolicy: policy });
    await b.until('it runs', () => hasState(b, microvmId, 'RUNNING'));
    await b.images.updateVersion(ARN, '1.0', 'INACTIVE');
    await b.microvms.suspend(microvmId);
    await b.until('it sleeps', () => hasState(b, microvmId, 'SUSPENDED'));
    await b.microvms.resume(microvmId);
    await b.until('it is back', () => hasState(b, microvmId, 'RUNNING'));
  });

  it('is not deleted under a launch; the launch of the latest one goes to what is left when it is', async () => {
    await using b = await rooms();
    await builtTwice(b);
    const held = b.engine.hold('launch');
    const { microvmId, imageVersion } = await run(b, '1.0');
    assert.equal(imageVersion, '1.0');
    await assert.rejects(b.images.deleteVersion(ARN, '1.0'), { code: 'INVALID', message: /running microvms/ });
    await b.images.deleteVersion(ARN, '2.0');
    await assert.rejects(run(b, '2.0'), { code: 'NOT_FOUND' });
    held[Symbol.dispose]();
    await b.until('it runs', () => hasState(b, microvmId, 'RUNNING'));
    await b.until('the version is gone', async () => (await b.images.get(ARN)).state === 'UPDATED');
    assert.equal((await run(b)).imageVersion, '1.0');
    await assert.rejects(b.images.getVersion(ARN, '2.0'), { code: 'NOT_FOUND' });
  });
});

describe('an image that is deleted or updated while it changes', () => {
  it('calls its build off when it is deleted, and no end of that build brings it back', async () => {
    await using b = await rooms();
    const held = b.engine.hold('seal');
    await b.images.create(imageInput('demo'));
    await b.images.delete(ARN);
    held[Symbol.dispose]();
    await b.until('the image is gone', () => isGone(b));
    assert.deepEqual(b.engine.disk.snapshots.size, 0);
    await assert.rejects(b.images.get(ARN), { code: 'NOT_FOUND' });
  });

  it('takes no update once it is being deleted, and its name is free only when it is gone', async () => {
    await using b = await rooms();
    await b.build('demo');
    const open = Promise.withResolvers<void>();
    const deleteSnapshot = b.engine.deleteSnapshot.bind(b.engine);
    b.engine.deleteSnapshot = async (dir) => {
      await open.promise;
      await deleteSnapshot(dir);
    };
    await b.images.delete(ARN);
    await assert.rejects(b.images.update(UPDATE), { code: 'CONFLICT' });
    await assert.rejects(b.images.updateVersion(ARN, '1.0', 'ACTIVE'), { code: 'CONFLICT' });
    await assert.rejects(b.images.create(imageInput('demo')), { code: 'INVALID', message: /already exists/ });
    open.resolve();
    await b.until('the image is gone', () => isGone(b));
    await b.build('demo');
    const { microvmId } = await run(b);
    await b.until('the new one runs', () => hasState(b, microvmId, 'RUNNING'));
  });

  it('and both at once: the deletion is done, whether or not the update was begun', async () => {
    let begun = 0;
    for (let turns = 0; turns < 12; turns++) {
      await using b = await rooms();
      await b.build('demo');
      const updating = afterTurns(turns, () => b.images.update(UPDATE));
      const deleting = afterTurns(11 - turns, () => b.images.delete(ARN));
      const [update, removal] = await Promise.allSettled([updating, deleting]);
      assert.equal(removal.status, 'fulfilled');
      if (update.status === 'fulfilled') begun++;
      await b.until('the image is gone', () => isGone(b));
      assert.deepEqual(b.engine.disk.snapshots.size, 0);
    }
    assert.ok(begun > 0 && begun < 12, `${begun} of 12 updates were begun: both ends were met`);
  });
});

/** So many steps of promises later. */
async function afterTurns<T>(turns: number, work: () => Promise<T>): Promise<T> {
  for (let i = 0; i < turns; i++) await Promise.resolve();
  return work();
}
