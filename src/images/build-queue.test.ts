import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { BuildFailure, createBudget } from '../engine/index.ts';
import { ARN, type Bench, bench, INPUT } from './test-bench.ts';

const ROOMY = { availableMemoryMiB: () => 100_000, freeDiskMiB: () => 100_000 };
/** A build's share: the builder's memory and what its VMM takes besides. */
const BUILD_MIB = 2048 + 96;
const OTHER = { memoryMiB: 512, cpus: 0.25 };

function room(memoryMiB: number, gauges = ROOMY) {
  return createBudget({ memoryMiB, cpus: 100, machines: 100 }, gauges);
}

const isWaiting = (b: Bench) => said(b, (text) => text.includes('waiting for room'));

/** Follows the log of `demo` until it says so. */
async function said(b: Bench, isIt: (text: string) => boolean): Promise<string> {
  let text = '';
  const stop = new AbortController();
  for await (const chunk of b.images.buildLog(ARN, '1.0', { follow: true, signal: stop.signal })) {
    text += chunk.toString();
    if (isIt(text)) stop.abort();
  }
  return text;
}

const stateOf = async (b: Bench, name = 'demo') => (await b.images.getVersion(ARN.replace('demo', name), '1.0')).state;

describe('a build on a full host', () => {
  it('waits PENDING, says for what, and has a share only while it works', async () => {
    const budget = room(BUILD_MIB);
    await using b = await bench({ budget });
    budget.take('microvm-1', OTHER);
    await b.images.create(INPUT);
    assert.match(await isWaiting(b), /waiting for room on this host: 608 of 2144 MiB memory are promised/);
    assert.equal(await stateOf(b), 'PENDING');
    assert.equal((await b.images.listBuilds(ARN, '1.0', {})).items[0]?.buildState, 'PENDING');
    const held = b.engine.hold('build');
    budget.release('microvm-1');
    await said(b, (text) => text.includes('building the container image'));
    assert.equal(await stateOf(b), 'IN_PROGRESS');
    assert.deepEqual([budget.held.machines, budget.held.memoryMiB], [1, BUILD_MIB]);
    held[Symbol.dispose]();
    await b.built();
    assert.equal(await stateOf(b), 'SUCCESSFUL');
    assert.equal(budget.held.machines, 0);
  });

  it('gives its share back when it fails', async () => {
    const budget = room(BUILD_MIB);
    await using b = await bench({ budget });
    for (const operation of ['build', 'seal'] as const) {
      b.engine.failNext(operation, new BuildFailure('dockerfile-failed', 'failed'));
      await b.images.create({ ...INPUT, name: operation });
      await b.built(operation);
      assert.equal(await stateOf(b, operation), 'FAILED');
      assert.equal(budget.held.memoryMiB, 0);
    }
  });

  it('is begun in the order of the calls', async () => {
    const budget = room(BUILD_MIB);
    await using b = await bench({ budget, concurrentBuilds: 3 });
    budget.take('microvm-1', OTHER);
    for (const name of ['demo', 'two', 'three']) await b.images.create({ ...INPUT, name });
    await isWaiting(b);
    budget.release('microvm-1');
    for (const name of ['demo', 'two', 'three']) await b.built(name);
    const begun = b.engine.calls.filter((call) => call.startsWith('seal '));
    assert.equal(begun.length, 3);
    assert.equal(budget.held.machines, 0);
    const ends = await Promise.all(['demo', 'two', 'three'].map((name) => stateOf(b, name)));
    assert.deepEqual(ends, ['SUCCESSFUL', 'SUCCESSFUL', 'SUCCESSFUL']);
  });

  it('fails at once, with the reason, where there never will be room', async () => {
    for (const [budget, reason] of [
      [room(1000), /^INTERNAL_PLATFORM_ERROR: .*needs 2144 MiB memory, and 1000 is all .*--memory-budget/],
      [room(9000, { ...ROOMY, freeDiskMiB: () => 2500 }), /^INTERNAL_PLATFORM_ERROR: .*only 2500 MiB disk are free/],
    ] as const) {
      await using b = await bench({ budget });
      await b.images.create(INPUT);
      await b.built();
      assert.equal((await b.images.get(ARN)).state, 'CREATE_FAILED');
      assert.match((await b.images.listBuilds(ARN, '1.0', {})).items[0]?.stateReason ?? '', reason);
      assert.equal(b.engine.calls.length, 0, 'nothing was started');
    }
  });

  it('fails before it unpacks an artifact that the disk has no room for', async () => {
    const budget = room(9000, { ...ROOMY, freeDiskMiB: () => 3100 });
    await using b = await bench({ budget });
    // Unpacked, archived for the builder and unpacked there: 90 MiB, and 3072 are spoken for.
    await b.put('big.zip', { Dockerfile: 'FROM base\n', big: 'x'.repeat(30 * 1024 ** 2) });
    await b.images.create({ ...INPUT, codeArtifact: { uri: 's3://code/big.zip' } });
    await b.built();
    const reason = (await b.images.listBuilds(ARN, '1.0', {})).items[0]?.stateReason ?? '';
    assert.match(
      reason,
      /^INTERNAL_PLATFORM_ERROR: This host has no capacity for a build: only 3100 MiB .*, and 3163 are needed/,
    );
    assert.equal(b.engine.calls.length, 0, 'nothing was started');
    assert.equal(budget.held.machines, 0);
  });

  it('is given up after an hour', async () => {
    const budget = room(BUILD_MIB);
    await using b = await bench({ budget });
    budget.take('microvm-1', OTHER);
    await b.images.create(INPUT);
    await isWaiting(b);
    await b.clock.advance(3_600_000);
    await b.built();
    assert.equal(await stateOf(b), 'FAILED');
    assert.equal(budget.held.machines, 1);
  });

  it('is still to be done when the server stops, and the next one does it', async () => {
    const budget = room(BUILD_MIB);
    await using before = await bench({ budget });
    budget.take('microvm-1', OTHER);
    await before.images.create(INPUT);
    await isWaiting(before);
    const coming = before.restart();
    await using after = await coming;
    await isWaiting(after);
    assert.equal(await stateOf(after), 'PENDING');
    budget.release('microvm-1');
    await after.built();
    assert.equal(await stateOf(after), 'SUCCESSFUL');
  });
});
