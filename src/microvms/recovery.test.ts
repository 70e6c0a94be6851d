import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type FakeOperation, restartHost } from '../engine/index.ts';
import { MachineError } from '../lib/index.ts';
import { type Bench, bench, count, IDLE } from './test-bench.ts';

/** A microVM whose guest was asked once. */
async function counted(b: Bench): Promise<string> {
  const id = await b.run({ idlePolicy: IDLE });
  assert.equal(await count(await b.microvms.wake(id, {})), 1);
  return id;
}

/** What a new server makes of a microVM whose server was killed while `held` was under way, and did the rest by itself. */
async function killedAt(held: FakeOperation, begin: (b: Bench, id: string) => Promise<void>, adopts: boolean) {
  const before = await bench({ engine: { adopts } });
  const id = await counted(before);
  if (held.startsWith('resume')) {
    await before.microvms.suspend(id);
    await before.until(id, 'SUSPENDED');
  }
  before.engine.hold(held);
  await begin(before, id);
  await before.clock.advance(0);
  return { id, after: await before.kill() };
}

test('a launch that a crash cut short is begun anew and leaves one machine', async () => {
  for (const held of ['launch', 'launched'] as const) {
    const before = await bench({ engine: { adopts: true } });
    before.engine.hold(held);
    const id = await before.run();
    await before.clock.advance(0);
    await using after = await before.kill();
    await after.until(id, 'RUNNING');
    assert.deepEqual(after.engine.calls, [`destroy ${id}`, `launch ${id}`]);
    assert.equal(await count(await after.microvms.wake(id, {})), 1);
  }
});

test('a suspend that a crash cut short before anything was saved is done again where machines are taken over', async () => {
  const { id, after } = await killedAt('suspend', (b, vm) => b.microvms.suspend(vm), true);
  await using _after = after;
  await after.until(id, 'SUSPENDED');
  assert.deepEqual(after.engine.calls, [`adopt ${id}`, `suspend ${id}`]);
  assert.equal(await count(await after.microvms.wake(id, {})), 2);
});

test('after a restart of the host the suspended are there, and the others say that the host was restarted', async () => {
  const before = await bench({ engine: { adopts: true } });
  const [running, asleep] = [await before.run(), await before.run({ idlePolicy: IDLE })];
  await before.until(running, 'RUNNING');
  await before.until(asleep, 'RUNNING');
  await before.microvms.suspend(asleep);
  await before.until(asleep, 'SUSPENDED');
  before.clock.rebootHost(60_000);
  restartHost(before.engine.disk);
  await using after = await before.kill();
  await after.until(running, 'TERMINATED');
  assert.equal((await after.microvms.get(running)).stateReason, 'The MicroVM was lost because the host restarted.');
  assert.equal(await count(await after.microvms.wake(asleep, {})), 1);
});

test('without taking over, a suspend cut short before anything was saved loses the microVM and says so', async () => {
  const { id, after } = await killedAt('suspend', (b, vm) => b.microvms.suspend(vm), false);
  await using _after = after;
  await after.until(id, 'TERMINATED');
  assert.equal((await after.microvms.get(id)).stateReason, 'The MicroVM was lost because the server stopped.');
});

for (const adopts of [true, false]) {
  test(`a suspend whose saved state was complete when the server was killed is SUSPENDED (adopts: ${adopts})`, async () => {
    const { id, after } = await killedAt('suspended', (b, vm) => b.microvms.suspend(vm), adopts);
    await using _after = after;
    await after.until(id, 'SUSPENDED');
    assert.equal(await count(await after.microvms.wake(id, {})), 2);
  });

  test(`a resume cut short before the guest ran is done by the next server (adopts: ${adopts})`, async () => {
    const { id, after } = await killedAt('resume', (b, vm) => b.microvms.resume(vm), adopts);
    await using _after = after;
    await after.until(id, 'RUNNING');
    assert.equal(await count(await after.microvms.wake(id, {})), 2);
  });
}

test('a resume whose guest ran already goes on with that guest, never with the old memory', async () => {
  const { id, after } = await killedAt('resumed', (b, vm) => b.microvms.resume(vm), true);
  await using _after = after;
  await after.until(id, 'RUNNING');
  assert.deepEqual(after.engine.calls, [`adopt ${id}`]);
});

test('without taking over, a resume whose guest ran already is lost rather than resumed from what is void', async () => {
  const { id, after } = await killedAt('resumed', (b, vm) => b.microvms.resume(vm), false);
  await using _after = after;
  await after.until(id, 'TERMINATED');
  assert.ok(!after.engine.calls.includes(`resume ${id}`));
});

test('a running microVM is taken over with its memory, its idle clock anew, and only once', async () => {
  const before = await bench({ engine: { adopts: true } });
  const id = await counted(before);
  await before.clock.advance(59_000);
  await using after = await before.kill();
  await after.clock.advance(59_000);
  await after.until(id, 'RUNNING');
  assert.equal(await count(await after.microvms.wake(id, {})), 2);
  await after.clock.advance(60_000);
  await after.until(id, 'SUSPENDED');
  assert.deepEqual(
    after.engine.calls.filter((call) => call.startsWith('adopt')),
    [`adopt ${id}`],
  );
});

