/**
 * Measures the promises of the first path, the server beside the bare engine in one process of measurement:
 * `npm run bench` (all) or `npm run bench -- launch suspend …` (parts: launch, walls, suspend, burst, footprint,
 * cycles). Builds have a bench of their own: build.ts.
 *
 * "Bare" is the same QEMU command and snapshot driven by the engine alone, without jail, API, records or endpoint. Pairs are
 * taken in turn, so that a drift of the machine's speed falls on both.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { loadConfig } from '../src/config.ts';
import { createEngine, type Egress, type Engine, loadRuntime, type Machine } from '../src/engine/index.ts';
import { randomIds, silentLogger, systemClock } from '../src/lib/index.ts';
import { type EndpointClient, endpointClient } from '../test/support/endpoint.ts';
import { buildImage, counterApp, untilState } from '../test/support/images.ts';
import { startServer, type TestServer } from '../test/support/server.ts';
import { footprint } from './footprint.ts';
import { median, printTable, type Row, spread } from './table.ts';

const PARTS = ['launch', 'walls', 'suspend', 'burst', 'footprint', 'cycles'] as const;
const LAUNCHES = 20;
const WALLED_LAUNCHES = 30;
const SUSPENDS = 15;
const BURST = 20;
const CYCLES = 50;
/** Each poll costs the server time in which it would suspend. */
const POLL_MS = 10;
/** What the last step left to do, in the guest and on the disk, is over. */
const SETTLE_MS = 300;

interface Bench {
  readonly server: TestServer;
  readonly imageArn: string;
  readonly engine: Engine;
  readonly snapshotDir: string;
  readonly rows: Row[];
}

interface Microvm extends AsyncDisposable {
  readonly microvmId: string;
  readonly client: EndpointClient;
}

async function main(): Promise<void> {
  const wanted = process.argv.slice(2);
  const parts = wanted.length === 0 ? PARTS : PARTS.filter((part) => wanted.includes(part));
  await using stack = new AsyncDisposableStack();
  const server = stack.use(await startServer());
  const image = await buildImage(server, 'bench', counterApp);
  if (image.state !== 'CREATED') throw new Error(`the bench image is ${image.state}: ${image.stateReason}`);
  const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-bench-'));
  stack.defer(() => rm(stateDir, { recursive: true, force: true }));
  const { cacheDir } = loadConfig({}, process.env);
  const engine = stack.use(
    await createEngine({
      runtime: loadRuntime(cacheDir),
      stateDir,
      cacheDir,
      log: silentLogger,
      clock: systemClock,
      ids: randomIds,
      isBare: true,
    }),
  );
  const rows: Row[] = [{ what: 'accelerator', value: engine.host.accelerator }];
  const bench: Bench = {
    server,
    imageArn: image.imageArn,
    engine,
    snapshotDir: join(server.stateDir, 'images/bench/1.0/snapshot'),
    rows,
  };
  for (const part of parts) {
    console.error(`bench: ${part} ...`);
    await { launch, walls, suspend, burst, footprint: memory, cycles }[part](bench);
  }
  printTable('First path (medians, spread in brackets)', rows);
}

/** RunMicrovm call to the first 200 through TLS and token, against engine.launch to the first 200 through the link. */
async function launch({ server, imageArn, engine, snapshotDir, rows }: Bench): Promise<void> {
  const full: number[] = [];
  const bare: number[] = [];
  for (let i = 0; i <= LAUNCHES; i++) {
    const bareMs = await bareLaunch(engine, snapshotDir);
    await settle();
    const startedAt = performance.now();
    await using microvm = await runMicrovm(server, imageArn);
    await expect200(microvm.client);
    const fullMs = performance.now() - startedAt;
    await settle();
    if (i === 0) continue; // warms caches and connections of both
    bare.push(bareMs);
    full.push(fullMs);
  }
  const ratio = median(full.map((ms, i) => ms / (bare[i] ?? Number.NaN)));
  rows.push(
    { what: 'bare engine: launch to first 200', value: spread(bare) },
    { what: 'RunMicrovm call to first 200 over HTTPS', value: spread(full) },
    { what: 'ratio, pair by pair', value: ratio.toFixed(2), promise: '<= 1.15', kept: ratio <= 1.15 },
  );
}

