/** One microVM suspended and resumed again and again: everything it had it has still, whatever little room there is. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { type EndpointClient, endpointClient } from '../support/endpoint.ts';
import { buildImage, untilState } from '../support/images.ts';
import { LongLife, longLifeApp } from '../support/long-life.ts';
import { startServer, type TestServer } from '../support/server.ts';
import { type SmallDisk, smallDisk } from '../support/small-disk.ts';

const { REKINDLE_CYCLES: cycles = '200', REKINDLE_PRESSED_CYCLES: pressedCycles = '50' } = process.env;
const CYCLES = Number(cycles);
const CYCLES_UNDER_PRESSURE = Number(pressedCycles);
/** Buffers of 1 MiB. */
const BUFFERS = 32;
/** Of the guest's memory. */
const LEAVE_MIB = 150;
const DISK_MIB = 8192;
/** More than the delta of a full guest, less than two. */
const ROOM_MIB = 2500;
/** Less than a delta: every so often a suspend finds that. */
const NO_ROOM_MIB = 100;
const WITHOUT_ROOM_EVERY = 5;
const MOST_OFF_MS = 50;

const isLong = process.env.REKINDLE_LONG_TESTS !== undefined;
const skip = isLong
  ? process.getuid?.() !== 0 && 'needs root: a small disk is mounted'
  : 'takes ten minutes: REKINDLE_LONG_TESTS=1 runs it';

describe('a microVM that is suspended and resumed again and again', { skip }, () => {
  let disk: SmallDisk;
  let server: TestServer;
  let imageArn: string;

  before(async () => {
    disk = await smallDisk(DISK_MIB);
    server = await startServer({ stateDir: `${disk.dir}/state` });
    const image = await buildImage(server, 'cycles', longLifeApp);
    assert.equal(image.state, 'CREATED', `${image.stateReason}\n${server.log()}`);
    imageArn = image.imageArn;
  });
  afterEach((t) => {
    if ('passed' in t && t.passed === false) console.error(server.log().slice(-8000));
  });
  after(async () => {
    await server?.[Symbol.asyncDispose]();
    await disk?.[Symbol.asyncDispose]();
  });

  test(`has all it had after ${CYCLES} times, its clocks included`, async (t) => {
    await using vm = await launched(server, imageArn);
    const life = await LongLife.begin(vm.client, BUFFERS);
    const figures = {
      suspendMs: [] as number[],
      resumeMs: [] as number[],
      surely: [] as number[],
      atMost: [] as number[],
    };
    for (let cycle = 1; cycle <= CYCLES; cycle++) {
      await life.touch(cycle);
      const startedAt = performance.now();
      await server.microvms.suspendMicrovm({ microvmIdentifier: vm.id });
      await untilState(server, vm.id, 'SUSPENDED');
      const sleptAt = performance.now();
      // Every other time by its traffic alone.
      if (cycle % 2 === 0) await server.microvms.resumeMicrovm({ microvmIdentifier: vm.id });
      const { surely, atMost } = await life.clocks();
      figures.surely.push(surely);
      figures.atMost.push(atMost);
      figures.suspendMs.push(sleptAt - startedAt);
      figures.resumeMs.push(performance.now() - sleptAt);
      await life.look();
    }
    t.diagnostic(`clock off by ${spread(figures.surely)} for sure, ${spread(figures.atMost)} with what asking takes`);
    t.diagnostic(`suspend ${spread(figures.suspendMs)}, resume until timers fired ${spread(figures.resumeMs)}`);
    // Of a host that has time for its guests; on a busy one some are later.
    assert.ok(median(figures.surely) <= MOST_OFF_MS, `clock errors in ms: ${figures.surely.map(Math.round)}`);
  });

  test(`has all it had after ${CYCLES_UNDER_PRESSURE} times with hardly any memory and disk left`, async (t) => {
    await using vm = await launched(server, imageArn);
    const life = await LongLife.begin(vm.client, BUFFERS);
    await life.weigh(LEAVE_MIB);
    await life.look();
    t.diagnostic(`${life.freeMiB} MiB of the guest's memory are free`);
    let refused = 0;
    for (let cycle = 1; cycle <= CYCLES_UNDER_PRESSURE; cycle++) {
      await life.touch(cycle);
      if (cycle % WITHOUT_ROOM_EVERY === 0) {
        await disk.fill(NO_ROOM_MIB);
        refused += await refusedSuspend(server, vm.id);
        await life.look();
        await disk.free();
      }
      await disk.fill(ROOM_MIB);
      await server.microvms.suspendMicrovm({ microvmIdentifier: vm.id });
      await untilState(server, vm.id, 'SUSPENDED');
      // With less than it keeps for suspends the host would not take it on again.
      await disk.free();
      await server.microvms.resumeMicrovm({ microvmIdentifier: vm.id });
      // Nearly two gibibytes are put back: traffic would not be held for so long on a busy host.
      await untilState(server, vm.id, 'RUNNING');
      await life.look();
    }
    t.diagnostic(`${refused} suspends found no room; the microVM ran on each time`);
    assert.equal(refused, Math.floor(CYCLES_UNDER_PRESSURE / WITHOUT_ROOM_EVERY));
  });
});

interface Launched extends AsyncDisposable {
  readonly id: string;
  readonly client: EndpointClient;
}

async function launched(server: TestServer, imageIdentifier: string): Promise<Launched> {
  const { microvmId: id = '', endpoint = '' } = await server.microvms.runMicrovm({
    imageIdentifier,
    idlePolicy: { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 900, autoResumeEnabled: true },
  });
  const client = await endpointClient(server, { microvmId: id, endpoint });
  return {
    id,
    client,
    [Symbol.asyncDispose]: async () => {
      client[Symbol.dispose]();
      await server.microvms.terminateMicrovm({ microvmIdentifier: id });
      await untilState(server, id, 'TERMINATED');
    },
  };
}

/** 1 when the suspend could not be made durable and the microVM says that it runs on. */
async function refusedSuspend(server: TestServer, microvmIdentifier: string): Promise<number> {
  await server.microvms.suspendMicrovm({ microvmIdentifier });
  for (;;) {
    const { state, stateReason = '' } = await server.microvms.getMicrovm({ microvmIdentifier });
    if (state === 'SUSPENDED') return 0;
    if (state === 'RUNNING') {
      assert.match(stateReason, /could not be suspended/);
      return 1;
    }
    assert.equal(state, 'SUSPENDING', stateReason);
  }
}

function spread(ms: readonly number[]): string {
  return `${Math.round(median(ms))} ms (at most ${Math.round(Math.max(...ms))})`;
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;
}
