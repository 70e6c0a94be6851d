import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { describe, it } from 'node:test';
import { BuildFailure, createBudget, type FakeOperation } from '../engine/index.ts';
import { ARN, type Bench, bench, INPUT } from './test-bench.ts';

const UPDATE = { imageIdentifier: ARN, ...INPUT };
const OTHER = { memoryMiB: 512, cpus: 0.25 };

/** Follows the log of `demo` until it says so. */
async function said(b: Bench, text: string, version = '1.0', arn = ARN): Promise<void> {
  let log = '';
  const stop = new AbortController();
  for await (const chunk of b.images.buildLog(arn, version, { follow: true, signal: stop.signal })) {
    log += chunk.toString();
    if (log.includes(text)) stop.abort();
  }
  assert.ok(log.includes(text), log);
}

/** A removal is no call that can be waited for; with the fake engine it is quick. */
async function gone(b: Bench, what: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await what();
    } catch {
      return;
    }
    await b.clock.advance(100);
  }
}

async function nothingIsLeft(b: Bench): Promise<void> {
  for (const folder of ['builds', 'images', 'logs/builds']) {
    const left = await readdir(path.join(b.stateDir, folder)).catch(() => []);
    assert.deepEqual(left, [], folder);
  }
}

describe('deleting what is being built', () => {
  for (const operation of ['build', 'seal'] as const satisfies readonly FakeOperation[]) {
    it(`calls the build off during its ${operation}, and nothing of the image is left`, async () => {
      const budget = createBudget(
        { memoryMiB: 9000, cpus: 8, machines: 8 },
        { availableMemoryMiB: () => 1e5, freeDiskMiB: () => 1e5 },
      );
      await using b = await bench({ budget });
      b.engine.hold(operation);
      await b.images.create(INPUT);
      await said(b, operation === 'build' ? 'building the container image' : 'starting the application');
      assert.deepEqual(await b.images.delete(ARN), { imageIdentifier: ARN, state: 'DELETING' });
      await gone(b, () => b.images.get(ARN));
      await nothingIsLeft(b);
      assert.equal(budget.held.machines, 0);
      await b.images.create({ ...INPUT, name: 'next' });
    });
  }

  it('takes a build that waits in the queue or for the host out of it', async () => {
    const budget = createBudget(
      { memoryMiB: 2144, cpus: 8, machines: 8 },
      { availableMemoryMiB: () => 1e5, freeDiskMiB: () => 1e5 },
    );
    await using b = await bench({ budget });
    budget.take('microvm-1', OTHER);
    for (const name of ['demo', 'queued', 'third']) await b.images.create({ ...INPUT, name });
    await said(b, 'waiting for room');
    for (const name of ['queued', 'demo']) {
      const arn = ARN.replace('demo', name);
      await b.images.delete(arn);
      await gone(b, () => b.images.get(arn));
    }
    budget.release('microvm-1');
    await b.built('third');
    assert.equal((await b.images.get(ARN.replace('demo', 'third'))).state, 'CREATED');
    assert.deepEqual(
      b.engine.calls.filter((call) => call.startsWith('build ')).length,
      1,
      'the two that were called off began nothing',
    );
  });

  it('as a version leaves the good version before it in charge', async () => {
    await using b = await bench();
    await b.images.create(INPUT);
    await b.built();
    b.engine.hold('build');
    await b.images.update(UPDATE);
    await said(b, 'building the container image', '2.0');
    assert.equal((await b.images.deleteVersion(ARN, '2.0')).state, 'DELETING');
    await gone(b, () => b.images.getVersion(ARN, '2.0'));
    const image = await b.images.get(ARN);
    assert.deepEqual([image.state, image.latestActiveImageVersion], ['UPDATED', '1.0']);
    assert.equal((await b.images.resolve(ARN)).imageVersion, '1.0');
    assert.deepEqual(await readdir(path.join(b.stateDir, 'images/demo')), ['1.0']);
  });

  it('is taken up by the next server when this one is killed meanwhile', async () => {
    await using before = await bench();
    before.engine.hold('build');
    const deleteSnapshot = before.engine.deleteSnapshot.bind(before.engine);
    let calls = 0;
    // The build's own clearing up comes first, then the removal that this server does not get through with.
    before.engine.deleteSnapshot = (dir) => (calls++ === 0 ? deleteSnapshot(dir) : new Promise(() => {}));
    await before.images.create(INPUT);
    await said(before, 'building the container image');
    await before.images.delete(ARN);
    await using after = await before.restart();
    await gone(after, () => after.images.get(ARN));
    await nothingIsLeft(after);
  });

  it('waits for the end of the build’s machine before anything is said to be gone', async () => {
    await using b = await bench();
    const calledOff = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<void>();
    b.engine.build = async (_request, { signal }) => {
      await once(signal ?? AbortSignal.abort(), 'abort');
      calledOff.resolve();
      await ended.promise;
      throw signal?.reason;
    };
    await b.images.create(INPUT);
    await said(b, 'building the container image');
    await b.images.delete(ARN);
    await calledOff.promise;
    for (let i = 0; i < 5; i++) await b.clock.advance(100);
    assert.equal((await b.images.get(ARN)).state, 'DELETING');
    assert.equal((await readdir(path.join(b.stateDir, 'builds'))).length, 1, 'its work folder is still its own');
    ended.resolve();
    await gone(b, () => b.images.get(ARN));
    await nothingIsLeft(b);
  });

  it('ends what follows its log', async () => {
    await using b = await bench();
    b.engine.hold('build');
    await b.images.create(INPUT);
    await said(b, 'building the container image');
    const log = b.built();
    await b.images.delete(ARN);
    assert.match(await log, /called off: its version is being deleted/);
  });
});

