/**
 * What a server costs that has nothing to do, and how soon it is back: `npm run bench -- standing [parts] [--running 20]
 * [--suspended 1000] [--seconds 60] [--adopted 40]`, parts: idle, start, adopt, timers, crowd.
 *
 * Running microVMs are real machines, launched from one small image. Suspended ones, but for the first, are copies of its
 * record and hard links to what it saved (standing/records.ts). CPU is what the kernel counted for a process, so a
 * machine that has other things to do bends wall times only.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { LambdaMicrovms } from '@aws-sdk/client-lambda-microvms';
import { type EndpointClient, endpointClient } from '../test/support/endpoint.ts';
import { buildImage, counterApp, untilState } from '../test/support/images.ts';
import { recordedVmms } from '../test/support/process-facts.ts';
import { startServer, type TestServer } from '../test/support/server.ts';
import { crowd } from './standing/crowd.ts';
import { cpuMs, openFiles, residentMB, wakeUps } from './standing/processes.ts';
import { multiply } from './standing/records.ts';
import { serve } from './standing/serve.ts';
import { timers } from './standing/timers.ts';
import { median, printTable, type Row, spread } from './table.ts';

const PARTS = ['idle', 'start', 'adopt', 'timers', 'crowd'] as const;
const START_RECORDS = 10_000;
const START_ROUNDS = 5;
const ADOPT_ROUNDS = 3;
/** Guests without KVM on few cores answer no more at once within the endpoint's patience. */
const ASKED_AT_ONCE = 8;
const TIMER_RECORDS = 100_000;
/** Below the range from which the kernel gives ports. */
const FIRST_PORT = 11_000;
/** What a launch leaves to do (corrected clocks, first log lines) is over. */
const CALM_MS = 10_000;
/** Between two attempts to reach a server that does not listen yet. */
const KNOCK_MS = 3;
/** As many as asked for, whatever their guaranteed sizes come to together. */
const ARGS = ['--memory-budget', '1000000', '--on-shutdown', 'terminate'];
const POLICY = { maxIdleDurationSeconds: 28_000, suspendedDurationSeconds: 28_000, autoResumeEnabled: true };

interface Settings {
  readonly running: number;
  readonly suspended: number;
  readonly seconds: number;
  readonly adopted: number;
}

/** A state folder with one image, one SUSPENDED and one TERMINATED microVM, and no server on it. */
interface Bench extends AsyncDisposable {
  readonly stateDir: string;
  readonly settings: Settings;
  readonly rows: Row[];
  /** For its clients: every later server listens on the same ports. */
  readonly clients: TestServer;
  readonly imageArn: string;
  readonly asleep: string;
}

interface Running {
  readonly microvmId: string;
  readonly client: EndpointClient;
}

async function main(): Promise<void> {
  const number = (fallback: number) => ({ type: 'string', default: String(fallback) }) as const;
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { running: number(20), suspended: number(1000), seconds: number(60), adopted: number(40) },
  });
  const settings = {
    running: Number(values.running),
    suspended: Number(values.suspended),
    seconds: Number(values.seconds),
    adopted: Number(values.adopted),
  };
  const parts = positionals.length === 0 ? PARTS : PARTS.filter((part) => positionals.includes(part));
  const rows: Row[] = [{ what: 'load average when it began', value: load() }];
  for (const part of parts) {
    console.error(`bench: ${part} ...`);
    if (part === 'timers') {
      rows.push(...(await timers(TIMER_RECORDS, settings.seconds)));
      continue;
    }
    if (part === 'crowd') {
      rows.push(...(await crowd()));
      continue;
    }
    await using bench = await prepare(settings, rows);
    await { idle, start, adopt }[part](bench);
  }
  rows.push({ what: 'load average when it ended', value: load() });
  printTable('Standing (medians, spread in brackets)', rows);
}

function load(): string {
  return loadavg()[0]?.toFixed(1) ?? '';
}

