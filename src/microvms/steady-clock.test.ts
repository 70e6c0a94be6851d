import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { silentLogger, TestClock } from '../lib/index.ts';
import { openStore, type Store } from '../store/index.ts';
import { openSteadyClock } from './steady-clock.ts';
import { bench, IDLE } from './test-bench.ts';

const HOUR_MS = 3_600_000;

async function withStore(work: (store: Store, clock: TestClock) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-steady-'));
  try {
    await using store = await openStore(path.join(dir, 'store.sqlite'));
    await work(store, new TestClock());
  } finally {
    await rm(dir, { recursive: true });
  }
}

/** Elapsed time between two moments, the first under a server that is stopped then or, when `killed`, is not. */
async function elapsed(
  options: { killed?: boolean },
  first: (clock: TestClock) => Promise<void> | void,
  between: (clock: TestClock) => Promise<void> | void,
): Promise<number> {
  let passed = Number.NaN;
  await withStore(async (store, clock) => {
    const before = await openSteadyClock(store, clock, silentLogger);
    await before.start();
    const startedAt = before.now();
    await first(clock);
    if (options.killed !== true) await before[Symbol.asyncDispose]();
    await between(clock);
    await using after = await openSteadyClock(store, clock, silentLogger);
    await after.start();
    passed = after.now() - startedAt;
  });
  return passed;
}

const nothing = () => {};

test('it begins as the wall clock and goes on by the time that passes', async () => {
  await withStore(async (store, clock) => {
    await using steady = await openSteadyClock(store, clock, silentLogger);
    assert.equal(steady.now(), clock.now());
    await clock.advance(1234);
    assert.equal(steady.now(), clock.now());
  });
});

test('steps of the wall clock, either way, change nothing', async () => {
  for (const killed of [true, false]) {
    for (const step of [-48 * HOUR_MS, -2000, 2000, 48 * HOUR_MS]) {
      const passed = await elapsed(
        { killed },
        async (clock) => {
          await clock.advance(1000);
          clock.jump(step);
          await clock.advance(1000);
        },
        (clock) => clock.jump(-step / 2),
      );
      assert.equal(passed, 2000, `${step}`);
    }
  }
});

test('it runs while the host sleeps and while no server does', async () => {
  for (const killed of [true, false]) {
    const passed = await elapsed(
      { killed },
      (clock) => clock.sleepHost(HOUR_MS),
      async (clock) => {
        await clock.advance(5000);
        clock.sleepHost(HOUR_MS);
      },
    );
    assert.equal(passed, 2 * HOUR_MS + 5000);
  }
});

test('over a boot of the host it counts by the wall clock, and never backwards', async () => {
  assert.equal(await elapsed({}, nothing, (clock) => clock.rebootHost(HOUR_MS)), HOUR_MS);
  const behind = (clock: TestClock) => {
    clock.rebootHost(HOUR_MS);
    clock.jump(-20 * 365 * 24 * HOUR_MS);
  };
  assert.equal(await elapsed({}, nothing, behind), 0);
});

test('a step of the wall clock that was seen does not count as time off at the next boot', async () => {
  const set = async (clock: TestClock) => {
    clock.jump(48 * HOUR_MS);
    await clock.advance(61_000);
  };
  assert.equal(await elapsed({ killed: true }, set, (clock) => clock.rebootHost(1000)), 62_000);
});

test('a container that starts anew within one boot of its host does not turn time back', async () => {
  await withStore(async (store, clock) => {
    const first = await openSteadyClock(store, clock, silentLogger);
    await clock.advance(HOUR_MS);
    await first[Symbol.asyncDispose]();
    const before = first.now();
    const { bootId } = clock.sinceBoot();
    // Its time begins at zero, under the same id.
    const anew = Object.assign(new TestClock({ startAtMs: clock.now() + 5000 }), {
      sinceBoot: () => ({ bootId, ms: 1 }),
    });
    await using second = await openSteadyClock(store, anew, silentLogger);
    assert.equal(second.now(), before + 5000);
  });
});

test('a wall clock that is set ends no microVM early and none late', async () => {
  for (const step of [9 * HOUR_MS, -9 * HOUR_MS]) {
    await using b = await bench();
    const running = await b.run({ maximumDurationInSeconds: 600 });
    const asleep = await b.run({ idlePolicy: IDLE });
    await b.until(running, 'RUNNING');
    await b.until(asleep, 'RUNNING');
    await b.microvms.suspend(asleep);
    await b.until(asleep, 'SUSPENDED');
    b.clock.jump(step);
    await b.clock.advance(119_000);
    await b.until(asleep, 'SUSPENDED');
    await b.clock.advance(1000);
    await b.until(asleep, 'TERMINATED');
    await b.clock.advance(479_000);
    await b.until(running, 'RUNNING');
    await b.clock.advance(1000);
    await b.until(running, 'TERMINATED');
    const view = await b.microvms.get(running);
    assert.equal(view.terminatedAt, b.clock.now());
  }
});

test('a token keeps its life over restarts and steps of the wall clock', async () => {
  const before = await bench();
  const id = await before.run();
  await before.until(id, 'RUNNING');
  const token = await before.microvms.createAuthToken({
    microvmIdentifier: id,
    expirationInMinutes: 10,
    allowedPorts: [{ allPorts: {} }],
  });
  const { clock } = before;
  clock.jump(5 * HOUR_MS);
  await using after = await before.restart();
  clock.jump(-10 * HOUR_MS);
  await clock.advance(9 * 60_000);
  assert.equal((await after.microvms.verifyToken(token)).kind, 'valid');
  await clock.advance(60_000);
  assert.equal((await after.microvms.verifyToken(token)).kind, 'expired');
});

test('a host that sleeps does not make its microVMs idle', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  await b.clock.advance(30_000);
  b.clock.sleepHost(HOUR_MS);
  await b.clock.advance(29_000);
  await b.until(id, 'RUNNING');
  await b.clock.advance(1000);
  await b.until(id, 'SUSPENDED');
});