test('a machine that died while no server watched ends its microVM at start', async () => {
  const before = await bench({ engine: { adopts: true } });
  const id = await counted(before);
  before.engine.disk.processes.delete(id);
  await using after = await before.kill();
  await after.until(id, 'TERMINATED');
});

test('an end cut short is finished, and its time over is seen before anything is started for it', async () => {
  const before = await bench({ engine: { adopts: true } });
  const ending = await counted(before);
  const overdue = await before.run({ maximumDurationInSeconds: 60 });
  await before.until(overdue, 'RUNNING');
  before.engine.hold('destroy');
  await before.microvms.terminate(ending);
  await before.clock.advance(0);
  before.clock.sleepHost(60_000);
  await using after = await before.kill();
  await after.until(ending, 'TERMINATED');
  await after.until(overdue, 'TERMINATED');
  assert.equal((await after.microvms.get(overdue)).stateReason, 'The MicroVM reached its maximum duration.');
  assert.deepEqual(await after.engine.residue(), []);
});

test('an outcome that could not be written down is written later, without launching or calling the guest twice', async () => {
  await using b = await bench();
  using _held = b.engine.hold('launched');
  const id = await b.run();
  await b.clock.advance(0);
  const write = b.store.write;
  b.store.write = async () => {
    throw new Error('database or disk is full');
  };
  _held[Symbol.dispose]();
  await b.clock.advance(10_000);
  assert.equal((await b.microvms.get(id)).state, 'PENDING');
  b.store.write = write;
  await b.clock.advance(60_000);
  await b.until(id, 'RUNNING');
  assert.deepEqual(b.engine.calls, [`launch ${id}`]);
});

test('a failure that could not be written down is written later in its own words, and the step is not done twice', async () => {
  for (const what of ['launched', 'resumed'] as const) {
    await using b = await bench();
    const id = await b.run({ idlePolicy: { ...IDLE, suspendedDurationSeconds: 3600 } });
    if (what === 'resumed') {
      await b.until(id, 'RUNNING');
      await b.microvms.suspend(id);
      await b.until(id, 'SUSPENDED');
      await b.microvms.resume(id);
    }
    b.engine.failNext(what, new MachineError('protocol', 'clock not set'));
    const write = b.store.write;
    b.store.write = async () => {
      throw new Error('database or disk is full');
    };
    await b.clock.advance(10_000);
    b.store.write = write;
    const { calls } = b.engine;
    const begun = calls.length;
    await b.clock.advance(60_000);
    await b.until(id, 'TERMINATED');
    const verb = what === 'launched' ? 'started' : 'resumed';
    assert.equal((await b.microvms.get(id)).stateReason, `The MicroVM could not be ${verb}.`);
    assert.deepEqual(calls.slice(begun), [`destroy ${id}`]);
  }
});

test('the end of a machine that could not be written down is written later', async () => {
  await using b = await bench();
  const id = await counted(b);
  const write = b.store.write;
  b.store.write = async () => {
    throw new Error('database or disk is full');
  };
  b.engine.exit(id, { kind: 'vmm', message: 'killed', evidence: '' });
  await b.clock.advance(5000);
  b.store.write = write;
  await b.clock.advance(60_000);
  await b.until(id, 'TERMINATED');
  assert.equal((await b.microvms.get(id)).stateReason, 'The MicroVM stopped unexpectedly.');
});

test('a suspend that cannot be made durable leaves it RUNNING, says so, and forgets it with the next one', async () => {
  await using b = await bench();
  const id = await counted(b);
  b.engine.failNext('suspend', new MachineError('failed', 'no space left'));
  await b.microvms.suspend(id);
  await b.until(id, 'RUNNING');
  const failure = async () => (await b.microvms.get(id)).stateReason;
  assert.equal(await failure(), 'The MicroVM could not be suspended and runs on.');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  await b.microvms.resume(id);
  await b.until(id, 'RUNNING');
  assert.equal(await failure(), null);
  assert.equal(await count(await b.microvms.wake(id, {})), 2);
});

test('a resume that finds its state damaged leaves it SUSPENDED, says what is damaged, and may be tried again', async () => {
  await using b = await bench();
  const id = await counted(b);
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  const damaged = new MachineError('corrupt', 'the suspended state is damaged: its memory is not as it was written');
  const told = 'The MicroVM could not be resumed: the suspended state is damaged: its memory is not as it was written.';
  b.engine.failNext('resume', damaged);
  await assert.rejects(b.microvms.wake(id, {}), { code: 'CONFLICT', message: told });
  const { state, stateReason } = await b.microvms.get(id);
  assert.deepEqual([state, stateReason], ['SUSPENDED', told]);
  b.engine.failNext('resume', damaged);
  await b.microvms.resume(id);
  await b.clock.advance(100);
  assert.equal((await b.microvms.get(id)).stateReason, told);
  assert.equal(await count(await b.microvms.wake(id, {})), 2, 'once its files were put right');
  assert.equal((await b.microvms.get(id)).stateReason, null);
});
