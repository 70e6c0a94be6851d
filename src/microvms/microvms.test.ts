import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createFakeDisk } from '../engine/index.ts';
import { MachineError } from '../lib/index.ts';
import { bench, count, IDLE, IMAGE } from './test-bench.ts';

test('a run answers PENDING with its address, and the launch begins in the same turn', async () => {
  await using b = await bench();
  const view = await b.microvms.run({ imageIdentifier: IMAGE });
  assert.match(view.microvmId, /^microvm-[0-9a-f-]{36}$/);
  assert.equal(view.state, 'PENDING');
  assert.equal(view.endpoint, 'localhost:40000');
  assert.equal(view.maximumDurationInSeconds, 28_800);
  // Only what is ready to run now gets its turn: no timer, no input.
  await new Promise(process.nextTick);
  for (let i = 0; i < 10; i++) await undefined;
  assert.deepEqual(b.engine.calls, [`launch ${view.microvmId}`]);
  await b.until(view.microvmId, 'RUNNING');
});

test('memory survives suspend and resume', async () => {
  await using b = await bench();
  const id = await b.run();
  assert.equal(await count(await b.microvms.wake(id, {})), 1);
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  await b.microvms.resume(id);
  await b.until(id, 'RUNNING');
  assert.equal(await count(await b.microvms.wake(id, {})), 2);
});

test('a terminated microVM says Success., keeps no machine and can be terminated again', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  await b.microvms.terminate(id);
  await b.until(id, 'TERMINATED');
  const view = await b.microvms.get(id);
  assert.equal(view.stateReason, 'Success.');
  assert.equal(view.terminatedAt, b.clock.now());
  assert.deepEqual(await b.engine.residue(), []);
  await b.microvms.terminate(id);
  await assert.rejects(b.microvms.suspend(id), {
    code: 'INVALID',
    message: `The MicroVM ${id} has been terminated and its state cannot be changed.`,
  });
  await b.clock.advance(60_000);
  assert.deepEqual(b.endpoints, ['open 40000', `close ${id}`]);
});

test('a terminate during the launch stops it and leaves nothing', async () => {
  await using b = await bench();
  using _held = b.engine.hold('launch');
  const id = await b.run();
  await b.microvms.terminate(id);
  await b.until(id, 'TERMINATED');
  assert.deepEqual(await b.engine.residue(), []);
  assert.equal(b.engine.machines.size, 0);
});

test('a failed launch ends the microVM with a reason', async () => {
  await using b = await bench();
  b.engine.failNext('launch', new MachineError('failed', 'no such snapshot'));
  const id = await b.run();
  await b.until(id, 'TERMINATED');
  assert.equal((await b.microvms.get(id)).stateReason, 'The MicroVM could not be started.');
});

test('damage of what it starts from is told in the reason', async () => {
  await using b = await bench();
  b.engine.failNext('launch', new MachineError('corrupt', 'the sealed snapshot is damaged'));
  const id = await b.run();
  await b.until(id, 'TERMINATED');
  const { stateReason } = await b.microvms.get(id);
  assert.equal(stateReason, 'The MicroVM could not be started: the sealed snapshot is damaged.');
});

test('a failed suspend goes on RUNNING with the same machine', async () => {
  await using b = await bench();
  const id = await b.run();
  const machine = await b.microvms.wake(id, {});
  b.engine.failNext('suspend', new MachineError('failed', 'no space'));
  await b.microvms.suspend(id);
  await b.until(id, 'RUNNING');
  assert.equal(await b.microvms.wake(id, {}), machine);
  assert.equal(await count(machine), 1);
});

test('many who wait for a sleeping microVM cause one resume', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  const machines = await Promise.all([1, 2, 3, 4].map(() => b.microvms.wake(id, {})));
  assert.equal(new Set(machines).size, 1);
  assert.equal(b.engine.calls.filter((call) => call.startsWith('resume')).length, 1);
});

test('traffic that comes while it is being suspended waits for the suspend and then the resume', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  const held = b.engine.hold('suspend');
  await b.microvms.suspend(id);
  const woken = b.microvms.wake(id, {});
  await b.clock.advance(0);
  held[Symbol.dispose]();
  assert.equal(await count(await woken), 1);
});

