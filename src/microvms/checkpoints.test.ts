import assert from 'node:assert/strict';
import { test } from 'node:test';
import { restartHost } from '../engine/index.ts';
import { MachineError } from '../lib/index.ts';
import { type Bench, bench, count, IDLE } from './test-bench.ts';

/** At most this far apart. */
const EVERY = { engine: { adopts: true }, checkpointSeconds: 600 } as const;
const EVERY_MS = 600_000;
const SLEEPY = { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 900, autoResumeEnabled: true };

async function counted(b: Bench, idlePolicy = SLEEPY): Promise<string> {
  const id = await b.run({ idlePolicy });
  assert.equal(await count(await b.microvms.wake(id, {})), 1);
  return id;
}

async function afterReboot(b: Bench): Promise<Bench> {
  b.clock.rebootHost(60_000);
  restartHost(b.engine.disk);
  return b.kill();
}

const taken = (b: Bench) => b.engine.calls.filter((call) => call.startsWith('checkpoint')).length;

test('after a restart of the host it sleeps at its last checkpoint, says so, and goes on from there', async () => {
  const before = await bench(EVERY);
  const id = await counted(before);
  await before.clock.advance(EVERY_MS);
  const takenAt = before.engine.disk.checkpoints.get(id)?.takenAt ?? 0;
  assert.equal(await count(await before.microvms.wake(id, {})), 2);
  await using after = await afterReboot(before);
  const view = await after.microvms.get(id);
  assert.equal(view.state, 'SUSPENDED');
  const time = new Date(takenAt).toISOString();
  assert.equal(view.stateReason, `The host restarted; the MicroVM continues from its state of ${time}.`);
  assert.equal(await count(await after.microvms.wake(id, {})), 2, 'what came after the checkpoint is forgotten');
  assert.equal((await after.microvms.get(id)).stateReason, null);
});

test('without a checkpoint yet, or without any wanted, it is lost with its host', async () => {
  for (const setup of [EVERY, { engine: { adopts: true } }]) {
    const before = await bench(setup);
    const id = await counted(before);
    await before.clock.advance(EVERY_MS / 2 - 1);
    await using after = await afterReboot(before);
    await after.until(id, 'TERMINATED');
    assert.equal((await after.microvms.get(id)).stateReason, 'The MicroVM was lost because the host restarted.');
  }
});

test('what it was resumed from is its checkpoint from the first moment', async () => {
  const before = await bench(EVERY);
  const id = await counted(before);
  await before.microvms.suspend(id);
  await before.until(id, 'SUSPENDED');
  assert.equal(await count(await before.microvms.wake(id, {})), 2);
  await using after = await afterReboot(before);
  await after.until(id, 'SUSPENDED');
  assert.equal(await count(await after.microvms.wake(id, {})), 2);
});

test('a server that was killed finds it running, not fallen back; one that wants no checkpoints removes them', async () => {
  const before = await bench(EVERY);
  const id = await counted(before);
  await before.clock.advance(EVERY_MS);
  const again = await before.kill();
  assert.equal((await again.microvms.get(id)).state, 'RUNNING');
  assert.ok(again.engine.disk.checkpoints.has(id));
  again.engine.abandon();
  await again.store[Symbol.asyncDispose]();
  await using other = await bench({
    engine: { adopts: true },
    stateDir: again.stateDir,
    disk: again.engine.disk,
    clock: again.clock,
  });
  await other.until(id, 'RUNNING');
  assert.ok(!other.engine.disk.checkpoints.has(id));
});

test('a record that a loss of power made older than the truth is corrected, at start or at the latest when it is resumed', async () => {
  for (const isCutShort of [false, true]) {
    const before = await bench(EVERY);
    const id = await counted(before);
    await before.microvms.suspend(id);
    await before.until(id, 'SUSPENDED');
    assert.equal(await count(await before.microvms.wake(id, {})), 2);
    const rows = before.store.records<{ state: string }>('microvms');
    const row = await rows.get(id);
    assert.ok(row);
    // Its resume was not flushed; its guest ran, so what it was resumed from is its checkpoint.
    const asleep = { ...row.body, state: 'SUSPENDED', suspendedAt: 0, remark: null };
    await before.store.write([rows.save({ ...row, state: 'SUSPENDED', dueAt: null, body: asleep })]);
    if (!isCutShort) before.clock.rebootHost(0);
    restartHost(before.engine.disk);
    await using after = await before.kill();
    if (isCutShort) {
      await after.microvms.resume(id);
      await after.clock.advance(100);
    }
    const { state, stateReason } = await after.microvms.get(id);
    assert.equal(state, 'SUSPENDED');
    assert.match(stateReason ?? '', /^The host restarted; the MicroVM continues/);
    assert.equal(await count(await after.microvms.wake(id, {})), 2);
  }
});