/** What jail and gateway cost a launch: the engine with both and without, machine by machine, until its agent answers. */
async function walls({ engine, snapshotDir, rows }: Bench): Promise<void> {
  const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-bench-'));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rm(stateDir, { recursive: true, force: true }));
  const { cacheDir } = loadConfig({}, process.env);
  const tools = { runtime: loadRuntime(cacheDir), log: silentLogger, clock: systemClock, ids: randomIds };
  const walled = stack.use(await createEngine({ ...tools, stateDir, cacheDir }));
  const egress: Egress = {
    policy: { rules: [{ id: 'internet', kind: 'internet', protocols: ['tcp'] }], dns: 'open' },
    labels: { principal: 'bench', imageArn: 'bench', imageVersion: '1.0' },
  };
  const took = async (on: Engine, given: { egress?: Egress }): Promise<number> => {
    const startedAt = performance.now();
    await on.launch({ id: 'bench-walls', snapshotDir, ...given }, {});
    const ms = performance.now() - startedAt;
    await on.destroy('bench-walls');
    await settle();
    return ms;
  };
  const bare: number[] = [];
  const full: number[] = [];
  for (let i = 0; i <= WALLED_LAUNCHES; i++) {
    const pair = [await took(engine, {}), await took(walled, { egress })] as const;
    if (i === 0) continue; // warms caches of both
    bare.push(pair[0]);
    full.push(pair[1]);
  }
  const cost = median(full.map((ms, i) => ms - (bare[i] ?? Number.NaN)));
  rows.push(
    { what: 'engine.launch without jail and gateway', value: spread(bare) },
    { what: 'engine.launch with both', value: spread(full) },
    { what: 'difference, pair by pair', value: `${cost.toFixed(1)} ms`, promise: '<= 15 ms', kept: cost <= 15 },
  );
}

async function suspend({ server, imageArn, engine, snapshotDir, rows }: Bench): Promise<void> {
  const call: number[] = [];
  const wake: number[] = [];
  const bareSuspend: number[] = [];
  const bareWake: number[] = [];
  const delta: number[] = [];
  await using microvm = await runMicrovm(server, imageArn);
  await expect200(microvm.client);
  const first = await engine.launch({ id: 'bench-suspend', snapshotDir }, {});
  await get(first);
  await first.suspend({});
  // Only one of the two machines lives at a time: a guest that was just resumed is busy for a while.
  for (let i = 0; i < SUSPENDS; i++) {
    let startedAt = performance.now();
    await server.microvms.suspendMicrovm({ microvmIdentifier: microvm.microvmId });
    await untilState(server, microvm.microvmId, 'SUSPENDED', POLL_MS);
    call.push(performance.now() - startedAt);

    await settle();
    startedAt = performance.now();
    const machine = await engine.resume({ id: 'bench-suspend', snapshotDir }, {});
    await get(machine);
    bareWake.push(performance.now() - startedAt);
    const report = await machine.suspend({});
    bareSuspend.push(report.tookMs);
    delta.push(report.deltaBytes / 1e6);

    await settle();
    const answer = await microvm.client.get('/');
    wake.push(answer.firstByteMs);
    await settle();
  }
  await engine.destroy('bench-suspend');
  const ratio = median(wake.map((ms, i) => ms / (bareWake[i] ?? Number.NaN)));
  rows.push(
    { what: 'bare engine: suspend, fsynced', value: spread(bareSuspend) },
    {
      what: 'SuspendMicrovm call to SUSPENDED, fsynced, idle',
      value: spread(call),
      promise: '<= 60 ms',
      kept: median(call) <= 60,
    },
    { what: 'delta of an idle suspended microVM', value: spread(delta, 'MB', 1) },
    { what: 'bare engine: resume to first 200', value: spread(bareWake) },
    { what: 'held request on a suspended microVM to first byte', value: spread(wake) },
    { what: 'ratio, pair by pair', value: ratio.toFixed(2), promise: '<= 1.15', kept: ratio <= 1.15 },
  );
}

/** Twenty launches at once; the last answer against twenty bare launches at once on the same cores. */
async function burst({ server, imageArn, engine, snapshotDir, rows }: Bench): Promise<void> {
  const ids = Array.from({ length: BURST }, (_, i) => `bench-burst-${i}`);
  let startedAt = performance.now();
  await Promise.all(
    ids.map(async (id) => {
      const machine = await engine.launch({ id, snapshotDir }, {});
      await get(machine);
    }),
  );
  const bareMs = performance.now() - startedAt;
  await Promise.all(ids.map((id) => engine.destroy(id)));

  await using stack = new AsyncDisposableStack();
  startedAt = performance.now();
  const outcomes = await Promise.allSettled(
    ids.map(async () => {
      const microvm = stack.use(await runMicrovm(server, imageArn));
      await expect200(microvm.client);
    }),
  );
  const fullMs = performance.now() - startedAt;
  const failed = outcomes.filter((outcome) => outcome.status === 'rejected').length;
  rows.push(
    { what: `${BURST} bare launches at once, last answer`, value: `${bareMs.toFixed(0)} ms` },
    {
      what: `${BURST} RunMicrovm at once, last answer`,
      value: `${fullMs.toFixed(0)} ms`,
      promise: `${(fullMs / bareMs).toFixed(2)} × bare`,
    },
    { what: 'failed of them', value: String(failed), promise: '0', kept: failed === 0 },
  );
}

