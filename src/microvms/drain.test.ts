/** What a suspend does to requests that are under way. */
import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import { test } from 'node:test';
import { type Bench, bench, count, IDLE } from './test-bench.ts';

test('a suspend by API lets a request be answered, but not for ever', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  const exchange = b.microvms.exchange(id);
  await b.microvms.suspend(id);
  await b.clock.advance(59_999);
  assert.equal((await b.microvms.get(id)).state, 'SUSPENDING');
  assert.ok(!b.engine.calls.includes(`suspend ${id}`));
  exchange[Symbol.dispose]();
  await b.until(id, 'SUSPENDED');

  await b.microvms.resume(id);
  await b.until(id, 'RUNNING');
  using _endless = b.microvms.exchange(id);
  await b.microvms.suspend(id);
  await b.clock.advance(60_000);
  await b.until(id, 'SUSPENDED');
});

test('a suspend by API lets an answer end while bytes of it move, and cuts one that fell silent', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  using answer = b.microvms.exchange(id);
  using other = b.microvms.exchange(id);
  answer.answered();
  other.answered();
  await b.microvms.suspend(id);
  for (let i = 0; i < 10; i++) {
    await b.clock.advance(4000);
    answer.active();
  }
  assert.ok(!b.engine.calls.includes(`suspend ${id}`));
  other[Symbol.dispose]();
  await b.clock.advance(5000);
  await b.clock.advance(5000);
  await b.until(id, 'SUSPENDED');
});

test('a suspend by API begins at once when every stream has been silent for long', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  using stream = b.microvms.exchange(id);
  stream.answered();
  await b.clock.advance(5000);
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
});

/** An idle microVM whose suspend has been written down and waits for its turn, until disposed. */
async function waitingForItsTurn(b: Bench): Promise<{ id: string } & Disposable> {
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  const others = await Promise.all(Array.from({ length: 2 * availableParallelism() }, () => b.run()));
  for (const other of others) await b.until(other, 'RUNNING');
  await b.clock.advance(IDLE.maxIdleDurationSeconds * 1000 - 1);
  const gate = b.engine.hold('suspend');
  for (const other of others) await b.microvms.suspend(other);
  while (others.some((other) => !b.engine.calls.includes(`suspend ${other}`))) await b.clock.advance(0);
  await b.clock.advance(1);
  await b.until(id, 'SUSPENDING');
  return { id, [Symbol.dispose]: () => gate[Symbol.dispose]() };
}

test('a suspend for idleness is called off when traffic comes before its turn', async () => {
  await using b = await bench();
  const { id, [Symbol.dispose]: go } = await waitingForItsTurn(b);
  const woken = b.microvms.wake(id, {});
  await b.clock.advance(0);
  go();
  assert.equal(await count(await woken), 1);
  const { state, stateReason } = await b.microvms.get(id);
  assert.deepEqual([state, stateReason], ['RUNNING', null]);
  assert.ok(!b.engine.calls.includes(`suspend ${id}`));
  await b.clock.advance(IDLE.maxIdleDurationSeconds * 1000);
  await b.until(id, 'SUSPENDED');
});

test('a suspend for idleness is called off when bytes moved on what was open before its turn', async () => {
  await using b = await bench();
  const { id, [Symbol.dispose]: go } = await waitingForItsTurn(b);
  b.microvms.activity(id);
  go();
  await b.until(id, 'RUNNING');
  assert.ok(!b.engine.calls.includes(`suspend ${id}`));
});

test('a suspend by API stands, also when the microVM was about to be suspended for idleness', async () => {
  await using b = await bench();
  const { id, [Symbol.dispose]: go } = await waitingForItsTurn(b);
  b.microvms.activity(id);
  await b.microvms.suspend(id);
  go();
  await b.until(id, 'SUSPENDED');
});
