/** Machines of a killed server whose VMM stands still when the next one starts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { freeze } from '../engine/index.ts';
import type { Hooks } from '../images/index.ts';
import { type Bench, bench, count, IDLE } from './test-bench.ts';

const SILENT = 'The MicroVM did not answer after the server was started again.';
const hooks: Hooks = { port: 9000, microvmHooks: { terminate: 'ENABLED', terminateTimeoutInSeconds: 2 } };

/** A server on a host with one machine that stands still and `others` that do not. */
async function startedOver(others: number, setup: Parameters<typeof bench>[0] = {}) {
  const before = await bench({ ...setup, engine: { adopts: true } });
  const ids: string[] = [];
  for (let i = 0; i <= others; i++) {
    const id = await before.run({ idlePolicy: IDLE });
    await before.until(id, 'RUNNING');
    if (setup.hooks === undefined) assert.equal(await count(await before.microvms.wake(id, {})), 1);
    ids.push(id);
  }
  const [frozen = '', ...rest] = ids;
  const thaw = freeze(before.engine.disk, frozen);
  const after = await before.kill();
  await after.clock.advance(0);
  return { after, frozen, others: rest, thaw };
}

async function stateOf(b: Bench, id: string) {
  const { state, stateReason } = await b.microvms.get(id);
  return [state, stateReason];
}

test('a machine that does not answer holds up neither the start nor others, and serves once it answers', async () => {
  const { after, frozen, others, thaw } = await startedOver(2);
  await using _after = after;
  for (const id of others) assert.equal(await count(await after.microvms.wake(id, {})), 2);
  assert.deepEqual(await stateOf(after, frozen), ['RUNNING', null]);
  const held = after.microvms.wake(frozen, {});
  await after.clock.advance(20_000);
  thaw[Symbol.dispose]();
  assert.equal(await count(await held), 2);
});

test('more machines that do not answer than are taken over at once do not keep others from it', async () => {
  const before = await bench({ engine: { adopts: true } });
  const ids: string[] = [];
  for (let i = 0; i < 40; i++) ids.push(await before.run());
  for (const id of ids) await before.until(id, 'RUNNING');
  const answering = new Set(ids.toSorted().slice(-3));
  for (const id of ids) if (!answering.has(id)) freeze(before.engine.disk, id);
  await using after = await before.kill();
  const held = Promise.all([...answering].map((id) => after.microvms.wake(id, {})));
  await after.clock.advance(3000);
  for (const machine of await held) assert.equal(await count(machine), 1);
});

test('a machine that stays silent is ended after a minute, and its microVM says so', async () => {
  const { after, frozen, others } = await startedOver(1);
  await using _after = after;
  const refused = assert.rejects(after.microvms.wake(frozen, {}), { code: 'CONFLICT', message: /has ended/ });
  await after.clock.advance(59_000);
  assert.deepEqual(await stateOf(after, frozen), ['RUNNING', null]);
  await after.clock.advance(7000);
  assert.deepEqual(await stateOf(after, frozen), ['TERMINATED', SILENT]);
  await refused;
  assert.deepEqual(await after.engine.residue(), others);
});

test('a suspend waits for the machine and is done when it answers, or ends with it', async () => {
  for (const answers of [true, false]) {
    const { after, frozen, thaw } = await startedOver(0);
    await using _after = after;
    await after.microvms.suspend(frozen);
    await after.clock.advance(30_000);
    assert.deepEqual(await stateOf(after, frozen), ['SUSPENDING', null]);
    if (answers) thaw[Symbol.dispose]();
    await after.clock.advance(40_000);
    assert.deepEqual(await stateOf(after, frozen), answers ? ['SUSPENDED', null] : ['TERMINATED', SILENT]);
    const adopted = after.engine.calls.filter((call) => call.startsWith('adopt'));
    assert.deepEqual(adopted, [`adopt ${frozen}`], 'taken over once');
    if (answers) assert.equal(await count(await after.microvms.wake(frozen, {})), 2);
  }
});

test('a terminate gives the machine a moment to hear of it, then ends it', async () => {
  for (const answers of [true, false]) {
    const { after, frozen, thaw } = await startedOver(0, { hooks });
    await using _after = after;
    await after.microvms.terminate(frozen);
    await after.clock.advance(4000);
    assert.equal((await after.microvms.get(frozen)).state, 'TERMINATING');
    if (answers) thaw[Symbol.dispose]();
    await after.clock.advance(0);
    await after.clock.advance(1000);
    await after.until(frozen, 'TERMINATED');
    assert.equal((await after.microvms.get(frozen)).stateReason, 'Success.');
    assert.equal(after.engine.calls.includes(`connect ${frozen}`), answers, 'its hook is called when it answers');
  }
});

test('a suspend cut short goes on with a machine that answers late, and a terminate does not wait for it', async () => {
  const before = await bench({ engine: { adopts: true } });
  const id = await before.run({ idlePolicy: IDLE });
  await before.until(id, 'RUNNING');
  before.engine.hold('suspend');
  await before.microvms.suspend(id);
  await before.clock.advance(0);
  freeze(before.engine.disk, id);
  await using after = await before.kill();
  await after.clock.advance(10_000);
  assert.equal((await after.microvms.get(id)).state, 'SUSPENDING');
  await after.microvms.terminate(id);
  await after.clock.advance(5100);
  await after.until(id, 'TERMINATED');
});

test('a server that stops meanwhile leaves the machine as it is to the next one', async () => {
  const { after, frozen, thaw } = await startedOver(0);
  await after.microvms.suspend(frozen);
  await after.clock.advance(1000);
  after.engine.leave();
  await using next = await after.restart();
  assert.equal((await next.microvms.get(frozen)).state, 'SUSPENDING');
  thaw[Symbol.dispose]();
  await next.until(frozen, 'SUSPENDED');
  assert.equal(await count(await next.microvms.wake(frozen, {})), 2);
});

test('a take-over that never comes back ends its microVM, and what comes of it later is undone', async () => {
  const before = await bench({ engine: { adopts: true } });
  const id = await before.run();
  await before.until(id, 'RUNNING');
  const thaw = freeze(before.engine.disk, id, { deaf: true });
  await using after = await before.kill();
  await after.clock.advance(66_000);
  assert.deepEqual(await stateOf(after, id), ['TERMINATED', SILENT]);
  thaw[Symbol.dispose]();
  await after.clock.advance(0);
  assert.equal(after.engine.machines.size, 0);
  assert.deepEqual(await after.engine.residue(), []);
});