async function memory({ server, imageArn, rows }: Bench): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const ids: string[] = [];
  for (let i = 0; i < 5; i++) {
    const microvm = stack.use(await runMicrovm(server, imageArn));
    await expect200(microvm.client);
    ids.push(microvm.microvmId);
  }
  const seen = ids.map(footprint);
  rows.push(
    {
      what: 'memory per idle clone of five, PSS',
      value: spread(
        seen.map((f) => f.pssMB),
        'MB',
      ),
    },
    {
      what: 'of it not shared with the snapshot file',
      value: spread(
        seen.map((f) => f.anonymousMB),
        'MB',
      ),
    },
  );
}

/** Suspend and resume over and over with the app's state checked; clones' randomness; clock error after a resume. */
async function cycles({ server, imageArn, rows }: Bench): Promise<void> {
  // What it showed was not the time at any moment of the asking; and with all that asking took.
  const surelyOff: number[] = [];
  const offAtMost: number[] = [];
  let errors = 0;
  {
    await using microvm = await runMicrovm(server, imageArn);
    for (let i = 1; i <= CYCLES; i++) {
      const answer = await microvm.client.get('/count');
      if (answer.status !== 200 || answer.body !== String(i)) errors++;
      await server.microvms.suspendMicrovm({ microvmIdentifier: microvm.microvmId });
      await untilState(server, microvm.microvmId, 'SUSPENDED');
      await microvm.client.get('/');
      const sentAt = Date.now();
      const guestMs = Number((await microvm.client.get('/time')).body);
      const heardAt = Date.now();
      surelyOff.push(Math.max(0, sentAt - guestMs, guestMs - heardAt));
      offAtMost.push(Math.max(guestMs - sentAt, heardAt - guestMs));
    }
  }
  const draws = new Set<string>();
  for (let i = 0; i < 4; i++) {
    await using microvm = await runMicrovm(server, imageArn);
    draws.add((await microvm.client.get('/random')).body);
  }
  rows.push(
    { what: `errors in ${CYCLES} suspend/resume cycles`, value: String(errors), promise: '0', kept: errors === 0 },
    {
      what: 'clock error after a resume, for sure',
      value: spread(surelyOff, 'ms', 1),
      promise: '<= 50 ms',
      kept: Math.max(...surelyOff) <= 50,
    },
    { what: 'with all that asking took', value: spread(offAtMost, 'ms', 1) },
    { what: 'different random values of 4 clones', value: String(draws.size), promise: '4', kept: draws.size === 4 },
  );
}

function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
}

async function bareLaunch(engine: Engine, snapshotDir: string): Promise<number> {
  const startedAt = performance.now();
  const machine = await engine.launch({ id: 'bench-bare', snapshotDir }, {});
  await get(machine);
  const tookMs = performance.now() - startedAt;
  await machine[Symbol.asyncDispose]();
  await engine.destroy('bench-bare');
  return tookMs;
}

/** GET / on port 8080 through the machine's link, expecting 200. */
async function get(machine: Machine): Promise<void> {
  const tunnel: Duplex = await machine.connect(8080, {});
  await new Promise<void>((resolve, reject) => {
    const call = request({
      path: '/',
      headers: { host: 'localhost', connection: 'close' },
      createConnection: () => tunnel,
    });
    call.on('error', reject);
    call.on('response', (response) => {
      response.resume();
      response.on('end', () =>
        response.statusCode === 200 ? resolve() : reject(new Error(`status ${response.statusCode}`)),
      );
    });
    call.end();
  });
}

async function runMicrovm(server: TestServer, imageArn: string): Promise<Microvm> {
  const answer = await server.microvms.runMicrovm({
    imageIdentifier: imageArn,
    idlePolicy: { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 900, autoResumeEnabled: true },
  });
  const named = { microvmId: answer.microvmId ?? '', endpoint: answer.endpoint ?? '' };
  const client = await endpointClient(server, named);
  return {
    ...named,
    client,
    [Symbol.asyncDispose]: async () => {
      client[Symbol.dispose]();
      await server.microvms.terminateMicrovm({ microvmIdentifier: named.microvmId });
    },
  };
}

async function expect200(client: EndpointClient): Promise<void> {
  const answer = await client.get('/');
  if (answer.status !== 200) throw new Error(`the app answered ${answer.status}`);
}

await main();