describe('the time of a build', () => {
  it('is limited, and the reason says how', async () => {
    await using b = await bench();
    b.engine.hold('build');
    await b.images.create(INPUT);
    await said(b, 'building the container image');
    await b.clock.advance(3_600_000);
    await b.built();
    const [build] = (await b.images.listBuilds(ARN, '1.0', {})).items;
    assert.equal(build?.stateReason, 'The container image build timed out after PT1H');
    await nothingIsLeft(b).catch(() => {});
    assert.deepEqual(await readdir(path.join(b.stateDir, 'builds')), []);
  });
});

describe('builds of several principals', () => {
  const by = (name: string) => `arn:aws:iam::000000000000:user/${name}`;

  it('take turns, however many one of them asked for', async () => {
    await using b = await bench();
    const held = b.engine.hold('build');
    for (const name of ['a1', 'a2', 'a3', 'b1']) {
      await b.images.create({ ...INPUT, name, principal: by(name.slice(0, 1)) });
    }
    await said(b, 'building the container image', '1.0', ARN.replace('demo', 'a1'));
    held[Symbol.dispose]();
    const order: string[] = [];
    await Promise.all(['a1', 'a2', 'a3', 'b1'].map((name) => b.built(name).then(() => order.push(name))));
    assert.deepEqual(order, ['a1', 'b1', 'a2', 'a3']);
  });

  it('have caches of their own', async () => {
    await using b = await bench();
    const owners: string[] = [];
    const build = b.engine.build.bind(b.engine);
    b.engine.build = (request, options) => {
      owners.push(request.cacheOwner);
      return build(request, options);
    };
    const session = 'arn:aws:sts::000000000000:assumed-role/ci';
    for (const [name, principal] of [
      ['one', by('ann')],
      ['two', `${session}/1`],
      ['three', `${session}/2`],
    ] as const) {
      await b.images.create({ ...INPUT, name, principal });
      await b.built(name);
    }
    assert.deepEqual(owners, [by('ann'), session, session]);
  });
});

it('a failed update leaves the good version in charge, and the next build works', async () => {
  await using b = await bench();
  await b.images.create(INPUT);
  await b.built();
  b.engine.failNext('build', new BuildFailure('dockerfile-failed', 'failed'));
  await b.images.update(UPDATE);
  await b.built('demo', '2.0');
  assert.equal((await b.images.resolve(ARN)).imageVersion, '1.0');
  await b.images.update(UPDATE);
  await b.built('demo', '3.0');
  assert.equal((await b.images.resolve(ARN)).imageVersion, '3.0');
});