test('a failed resume refuses those who wait and stays SUSPENDED for the next try', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  b.engine.failNext('resume', new MachineError('unsupported', 'wrong CPU'));
  await assert.rejects(b.microvms.wake(id, {}), { code: 'CONFLICT' });
  await b.until(id, 'SUSPENDED');
  assert.equal(await count(await b.microvms.wake(id, {})), 1);
});

test('a resume that failed after the guest may have run ends the microVM', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  b.engine.failNext('resumed', new MachineError('protocol', 'clock not set'));
  await assert.rejects(b.microvms.wake(id, {}), { code: 'CONFLICT' });
  await b.until(id, 'TERMINATED');
});

test('a resume that ran out of time before the guest ran loses nothing', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  assert.equal(await count(await b.microvms.wake(id, {})), 1);
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  b.engine.failNext('resume', new MachineError('timeout', 'the host is busy'));
  await assert.rejects(b.microvms.wake(id, {}), { code: 'CONFLICT' });
  await b.until(id, 'SUSPENDED');
  assert.equal(await count(await b.microvms.wake(id, {})), 2);
});

test('without auto-resume traffic to a suspended microVM is refused, a call resumes it', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: { ...IDLE, autoResumeEnabled: false } });
  await b.until(id, 'RUNNING');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  await assert.rejects(b.microvms.wake(id, {}), { code: 'CONFLICT' });
  await b.microvms.resume(id);
  await b.until(id, 'RUNNING');
});

test('a caller that gives up waiting is released', async () => {
  await using b = await bench();
  using _held = b.engine.hold('launch');
  const id = await b.run();
  const stop = new AbortController();
  const woken = b.microvms.wake(id, { signal: stop.signal });
  stop.abort(new Error('client went away'));
  await assert.rejects(woken, /client went away/);
});

test('it is suspended after its idle time, and traffic starts that time again', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  await b.clock.advance(50_000);
  b.microvms.activity(id);
  await b.clock.advance(59_000);
  await b.until(id, 'RUNNING');
  await b.clock.advance(1_000);
  await b.until(id, 'SUSPENDED');
});

test('without an idle policy it never sleeps by itself', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  await b.clock.advance(8 * 3_600_000 - 1);
  await b.until(id, 'RUNNING');
  await b.clock.advance(1);
  await b.until(id, 'TERMINATED');
});

test('a suspended microVM ends after its allowance', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  await b.clock.advance(60_000);
  await b.until(id, 'SUSPENDED');
  await b.clock.advance(119_999);
  await b.until(id, 'SUSPENDED');
  await b.clock.advance(1);
  await b.until(id, 'TERMINATED');
  assert.deepEqual(await b.engine.residue(), []);
});

test('an allowance of 0 ends it instead of suspending it', async () => {
  await using b = await bench();
  const id = await b.run({ idlePolicy: { ...IDLE, suspendedDurationSeconds: 0 } });
  await b.until(id, 'RUNNING');
  await b.clock.advance(60_000);
  await b.until(id, 'TERMINATED');
  assert.ok(!b.engine.calls.includes(`suspend ${id}`));
});

test('an app that exits is shown RUNNING for 15 seconds, answers nobody, and ends with its code', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  b.engine.exit(id, { kind: 'app', exitCode: 7 });
  await b.clock.advance(0);
  await b.clock.advance(14_000);
  assert.equal((await b.microvms.get(id)).state, 'RUNNING');
  await assert.rejects(b.microvms.wake(id, {}), { code: 'CONFLICT' });
  await b.clock.advance(1_000);
  await b.until(id, 'TERMINATED');
  assert.equal((await b.microvms.get(id)).stateReason, 'Container Stopped with Exit Code: 7');
});

test('a VMM that dies ends its microVM and refuses those who wait', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  b.engine.exit(id, { kind: 'vmm', message: 'killed', evidence: '' });
  await b.until(id, 'TERMINATED');
  assert.equal((await b.microvms.get(id)).stateReason, 'The MicroVM stopped unexpectedly.');
});

test('a guest whose own system ends is told apart from a VMM that dies', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  b.engine.exit(id, { kind: 'guest', message: 'the VMM ended with code 0', evidence: 'Kernel panic' });
  await b.until(id, 'TERMINATED');
  assert.equal((await b.microvms.get(id)).stateReason, 'The operating system of the MicroVM stopped.');
});