test('a machine that dies on a host that lives does not fall back: what killed it may be in its memory', async () => {
  await using b = await bench(EVERY);
  const id = await counted(b);
  await b.clock.advance(EVERY_MS);
  b.engine.exit(id, { kind: 'vmm', message: 'killed', evidence: '' });
  await b.until(id, 'TERMINATED');
  assert.ok(!b.engine.disk.checkpoints.has(id));
});

test('a checkpoint that fails changes nothing, and the next one is taken in its time', async () => {
  await using b = await bench(EVERY);
  const id = await counted(b);
  await b.clock.advance(EVERY_MS);
  assert.equal(await count(await b.microvms.wake(id, {})), 2);
  b.engine.failNext('checkpoint', new MachineError('failed', 'too little disk is free'));
  await b.clock.advance(EVERY_MS);
  assert.equal((await b.microvms.get(id)).state, 'RUNNING');
  assert.equal(b.engine.disk.checkpoints.get(id)?.memory.count, 1);
  assert.equal(await count(await b.microvms.wake(id, {})), 3);
  await b.clock.advance(EVERY_MS);
  assert.equal(b.engine.disk.checkpoints.get(id)?.memory.count, 3);
});

test('a suspend, an end or a shutdown during a checkpoint waits for nothing but its end', async () => {
  for (const how of ['suspend', 'terminate', 'close'] as const) {
    const b = await bench(EVERY);
    const id = await counted(b);
    using _held = b.engine.hold('checkpoint');
    await b.clock.advance(EVERY_MS);
    assert.equal(taken(b), 1);
    if (how !== 'close') {
      await b.microvms[how](id);
      await b.until(id, how === 'suspend' ? 'SUSPENDED' : 'TERMINATED');
      assert.ok(!b.engine.disk.checkpoints.has(id));
      await b.clock.advance(3 * EVERY_MS);
      assert.equal(taken(b), 1, 'only what runs has checkpoints');
    }
    await b[Symbol.asyncDispose]();
  }
});

test('one is taken at a time, of each no more often than asked, and of none that may not sleep', async () => {
  await using b = await bench({ ...EVERY, checkpointSeconds: 20 });
  const ids = [];
  for (let i = 0; i < 5; i++) ids.push(await counted(b, { ...SLEEPY, maxIdleDurationSeconds: 28_800 }));
  const sleepless = await counted(b, { ...SLEEPY, suspendedDurationSeconds: 0 });
  const held = b.engine.hold('checkpoint');
  await b.clock.advance(20_000);
  assert.equal(taken(b), 1);
  held[Symbol.dispose]();
  await b.clock.advance(0);
  assert.deepEqual([...b.engine.disk.checkpoints.keys()].sort(), ids.sort());
  await b.clock.advance(200_000);
  assert.equal(taken(b), 5 * 11);
  assert.ok(!b.engine.calls.includes(`checkpoint ${sleepless}`));
});

test('it neither keeps an idle microVM awake nor prolongs its life', async () => {
  await using b = await bench({ ...EVERY, checkpointSeconds: 10 });
  const idle = await counted(b, IDLE);
  await b.clock.advance(60_000);
  await b.until(idle, 'SUSPENDED');
});

test('a host that cannot is asked once', async () => {
  await using b = await bench(EVERY);
  await counted(b);
  b.engine.failNext('checkpoint', new MachineError('unsupported', 'this host forbids it'));
  await b.clock.advance(5 * EVERY_MS);
  assert.equal(taken(b), 1);
});

test('the role has credentials again after a checkpoint, and none while it is taken', async () => {
  const roleArn = 'arn:aws:iam::000000000000:role/app';
  const given: string[] = [];
  await using b = await bench({
    ...EVERY,
    roles: {
      demandPass: () => {},
      credentialsFor: async () => {
        throw new Error('not asked');
      },
      keep: async (machine) => {
        given.push(`keep ${taken(b)}`);
        return {
          [Symbol.asyncDispose]: async () => void given.push(`let go ${machine.id === id}`),
        };
      },
    },
  });
  const { microvmId: id } = await b.microvms.run({ imageIdentifier: 'demo', executionRoleArn: roleArn });
  await b.until(id, 'RUNNING');
  await b.clock.advance(EVERY_MS);
  assert.deepEqual(given, ['keep 0', 'let go true', 'keep 1']);
});
