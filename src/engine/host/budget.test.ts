import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import { describe, it } from 'node:test';
import { DomainError } from '../../lib/index.ts';
import { createBudget, hostGauges, hostLimits } from './budget.ts';

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
      /only 1152 MiB disk are free, and 1216 are kept/,
    );
    free = 2000;
    budget.take('c', NEED);
    const tight = createBudget(limits, { ...ROOMY, availableMemoryMiB: () => 600 });
    assert.match(
      refusal(() => tight.take('a', NEED)),
      /only 600 MiB memory/,
    );
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
});
