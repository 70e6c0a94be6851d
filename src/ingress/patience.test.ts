import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MachineError, TestClock } from '../lib/index.ts';
import { Patience } from './patience.ts';

const REFUSED = new MachineError('failed', 'nothing listens');
const NEVER = new AbortController().signal;

/** How often a port that always refuses is tried, when each attempt takes so long and the machine had served for so long. */
async function attempts(
  eachMs: number,
  servedMs = 0,
  error: Error = REFUSED,
): Promise<{ count: number; untilMs: number }> {
  const clock = new TestClock();
  const startedMs = clock.monotonicMs() - servedMs;
  const patience = new Patience(clock);
  for (let count = 1; ; count++) {
    const underWay = { servedMs: clock.monotonicMs() - startedMs };
    await clock.advance(eachMs);
    let isOver = false;
    const worth = patience.isWorthIt(error, underWay, NEVER).finally(() => {
      isOver = true;
    });
    await clock.advance(0);
    while (!isOver) await clock.advance(5);
    if (!(await worth)) return { count, untilMs: clock.monotonicMs() - startedMs };
  }
}

test('a port that refuses right after the wake is tried for two seconds in a guest that is quick', async () => {
  const { count, untilMs } = await attempts(1);
  assert.ok(count >= 8, String(count));
  assert.ok(untilMs > 1500 && untilMs < 2500, String(untilMs));
});

test('a guest in which each attempt takes long is given as many as a quick one', async () => {
  for (const eachMs of [1000, 5000]) {
    const { count, untilMs } = await attempts(eachMs);
    assert.equal(count, 9);
    assert.ok(untilMs >= 9 * eachMs, String(untilMs));
  }
});

test('a port that refuses long after the wake, and a failure that is no refusal, are not tried again', async () => {
  assert.equal((await attempts(1, 3000)).count, 1);
  assert.equal((await attempts(5000, 3000)).count, 1);
  assert.equal((await attempts(1, 0, new MachineError('timeout', 'too slow'))).count, 1);
});
