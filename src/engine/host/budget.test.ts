import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { DomainError, TestClock } from '../../lib/index.ts';
import { createBudget, hostGauges, hostLimits } from './budget.ts';
import { tasksMax } from './tasks.ts';

const ROOMY = { availableMemoryMiB: () => 100_000, freeDiskMiB: () => 100_000 };
const NEED = { memoryMiB: 512, cpus: 0.25 };

function refusal(act: () => void): string {
  try {
    act();
  } catch (error) {
    assert.ok(error instanceof DomainError && error.code === 'CAPACITY');
    return error.message;
  }
  return '';
}

describe('the budget of a host', () => {
  it('promises memory until it is gone, and again what was given back', () => {
    const budget = createBudget({ memoryMiB: 2 * 608, cpus: 100, machines: 100 }, ROOMY);
    budget.take('a', NEED);
    budget.take('b', NEED);
    assert.match(
      refusal(() => budget.take('c', NEED)),
      /1216 of 1216 MiB memory are promised, and it needs 608/,
    );
    budget.release('a');
    budget.release('a');
    budget.take('c', NEED);
    assert.notEqual(
      refusal(() => budget.take('d', NEED)),
      '',
    );
  });

  it('counts a machine once however often its share is taken', () => {
    const budget = createBudget({ memoryMiB: 608, cpus: 100, machines: 1 }, ROOMY);
    budget.take('a', NEED);
    budget.take('a', NEED);
    budget.hold('a', NEED);
    budget.release('a');
    budget.take('b', NEED);
  });

  it('keeps what runs already though it is beyond the limits, and lets nothing more in', () => {
    const budget = createBudget({ memoryMiB: 100, cpus: 100, machines: 100 }, ROOMY);
    budget.hold('a', NEED);
    assert.notEqual(
      refusal(() => budget.take('b', NEED)),
      '',
    );
  });

  it('lends what nobody has a share of, and takes it back before anybody is refused', async () => {
    let availableMemoryMiB = 100_000;
    const gauges = { ...ROOMY, availableMemoryMiB: () => availableMemoryMiB };
    const budget = createBudget({ memoryMiB: 3 * 608, cpus: 100, machines: 100 }, gauges);
    const lent: string[] = [];
    const lend = (name: string) => budget.lend(NEED, () => lent.push(name));
    budget.take('a', NEED);
    lend('one');
    budget.take('b', NEED);
    assert.deepEqual(lent, []);
    budget.take('c', NEED);
    assert.deepEqual(lent, ['one']);
    budget.release('c');
    lend('returned')[Symbol.dispose]();
    budget.take('c', NEED);
    assert.deepEqual(lent, ['one']);
    lend('beyond');
    await Promise.resolve();
    assert.deepEqual(lent, ['one', 'beyond']);
    budget.release('c');
    lend('last');
    availableMemoryMiB = 2000;
    budget.take('b', NEED);
    assert.deepEqual(lent, ['one', 'beyond', 'last']);
  });

  it('bounds guaranteed vCPUs and the number of machines', () => {
    const cpus = createBudget({ memoryMiB: 10_000, cpus: 0.5, machines: 100 }, ROOMY);
    cpus.take('a', NEED);
    cpus.take('b', NEED);
    assert.match(
      refusal(() => cpus.take('c', NEED)),
      /0.5 of 0.5 guaranteed vCPUs/,
    );
    const machines = createBudget({ memoryMiB: 10_000, cpus: 100, machines: 1 }, ROOMY);
    machines.take('a', NEED);
    assert.match(
      refusal(() => machines.take('b', NEED)),
      /1 machines/,
    );
  });

  it('refuses early when the disk or the memory is nearly gone, and keeps room for every suspend', () => {
    const limits = { memoryMiB: 10_000, cpus: 100, machines: 100 };
    let free = 1024 + 128;
    const budget = createBudget(limits, { ...ROOMY, freeDiskMiB: () => free });
    budget.take('a', NEED);
    budget.take('b', NEED);
    assert.match(
      refusal(() => budget.take('c', NEED)),
      /only 1152 MiB disk are free, and 1216 are needed/,
    );
    free = 2000;
    budget.take('c', NEED);
    const tight = createBudget(limits, { ...ROOMY, availableMemoryMiB: () => 600 });
    assert.match(
      refusal(() => tight.take('a', NEED)),
      /only 600 MiB memory/,
    );
  });

  it('widens a share on disk as long as there is room, and leaves it as it was when there is none', () => {
    let free = 4000;
    const budget = createBudget({ memoryMiB: 10_000, cpus: 100, machines: 100 }, { ...ROOMY, freeDiskMiB: () => free });
    budget.take('build', { ...NEED, diskMiB: 2000 });
    budget.widen('build', 900);
    assert.equal(budget.held.diskMiB, 2900);
    free = 3900;
    assert.match(
      refusal(() => budget.widen('build', 1)),
      /only 3900 MiB disk are free, and 3925 are needed/,
    );
    assert.deepEqual([budget.held.diskMiB, budget.held.machines], [2900, 1]);
    budget.release('build');
    assert.equal(budget.held.diskMiB, 0);
  });

  it('refuses early on a real disk that is nearly full, and no longer once there is room', {
    skip: process.getuid?.() === 0 ? false : 'mounting a small disk needs root',
  }, async () => {
    await using stack = new AsyncDisposableStack();
    const disk = await mkdtemp(join(tmpdir(), 'rk-budget-'));
    stack.defer(() => rm(disk, { recursive: true, force: true }));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1110m', 'rk-budget', disk]);
    stack.defer(() => void execFileSync('umount', [disk]));
    const budget = createBudget(
      { memoryMiB: 10_000, cpus: 100, machines: 100 },
      { ...hostGauges(disk), availableMemoryMiB: ROOMY.availableMemoryMiB },
    );
    budget.take('a', NEED);
    const log = join(disk, 'log');
    await writeFile(log, Buffer.alloc(40 * 1024 * 1024, 1));
    budget.release('a');
    assert.match(
      refusal(() => budget.take('a', NEED)),
      /only 1070 MiB disk are free, and 1088 are needed/,
    );
    await rm(log);
    budget.take('a', NEED);
  });

  it('speaks of pressure only while machines use more than is left', () => {
    let available = 100;
    const budget = createBudget(
      { memoryMiB: 10_000, cpus: 100, machines: 9 },
      { ...ROOMY, availableMemoryMiB: () => available },
    );
    assert.equal(budget.pressure(), false);
    budget.hold('a', NEED);
    assert.equal(budget.pressure(), true);
    available = 5000;
    assert.equal(budget.pressure(), false);
  });

  it('reads this host', () => {
    const limits = hostLimits(2);
    assert.ok(limits.memoryMiB > 0 && limits.machines > 1 && limits.cpus === 32);
    assert.equal(hostLimits(2, 777).memoryMiB, 777);
    const gauges = hostGauges(tmpdir());
    assert.ok(gauges.availableMemoryMiB() > 0 && gauges.freeDiskMiB() > 0);
  });

  it('bounds the files of the server, of which a sleeping microVM keeps one', () => {
    const budget = createBudget({ memoryMiB: 10_000, cpus: 100, machines: 100, files: 18 }, ROOMY);
    budget.take('a', NEED);
    budget.rest('a');
    budget.rest('b');
    budget.take('c', NEED);
    assert.match(
      refusal(() => budget.take('d', NEED)),
      /18 files open, and 18 are taken/,
    );
    for (const id of ['a', 'b', 'c']) budget.release(id);
    assert.deepEqual(budget.held, { machines: 0, memoryMiB: 0, cpus: 0, diskMiB: 0, files: 0 });
  });
});