test('no more launches go on at once than allowed, and each gets its turn', async () => {
  await using b = await bench({ concurrentLaunches: 2 });
  const held = b.engine.hold('launch');
  const ids = await Promise.all([1, 2, 3, 4, 5].map(() => b.run()));
  assert.equal(b.engine.calls.length, 2);
  held[Symbol.dispose]();
  for (const id of ids) await b.until(id, 'RUNNING');
});

test('a client token used again returns the same microVM, and other parameters are a conflict', async () => {
  await using b = await bench();
  const first = await b.run({ clientToken: 't', idlePolicy: IDLE });
  assert.equal(await b.run({ clientToken: 't', idlePolicy: IDLE }), first);
  await assert.rejects(b.run({ clientToken: 't' }), { code: 'CONFLICT' });
  assert.equal((await b.microvms.list({})).items.length, 1);
});

test('the list pages newest first and its token fits that list only', async () => {
  await using b = await bench();
  const ids: string[] = [];
  for (let i = 0; i < 5; i++) {
    ids.unshift(await b.run());
    await b.clock.advance(1);
  }
  const seen: string[] = [];
  let nextToken: string | null = null;
  do {
    const page = await b.microvms.list({
      imageIdentifier: IMAGE,
      maxResults: 2,
      ...(nextToken !== null && { nextToken }),
    });
    seen.push(...page.items.map((item) => item.microvmId));
    if (page.nextToken !== null) {
      await assert.rejects(b.microvms.list({ nextToken: page.nextToken }), { code: 'INVALID' });
    }
    nextToken = page.nextToken;
  } while (nextToken !== null);
  assert.deepEqual(seen, ids);
});

test('after a restart the suspended are there with their address, the others ended with a reason', async () => {
  await using before = await bench();
  const running = await before.run();
  const asleep = await before.run();
  await before.until(running, 'RUNNING');
  await before.until(asleep, 'RUNNING');
  assert.equal(await count(await before.microvms.wake(asleep, {})), 1);
  await before.microvms.suspend(asleep);
  await before.until(asleep, 'SUSPENDED');
  await using after = await before.restart();
  await after.until(running, 'TERMINATED');
  assert.equal((await after.microvms.get(running)).stateReason, 'The MicroVM was lost because the server stopped.');
  assert.deepEqual([...after.endpoints].sort(), ['open 40000', 'open 40001']);
  assert.deepEqual(await after.engine.residue(), [asleep]);
  await after.microvms.resume(asleep);
  assert.equal(await count(await after.microvms.wake(asleep, {})), 2);
});

test('a time that came while the server was down is acted on at start', async () => {
  await using before = await bench();
  const id = await before.run({ idlePolicy: IDLE });
  await before.until(id, 'RUNNING');
  await before.microvms.suspend(id);
  await before.until(id, 'SUSPENDED');
  await before.clock.advance(0);
  const restarting = before.restart();
  await before.clock.advance(120_000);
  await using after = await restarting;
  await after.until(id, 'TERMINATED');
});

test('what the engine has and no record owns is destroyed at start', async () => {
  const disk = createFakeDisk();
  disk.machines.set('microvm-of-nobody', {});
  await using b = await bench({ disk });
  assert.deepEqual(await b.engine.residue(), []);
});

test('an end that cannot be cleaned up at first is tried again', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  b.engine.failNext('destroy', new Error('busy'));
  await b.microvms.terminate(id);
  await b.clock.advance(0);
  assert.equal((await b.microvms.get(id)).state, 'TERMINATING');
  await b.clock.advance(1000);
  await b.until(id, 'TERMINATED');
});

test('an unknown microVM is not found', async () => {
  await using b = await bench();
  for (const call of [
    () => b.microvms.get('microvm-x'),
    () => b.microvms.suspend('microvm-x'),
    () => b.microvms.terminate('microvm-x'),
    () => b.microvms.wake('microvm-x', {}),
    () => b.microvms.logs('microvm-x', {})[Symbol.asyncIterator]().next(),
  ]) {
    await assert.rejects(call(), { code: 'NOT_FOUND', message: 'MicroVM not found: microvm-x' });
  }
});
