import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createBudget } from '../engine/index.ts';
import { DomainError } from '../lib/index.ts';
import { bench, count, IDLE, IMAGE } from './test-bench.ts';

const ROOMY = { availableMemoryMiB: () => 100_000, freeDiskMiB: () => 100_000 };
/** For so many of 512 MiB, with what each costs besides. */
function room(forMicrovms: number, gauges = ROOMY) {
  return createBudget({ memoryMiB: forMicrovms * 608, cpus: 100, machines: 100 }, gauges);
}

function isCapacity(error: unknown): boolean {
  return error instanceof DomainError && error.code === 'CAPACITY';
}

describe("the host's capacity", () => {
  it('is refused to whoever comes last, however many come at once', async () => {
    await using b = await bench({ budget: room(5) });
    const outcomes = await Promise.allSettled(
      Array.from({ length: 40 }, () => b.microvms.run({ imageIdentifier: IMAGE })),
    );
    const refused = outcomes.filter((one) => one.status === 'rejected');
    assert.equal(refused.length, 35);
    assert.ok(refused.every(({ reason }) => isCapacity(reason)));
    for (const one of outcomes) if (one.status === 'fulfilled') await b.until(one.value.microvmId, 'RUNNING');
    assert.equal((await b.microvms.list({})).items.length, 5, 'a refused launch leaves no record');
    assert.equal(b.endpoints.filter((line) => line.startsWith('open')).length, 5, 'nor an endpoint');
  });

  it('is given back by a suspend and an end, and asked for again by a resume', async () => {
    await using b = await bench({ budget: room(1) });
    const first = await b.run({ idlePolicy: IDLE });
    await b.until(first, 'RUNNING');
    await assert.rejects(b.run(), isCapacity);
    await b.microvms.suspend(first);
    await b.until(first, 'SUSPENDED');
    const second = await b.run();
    await b.until(second, 'RUNNING');
    await assert.rejects(
      b.microvms.resume(first),
      (error) => error instanceof DomainError && error.code === 'CONFLICT' && /no capacity/.test(error.message),
    );
    await assert.rejects(b.microvms.wake(first, {}), /no capacity/);
    assert.equal((await b.microvms.get(first)).state, 'SUSPENDED', 'it keeps what it had');
    await b.microvms.terminate(second);
    await b.until(second, 'TERMINATED');
    assert.equal(await count(await b.microvms.wake(first, {})), 1);
  });

  it('is not taken by one that ends while it sleeps', async () => {
    const budget = room(1);
    await using b = await bench({ budget });
    const asleep = await b.run({ idlePolicy: IDLE });
    await b.until(asleep, 'RUNNING');
    await b.microvms.suspend(asleep);
    await b.until(asleep, 'SUSPENDED');
    const awake = await b.run();
    await b.until(awake, 'RUNNING');
    const held = b.engine.hold('destroy');
    await b.microvms.terminate(asleep);
    assert.deepEqual([budget.held.machines, budget.held.memoryMiB], [1, 608]);
    held[Symbol.dispose]();
    await b.until(asleep, 'TERMINATED');
    await b.microvms.terminate(awake);
    await b.until(awake, 'TERMINATED');
    assert.equal(budget.held.files, 0);
  });

  it('is not held by what sleeps when a server starts', async () => {
    await using b = await bench({ budget: room(1) });
    const asleep = await b.run({ idlePolicy: IDLE });
    await b.until(asleep, 'RUNNING');
    await b.microvms.suspend(asleep);
    await b.until(asleep, 'SUSPENDED');
    await using again = await b.restart();
    await again.until(await again.run(), 'RUNNING');
    await assert.rejects(again.microvms.resume(asleep), /no capacity/);
  });

  it('is made by suspending who was idle the longest when guests use more than they were promised', async () => {
    let available = 100_000;
    await using b = await bench({
      budget: room(9, { ...ROOMY, availableMemoryMiB: () => available }),
      pressureWatchMs: 1000,
    });
    const [idle, busy] = [await b.run({ idlePolicy: IDLE }), await b.run({ idlePolicy: IDLE })];
    await b.until(idle, 'RUNNING');
    await b.until(busy, 'RUNNING');
    await b.clock.advance(500);
    b.microvms.activity(busy);
    available = 100;
    await b.clock.advance(1000);
    await b.until(idle, 'SUSPENDED');
    assert.equal((await b.microvms.get(busy)).state, 'RUNNING');
    available = 100_000;
    await b.clock.advance(20_000);
    assert.equal((await b.microvms.get(busy)).state, 'RUNNING', 'no more than needed');
  });
});