async function prepare(settings: Settings, rows: Row[]): Promise<Bench> {
  await using stack = new AsyncDisposableStack();
  const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-standing-'));
  stack.defer(() => rm(stateDir, { recursive: true, force: true }));
  const clients = stack.use(await startServer({ stateDir, args: ARGS }));
  const { imageArn, state, stateReason } = await buildImage(clients, 'standing', counterApp);
  if (state !== 'CREATED') throw new Error(`the bench image is ${state}: ${stateReason}`);
  const [asleep, ended] = [await run(clients, imageArn), await run(clients, imageArn)];
  await clients.microvms.suspendMicrovm({ microvmIdentifier: asleep.microvmId });
  await untilState(clients, asleep.microvmId, 'SUSPENDED');
  await clients.microvms.terminateMicrovm({ microvmIdentifier: ended.microvmId });
  for (const { client } of [asleep, ended]) client[Symbol.dispose]();
  await clients.stop();
  const owned = stack.move();
  return {
    stateDir,
    settings,
    rows,
    clients,
    imageArn,
    asleep: asleep.microvmId,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Server, gateway and machines with nothing to do. */
async function idle({ stateDir, settings, rows, clients, imageArn }: Bench): Promise<void> {
  const { running, suspended, seconds } = settings;
  await multiply(stateDir, { count: suspended - 1, state: 'SUSPENDED', fromPort: FIRST_PORT, withFiles: true });
  const server = serve(stateDir, ARGS);
  try {
    await server.ready;
    const alone = await quiet([server.pid], seconds);
    const microvms: Running[] = [];
    for (let i = 0; i < running; i++) microvms.push(await run(clients, imageArn));
    // What a user's client leaves open is not idle.
    for (const { client } of microvms) client[Symbol.dispose]();
    await delay(CALM_MS);
    const gateway = JSON.parse(readFileSync(join(stateDir, 'gateway.json'), 'utf8')) as { pid: number };
    const vmms = [...recordedVmms(stateDir).values()].map(({ pid }) => pid);
    const [own, net, ...guests] = await quiet([server.pid, gateway.pid, ...vmms], seconds);
    const share = own?.percent ?? Number.NaN;
    const value = (one: Quiet | undefined) => `${one?.percent.toFixed(2)} %, ${one?.wakeUpsPerSecond.toFixed(1)}/s`;
    rows.push(
      { what: `server, ${suspended} suspended, none running: CPU, wake-ups`, value: value(alone[0]) },
      {
        what: `server, ${suspended} suspended, ${running} running: CPU, wake-ups`,
        value: value(own),
        promise: '<= 2 % of a core',
        kept: share <= 2,
      },
      {
        what: '  its resident memory, open files',
        value: `${residentMB(server.pid).toFixed(0)} MB, ${openFiles(server.pid)}`,
      },
      { what: 'gateway beside it', value: value(net) },
      {
        what: 'one guest beside it (VMM)',
        value: spread(
          guests.map(({ percent }) => percent),
          '%',
          2,
        ),
      },
    );
  } finally {
    await server.end('SIGTERM');
  }
}

/** From the first process to the answer of a GetMicrovm; ended records and sleeping ones, which have an endpoint each. */
async function start(bench: Bench): Promise<void> {
  const { stateDir, rows, settings } = bench;
  const node = await times(async () => void execFileSync(process.execPath, ['-e', '0']));
  rows.push({ what: 'node alone, start to end', value: spread(node) });
  const few = await starts(bench);
  rows.push({ what: 'start to first GetMicrovm, 2 records', value: spread(few.tookMs) });
  const asleep = settings.suspended;
  await multiply(stateDir, { count: asleep - 1, state: 'SUSPENDED', fromPort: FIRST_PORT });
  await multiply(stateDir, { count: START_RECORDS - asleep - 1, state: 'TERMINATED', fromPort: FIRST_PORT });
  const usual = await starts(bench);
  const promise = (took: readonly number[]) => ({ promise: '<= 2 s', kept: median(took) <= 2000 });
  rows.push(
    {
      what: `the same, 10,000 records, ${asleep} of them suspended`,
      value: spread(usual.tookMs),
      ...promise(usual.tookMs),
    },
    { what: '  CPU time of it', value: spread(usual.cpuMs) },
  );
  const more = START_RECORDS - asleep;
  await multiply(stateDir, { count: more, state: 'SUSPENDED', fromPort: FIRST_PORT + asleep });
  const worst = await starts(bench);
  rows.push(
    { what: 'the same, 10,000 suspended', value: spread(worst.tookMs), ...promise(worst.tookMs) },
    { what: '  CPU time of it', value: spread(worst.cpuMs) },
  );
}

async function starts({ stateDir, clients, asleep }: Bench): Promise<{ tookMs: number[]; cpuMs: number[] }> {
  const figures = { tookMs: [] as number[], cpuMs: [] as number[] };
  const { AWS_ACCESS_KEY_ID: accessKeyId = '', AWS_SECRET_ACCESS_KEY: secretAccessKey = '' } = clients.env;
  const { AWS_REGION: region = '', AWS_ENDPOINT_URL_LAMBDA_MICROVMS: endpoint = '' } = clients.env;
  const sdk = new LambdaMicrovms({ endpoint, region, credentials: { accessKeyId, secretAccessKey }, maxAttempts: 1 });
  for (let round = 0; round < START_ROUNDS; round++) {
    const server = serve(stateDir, ARGS);
    try {
      await knock(() => sdk.getMicrovm({ microvmIdentifier: asleep }));
      figures.tookMs.push(performance.now() - server.startedAt);
      figures.cpuMs.push(cpuMs(server.pid));
      await server.ready;
    } finally {
      await server.end('SIGTERM');
    }
  }
  sdk.destroy();
  return figures;
}

/** Kills the server over its machines: how soon all are taken over by the next, and then every one answers by its endpoint. */
async function adopt({ stateDir, settings, rows, clients, imageArn }: Bench): Promise<void> {
  let server = serve(stateDir, ARGS, 'info');
  try {
    await server.ready;
    const microvms: Running[] = [];
    for (let i = 0; i < settings.adopted; i++) microvms.push(await run(clients, imageArn));
    await delay(CALM_MS);
    const vmms = () =>
      [...recordedVmms(stateDir).values()]
        .map(({ pid }) => pid)
        .sort()
        .join();
    const before = vmms();
    const figures = {
      readyMs: [] as number[],
      takenOverMs: [] as number[],
      servedMs: [] as number[],
      cpuMs: [] as number[],
      guestMs: [] as number[],
    };
    const guestMs = () => [...recordedVmms(stateDir).values()].reduce((sum, { pid }) => sum + cpuMs(pid), 0);
    for (let round = 0; round < ADOPT_ROUNDS; round++) {
      await server.end('SIGKILL');
      const guestsBefore = guestMs();
      server = serve(stateDir, ARGS, 'info');
      await server.ready;
      figures.readyMs.push(performance.now() - server.startedAt);
      await server.logged('machine taken over', microvms.length);
      figures.takenOverMs.push(performance.now() - server.startedAt);
      figures.cpuMs.push(cpuMs(server.pid));
      await eachOf(microvms, ASKED_AT_ONCE, ({ client }) => expect200(client));
      figures.servedMs.push(performance.now() - server.startedAt);
      figures.guestMs.push((guestMs() - guestsBefore) / microvms.length);
      if (vmms() !== before) throw new Error('a machine was not taken over but started anew');
    }
    for (const { client } of microvms) client[Symbol.dispose]();
    rows.push(
      { what: `killed over ${settings.adopted} machines: start to ready`, value: spread(figures.readyMs) },
      {
        what: '  start until all were taken over',
        value: spread(figures.takenOverMs),
        promise: '100 in <= 5 s',
        // Fewer prove nothing, and too slow ones enough.
        ...(settings.adopted >= 100 || median(figures.takenOverMs) > 5000
          ? { kept: median(figures.takenOverMs) <= 5000 }
          : {}),
      },
      { what: '  CPU time of the server until then', value: spread(figures.cpuMs) },
      { what: '  CPU time of each guest until it answered', value: spread(figures.guestMs) },
      { what: '  start until every endpoint answered, eight at a time', value: spread(figures.servedMs) },
    );
  } finally {
    await server.end('SIGTERM');
  }
}

interface Quiet {
  readonly percent: number;
  readonly wakeUpsPerSecond: number;
}

/** What processes use of a core while nobody asks anything of them. */
async function quiet(pids: readonly number[], seconds: number): Promise<Quiet[]> {
  const seen = () => pids.map((pid) => ({ cpu: cpuMs(pid), wakeUps: wakeUps(pid) }));
  const [startedAt, before] = [performance.now(), seen()];
  await delay(seconds * 1000);
  const [tookMs, after] = [performance.now() - startedAt, seen()];
  return after.map((now, i) => ({
    percent: ((now.cpu - (before[i]?.cpu ?? 0)) / tookMs) * 100,
    wakeUpsPerSecond: ((now.wakeUps - (before[i]?.wakeUps ?? 0)) / tookMs) * 1000,
  }));
}

async function run(clients: TestServer, imageIdentifier: string): Promise<Running> {
  const { microvmId = '', endpoint = '' } = await clients.microvms.runMicrovm({ imageIdentifier, idlePolicy: POLICY });
  const client = await endpointClient(clients, { microvmId, endpoint });
  await expect200(client);
  return { microvmId, client };
}

async function expect200(client: EndpointClient): Promise<void> {
  const { status, body } = await client.get('/');
  if (status !== 200) throw new Error(`the app answered ${status}: ${body}`);
}

async function eachOf<T>(all: readonly T[], atOnce: number, act: (one: T) => Promise<void>): Promise<void> {
  const rest = [...all];
  const lane = async () => {
    for (let one = rest.pop(); one !== undefined; one = rest.pop()) await act(one);
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}

/** Until somebody is at home. */
async function knock(ask: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      return void (await ask());
    } catch (error) {
      const { code } = error as { code?: string };
      if (code !== 'ECONNREFUSED' && code !== 'ECONNRESET') throw error;
      await delay(KNOCK_MS);
    }
  }
}

async function times(work: () => Promise<unknown>): Promise<number[]> {
  const took: number[] = [];
  for (let i = 0; i < START_ROUNDS; i++) {
    const startedAt = performance.now();
    await work();
    took.push(performance.now() - startedAt);
  }
  return took;
}

await main();
