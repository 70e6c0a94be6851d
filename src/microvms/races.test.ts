import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bench, count, IDLE } from './test-bench.ts';

test('an end during a resume wins, whenever it comes, and nothing of the machine is left', async () => {
  for (const held of ['resume', 'resumed'] as const) {
    await using b = await bench();
    const id = await b.run({ idlePolicy: IDLE });
    await b.until(id, 'RUNNING');
    await b.microvms.suspend(id);
    await b.until(id, 'SUSPENDED');
    const gate = b.engine.hold(held);
    const woken = assert.rejects(b.microvms.wake(id, {}), { code: 'CONFLICT' });
    await b.clock.advance(0);
    await b.microvms.terminate(id);
    await woken;
    gate[Symbol.dispose]();
    await b.until(id, 'TERMINATED');
    assert.equal(b.engine.machines.size, 0);
    assert.deepEqual(await b.engine.residue(), []);
  }
});

test('a machine that comes after its microVM was ended is undone, and what it left as well', async () => {
  for (const what of ['launch', 'resume'] as const) {
    await using b = await bench();
    const early = what === 'launch' ? b.engine.hold(what, { deaf: true }) : undefined;
    const id = await b.run({ idlePolicy: IDLE });
    let late = early;
    if (late === undefined) {
      await b.until(id, 'RUNNING');
      await b.microvms.suspend(id);
      await b.until(id, 'SUSPENDED');
      late = b.engine.hold(what, { deaf: true });
      await b.microvms.resume(id);
    }
    await b.clock.advance(0);
    await b.microvms.terminate(id);
    await b.clock.advance(0);
    await b.clock.advance(5000);
    await b.until(id, 'TERMINATED');
    late[Symbol.dispose]();
    await b.clock.advance(1000);
    assert.equal(b.engine.machines.size, 0);
    assert.deepEqual(await b.engine.residue(), []);
    assert.equal((await b.microvms.get(id)).state, 'TERMINATED');
  }
});

test('two resumes, and a resume beside traffic, start one machine', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  assert.equal(await count(await b.microvms.wake(id, {})), 1);
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  await Promise.all([b.microvms.resume(id), b.microvms.resume(id), b.microvms.wake(id, {})]);
  assert.equal(await count(await b.microvms.wake(id, {})), 2);
  assert.equal(b.engine.calls.filter((call) => call === `resume ${id}`).length, 1);
});

test('an end does not wait for exchanges, also when a suspend does', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  using _exchange = b.microvms.exchange(id);
  await b.microvms.suspend(id);
  await b.microvms.terminate(id);
  await b.until(id, 'TERMINATED');
  assert.ok(!b.engine.calls.includes(`suspend ${id}`));
});

test('traffic that is held while its microVM is suspended twice is served in the end', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  const gate = b.engine.hold('suspend');
  await b.microvms.suspend(id);
  const woken = b.microvms.wake(id, {});
  await b.clock.advance(0);
  await b.microvms.suspend(id);
  gate[Symbol.dispose]();
  assert.equal(await count(await woken), 1);
});

test('an app that exits while its microVM is being suspended ends it with its code', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  const gate = b.engine.hold('suspend');
  await b.microvms.suspend(id);
  await b.clock.advance(0);
  b.engine.exit(id, { kind: 'app', exitCode: 5 });
  await b.clock.advance(0);
  gate[Symbol.dispose]();
  await b.clock.advance(15_000);
  await b.until(id, 'TERMINATED');
  assert.equal((await b.microvms.get(id)).stateReason, 'Container Stopped with Exit Code: 5');
  assert.deepEqual(await b.engine.residue(), []);
});

test('a suspend that never comes to an end ends the microVM with a reason instead of leaving it in between', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  using _never = b.engine.hold('suspend', { deaf: true });
  await b.microvms.suspend(id);
  await b.clock.advance(0);
  await b.clock.advance(60_000);
  await b.clock.advance(5000);
  await b.until(id, 'TERMINATED');
  const { stateReason } = await b.microvms.get(id);
  assert.equal(stateReason, 'The MicroVM could not be suspended and did not go on.');
});

test('a suspend that was done just when its time was over is SUSPENDED, not RUNNING without a machine', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  const gate = b.engine.hold('suspended', { deaf: true });
  await b.microvms.suspend(id);
  await b.clock.advance(0);
  await b.clock.advance(60_000);
  gate[Symbol.dispose]();
  await b.until(id, 'SUSPENDED');
  await b.microvms.resume(id);
  await b.until(id, 'RUNNING');
});

test('no token is made for a microVM that is coming to its end', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  using _held = b.engine.hold('destroy');
  await b.microvms.terminate(id);
  const asked = { microvmIdentifier: id, expirationInMinutes: 1, allowedPorts: [{ allPorts: {} }] };
  await assert.rejects(b.microvms.createAuthToken(asked), { code: 'INVALID' });
});

test('a server that stops in the middle of everything stops, and the next one brings all to rest', async () => {
  const before = await bench();
  const asleep = await before.run({ idlePolicy: IDLE });
  const suspending = await before.run();
  await before.until(asleep, 'RUNNING');
  await before.until(suspending, 'RUNNING');
  await before.microvms.suspend(asleep);
  await before.until(asleep, 'SUSPENDED');
  for (const operation of ['launch', 'resume', 'suspend', 'destroy'] as const) before.engine.hold(operation);
  const launching = await before.run();
  await before.microvms.suspend(suspending);
  const woken = assert.rejects(before.microvms.wake(asleep, {}), { code: 'CONFLICT', message: /stopping/ });
  await before.clock.advance(0);
  await using after = await before.restart();
  await woken;
  await after.until(launching, 'RUNNING');
  await after.until(asleep, 'RUNNING');
  await after.until(suspending, 'TERMINATED');
});
