/** Far more than the host can carry, all at once: everything ends in a right state, and the budget holds at every instant. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type Budget, createBudget } from '../engine/index.ts';
import { DomainError, TestClock } from '../lib/index.ts';
import { imageInput, type Rooms, rooms } from './test-rooms.ts';

const ROOMY = { availableMemoryMiB: () => 100_000, freeDiskMiB: () => 100_000 };
/** With what its VMM takes besides. */
const MICROVM_MIB = 512 + 96;
const LIMITS = { memoryMiB: 12 * MICROVM_MIB, cpus: 4, machines: 14, files: 2000 };
const CALLERS = 200;
/** Refused ones ask again, so that what was given back is wanted at once. */
const ATTEMPTS = 25;
const BUILDS = 12;
const POLICY = { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 900, autoResumeEnabled: true };
const MOST_LAUNCHES = 4;
const MOST_BUILDS = 2;
const QUOTA_MIB = 40 * 512;

/** Looks on at everything the engine is asked for. */
class Watch {
  readonly most = { launch: 0, build: 0, machines: 0 };
  readonly #now = { launch: 0, build: 0 };
  readonly #rooms: Rooms;
  readonly #budget: Budget;

  constructor(crowd: Rooms, budget: Budget) {
    this.#rooms = crowd;
    this.#budget = budget;
    const { engine } = crowd;
    engine.launch = this.#count('launch', engine.launch.bind(engine));
    engine.resume = this.#count('launch', engine.resume.bind(engine));
    engine.build = this.#count('build', engine.build.bind(engine));
    engine.seal = this.#count('build', engine.seal.bind(engine));
  }

  look(): void {
    const { held } = this.#budget;
    assert.ok(held.memoryMiB <= LIMITS.memoryMiB, `${held.memoryMiB} MiB are promised`);
    assert.ok(held.cpus <= LIMITS.cpus, `${held.cpus} vCPUs are promised`);
    assert.ok(held.machines <= LIMITS.machines, `${held.machines} machines are promised`);
    const live = this.#rooms.engine.machines.size;
    assert.ok(live + this.#now.build <= held.machines, `${live} machines live, and ${held.machines} have a share`);
    this.most.machines = Math.max(this.most.machines, live);
    for (const what of ['launch', 'build'] as const) this.most[what] = Math.max(this.most[what], this.#now[what]);
  }

  /** Work that takes a few turns of the loop, so that a lot of it is under way at the same time. */
  #count<A extends unknown[], T>(what: 'launch' | 'build', work: (...args: A) => Promise<T>) {
    return async (...args: A): Promise<T> => {
      this.#now[what] += 1;
      try {
        for (let i = 0; i < 5; i++) {
          this.look();
          await new Promise((resolve) => setImmediate(resolve));
        }
        return await work(...args);
      } finally {
        this.#now[what] -= 1;
        this.look();
      }
    };
  }
}

describe('two hundred callers at once on a small host', () => {
  it('each get a microVM in a right state or a refusal that says why, and every share comes back', async () => {
    const clock = new TestClock();
    const budget = createBudget(LIMITS, ROOMY, clock);
    await using crowd = await rooms({
      budget,
      clock,
      memoryQuotaMiB: QUOTA_MIB,
      concurrentBuilds: MOST_BUILDS,
      concurrentLaunches: MOST_LAUNCHES,
    });
    const { microvms, images, engine } = crowd;
    const imageArn = await crowd.build('demo');
    const watch = new Watch(crowd, budget);
    for (let i = 0; i < 2; i++) {
      engine.failNext('launch', new Error('no luck'));
      engine.failNext('suspend', new Error('no luck'));
      engine.failNext('resume', new Error('no luck'));
    }
    engine.failNext('seal', new Error('no luck'));

    const refusals = new Map<string, number>();
    const call = async <T>(work: Promise<T>): Promise<T | undefined> => {
      try {
        return await work;
      } catch (error) {
        assert.ok(error instanceof DomainError, String(error));
        refusals.set(error.code, (refusals.get(error.code) ?? 0) + 1);
        return undefined;
      } finally {
        watch.look();
      }
    };
    const stateOf = async (id: string) => (await microvms.get(id)).state;
    const settled = async (id: string) => {
      while (!['RUNNING', 'SUSPENDED', 'TERMINATED'].includes(await stateOf(id))) await turn();
    };
    const caller = async (i: number) => {
      let made: Awaited<ReturnType<typeof microvms.run>> | undefined;
      for (let attempt = 0; made === undefined && attempt < ATTEMPTS; attempt++) {
        made = await call(microvms.run({ imageIdentifier: imageArn, idlePolicy: POLICY }));
        for (let turns = 0; turns <= i % 20; turns++) await turn();
      }
      if (made === undefined) return;
      const { microvmId: id } = made;
      if (i % 5 === 4) return void (await call(microvms.terminate(id)));
      await settled(id);
      if (i % 5 === 0) return;
      await call(microvms.suspend(id));
      if (i % 5 === 1) return;
      await settled(id);
      await Promise.all([call(microvms.resume(id)), call(microvms.resume(id))]);
      if (i % 5 === 2) return;
      await Promise.all([call(microvms.suspend(id)), call(microvms.terminate(id))]);
    };
    const builds = Array.from({ length: BUILDS }, (_, i) => images.create(imageInput(`image-${i}`)));
    await Promise.all([...Array.from({ length: CALLERS }, (_, i) => caller(i)), ...builds]);

    const ids = async () => (await Array.fromAsync(microvms.holding())).map(({ microvmId }) => microvmId);
    const isCalm = async () => {
      const states = await Promise.all((await ids()).map(stateOf));
      return states.every((state) => state === 'RUNNING' || state === 'SUSPENDED');
    };
    await crowd.until('no microVM is on its way anywhere', isCalm);
    // All that sleep are wanted at once.
    await Promise.all((await ids()).map((id) => call(microvms.resume(id))));
    await crowd.until('those there is room for have come back', isCalm);
    watch.look();
    assert.deepEqual([...refusals.keys()].sort(), ['CAPACITY', 'CONFLICT', 'INVALID', 'QUOTA']);
    const states = new Set(await Promise.all((await ids()).map(stateOf)));
    assert.deepEqual([...states].sort(), ['RUNNING', 'SUSPENDED']);

    for (const id of await ids()) await microvms.terminate(id);
    await crowd.until('all have ended', async () => (await ids()).length === 0);
    for (const { imageArn: arn } of await Promise.all(builds)) await crowd.built(arn);
    const ends = (await images.list({})).items.map(({ state }) => state);
    assert.equal(ends.filter((state) => state === 'CREATED').length, BUILDS, 'all but the one that had no luck');
    assert.deepEqual(budget.held, { machines: 0, memoryMiB: 0, cpus: 0, diskMiB: 0, files: 0 });
    assert.equal(engine.machines.size, 0);
    assert.ok(watch.most.launch <= MOST_LAUNCHES && watch.most.build <= MOST_BUILDS, JSON.stringify(watch.most));
    assert.ok(watch.most.launch === MOST_LAUNCHES && watch.most.machines >= 8, 'there was a crowd');
  });
});

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