describe('who waits for a share of the host', () => {
  const LIMITS = { memoryMiB: 3 * 608, cpus: 100, machines: 100 };
  const BUILD = { memoryMiB: 512 + 608, cpus: 1 };

  it('gets it in the order of the calls, as soon as it is there', async () => {
    const budget = createBudget(LIMITS, ROOMY, new TestClock());
    for (const id of ['a', 'b', 'c']) budget.take(id, NEED);
    const said: string[] = [];
    const order: string[] = [];
    const large = budget.wait('large', BUILD, { onShort: (why) => said.push(why) }).then(() => order.push('large'));
    const small = budget.wait('small', NEED, { onShort: (why) => said.push(why) }).then(() => order.push('small'));
    budget.release('a');
    await Promise.resolve();
    assert.deepEqual(order, [], 'the small one would fit, but it is not its turn');
    budget.release('b');
    await large;
    budget.release('c');
    await small;
    assert.deepEqual(order, ['large', 'small']);
    assert.match(said[0] ?? '', /1824 of 1824 MiB memory are promised, and it needs 1216/);
    assert.equal(said.length, 2);
    for (const id of ['large', 'small']) budget.release(id);
    assert.equal(budget.held.memoryMiB, 0);
  });

  it('lets launches go first for a minute, then they leave it room; what comes back to life needs not', async () => {
    const clock = new TestClock();
    const budget = createBudget(LIMITS, ROOMY, clock);
    for (const id of ['a', 'b', 'c']) budget.take(id, NEED);
    const build = budget.wait('build', BUILD, {});
    budget.release('a');
    budget.take('d', NEED, { yields: true });
    await clock.advance(60_000);
    budget.release('b');
    assert.notEqual(
      refusal(() => budget.take('e', NEED, { yields: true })),
      '',
    );
    budget.take('b', NEED);
    budget.release('b');
    budget.release('c');
    await build;
    assert.equal(budget.held.memoryMiB, 3 * 608);
  });

  it('is told at once when there never will be room', async () => {
    const budget = createBudget(LIMITS, { ...ROOMY, freeDiskMiB: () => 2000 }, new TestClock());
    await assert.rejects(budget.wait('a', { memoryMiB: 2048, cpus: 1 }, {}), {
      code: 'CAPACITY',
      message: /needs 2144 MiB memory, and 1824 is all .*--memory-budget/,
    });
    await assert.rejects(budget.wait('a', { ...NEED, diskMiB: 1500 }, {}), { message: /only 2000 MiB disk are free/ });
  });

  it('may stop waiting, and whoever is behind goes ahead', async () => {
    const budget = createBudget(LIMITS, ROOMY, new TestClock());
    for (const id of ['a', 'b']) budget.take(id, NEED);
    const stop = new AbortController();
    const large = budget.wait('large', BUILD, { signal: stop.signal });
    const small = budget.wait('small', NEED, {});
    stop.abort(new Error('stopped'));
    await assert.rejects(large, /stopped/);
    await small;
    await assert.rejects(budget.wait('x', NEED, { signal: stop.signal }), /stopped/);
    assert.equal(budget.held.machines, 3);
  });

  it('is let in when memory comes back that nobody gave back', async () => {
    const clock = new TestClock();
    let available = 100;
    const budget = createBudget(LIMITS, { ...ROOMY, availableMemoryMiB: () => available }, clock);
    let isIn = false;
    const build = budget.wait('build', BUILD, {}).then(() => {
      isIn = true;
    });
    await clock.advance(5000);
    assert.equal(isIn, false);
    available = 5000;
    await clock.advance(1000);
    await build;
  });
});

describe('the tasks a host allows', () => {
  const files: Record<string, string> = {
    '/proc/sys/kernel/threads-max': '192000\n',
    '/proc/sys/kernel/pid_max': '32768\n',
    '/proc/self/limits': 'Max processes             5000                 95000                processes\n',
    '/proc/self/cgroup': '8:pids:/box/inner\n7:memory:/elsewhere\n0::/user.slice/one.service\n',
    '/sys/fs/cgroup/pids/box/pids.max': '900\n',
    '/sys/fs/cgroup/pids/box/inner/pids.max': 'max\n',
    '/sys/fs/cgroup/user.slice/pids.max': '4000\n',
  };
  const read = (file: string) => files[file] ?? '';

  it('are the least of what kernel, user and control groups allow', () => {
    assert.equal(tasksMax(read), 900);
    files['/sys/fs/cgroup/pids/box/pids.max'] = 'max';
    assert.equal(tasksMax(read), 4000);
    files['/sys/fs/cgroup/user.slice/pids.max'] = '';
    assert.equal(tasksMax(read), 5000);
    assert.equal(
      tasksMax(() => ''),
      4096,
    );
    assert.ok(tasksMax() > 100);
  });
});
