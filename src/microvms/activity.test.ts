import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createBudget } from '../engine/index.ts';
import { bench, IDLE } from './test-bench.ts';

const LIMIT_MS = IDLE.maxIdleDurationSeconds * 1000;

test('a request that waits for its answer keeps its microVM awake; once answered, silence counts', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  await b.microvms.wake(id, {});
  using slow = b.microvms.exchange(id);
  await b.clock.advance(10 * LIMIT_MS);
  assert.equal((await b.microvms.get(id)).state, 'RUNNING');
  slow.answered();
  b.microvms.activity(id);
  await b.clock.advance(LIMIT_MS - 1);
  assert.equal((await b.microvms.get(id)).state, 'RUNNING');
  await b.clock.advance(5001);
  await b.until(id, 'SUSPENDED');
});

test('bytes keep a microVM awake, an open stream without any does not', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  using stream = b.microvms.exchange(id);
  stream.answered();
  for (let i = 0; i < 10; i++) {
    await b.clock.advance(LIMIT_MS / 2);
    b.microvms.activity(id);
  }
  assert.equal((await b.microvms.get(id)).state, 'RUNNING');
  await b.clock.advance(LIMIT_MS);
  await b.until(id, 'SUSPENDED');
});

test('a request whose client went without an answer keeps nothing awake', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  const gone = b.microvms.exchange(id);
  await b.clock.advance(2 * LIMIT_MS);
  gone[Symbol.dispose]();
  await b.clock.advance(5000);
  await b.until(id, 'SUSPENDED');
});

test('an exchange knows for how long its machine had served, from its last wake on', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  await b.clock.advance(3000);
  const served = () => {
    using exchange = b.microvms.exchange(id);
    return exchange.servedMs;
  };
  assert.equal(served(), 3000);
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  await b.microvms.wake(id, {});
  assert.equal(served(), 0);
});

test('a suspend that memory forces lets a request in flight end, within bounds', async () => {
  let availableMemoryMiB = 100_000;
  await using b = await bench({
    pressureWatchMs: 1000,
    budget: createBudget(
      { memoryMiB: 100_000, cpus: 100, machines: 100 },
      { availableMemoryMiB: () => availableMemoryMiB, freeDiskMiB: () => 100_000 },
    ),
  });
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  using _inFlight = b.microvms.exchange(id);
  availableMemoryMiB = 1;
  await b.clock.advance(1000);
  assert.equal((await b.microvms.get(id)).state, 'SUSPENDING');
  assert.ok(!b.engine.calls.includes(`suspend ${id}`));
  await b.clock.advance(5000);
  await b.until(id, 'SUSPENDED');
});
