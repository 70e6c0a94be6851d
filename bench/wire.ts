/**
 * The wire's promises, measured: signed GetMicrovm on one core, list pages and start at 100,000 stored records, memory at
 * rest. The server runs in its own process on one CPU, the load comes from another; machines are fake.
 *
 *   node bench/wire.ts [--records 100000] [--seconds 10]
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Sha256 } from '@aws-crypto/sha256-js';
import { LambdaMicrovms } from '@aws-sdk/client-lambda-microvms';
import { S3 } from '@aws-sdk/client-s3';
import { HttpRequest } from '@smithy/protocol-http';
import { SignatureV4 } from '@smithy/signature-v4';
import { randomIds } from '../src/lib/index.ts';
import { openStore, type Row } from '../src/store/index.ts';
import { rawZip } from '../test/support/raw-zip.ts';
import { generateLoad } from './load.ts';
import { printTable, spread, type Row as TableRow } from './table.ts';

const { values } = parseArgs({
  options: { records: { type: 'string', default: '100000' }, seconds: { type: 'string', default: '10' } },
});
const recordCount = Number(values.records);
const region = 'us-east-1';
const account = '000000000000';
const connections = 8;

interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

interface Server {
  readonly child: ChildProcess;
  readonly apiPort: number;
  readonly s3Port: number;
  readonly startMs: number;
}

const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-wire-'));
const compiledDir = await mkdtemp(join(tmpdir(), 'rekindle-wire-'));
try {
  // The last CPU for the load, the first for the server.
  execFileSync('taskset', ['-cp', String(availableParallelism() - 1), String(process.pid)], { stdio: 'ignore' });
  const credentials = await prepare();
  await multiply();
  printTable(`The wire at ${recordCount.toLocaleString('en')} stored microVMs`, await measure(credentials));
} finally {
  for (const dir of [stateDir, compiledDir]) await rm(dir, { recursive: true, force: true });
}

/** One image and one ended microVM, made the regular way. */
async function prepare(): Promise<Credentials> {
  const server = await start();
  const file = JSON.parse(readFileSync(join(stateDir, 'credentials.json'), 'utf8')) as Credentials;
  const credentials = { accessKeyId: file.accessKeyId, secretAccessKey: file.secretAccessKey };
  const s3 = new S3({ region, credentials, endpoint: `http://127.0.0.1:${server.s3Port}`, forcePathStyle: true });
  await s3.createBucket({ Bucket: 'bench' });
  const Body = rawZip([{ name: 'Dockerfile', content: 'FROM base\n' }]);
  await s3.putObject({ Bucket: 'bench', Key: 'app.zip', Body });
  const sdk = new LambdaMicrovms({ region, credentials, endpoint: `http://127.0.0.1:${server.apiPort}` });
  const { imageArn = '' } = await sdk.createMicrovmImage({
    name: 'bench',
    baseImageArn: `arn:aws:lambda:${region}:aws:microvm-image:al2023-1`,
    buildRoleArn: `arn:aws:iam::${account}:role/build`,
    codeArtifact: { uri: 's3://bench/app.zip' },
  });
  await until(async () => (await sdk.getMicrovmImage({ imageIdentifier: imageArn })).state === 'CREATED');
  const { microvmId: microvmIdentifier = '' } = await sdk.runMicrovm({ imageIdentifier: imageArn });
  await until(async () => (await sdk.getMicrovm({ microvmIdentifier })).state === 'RUNNING');
  await sdk.terminateMicrovm({ microvmIdentifier });
  await until(async () => (await sdk.getMicrovm({ microvmIdentifier })).state === 'TERMINATED');
  s3.destroy();
  sdk.destroy();
  await stop(server);
  return credentials;
}

/** Copies the ended microVM's record, each with an id and a moment of its own. */
async function multiply(): Promise<void> {
  await using store = await openStore(join(stateDir, 'store.sqlite'));
  const rows = store.records<{ id: string }>('microvms');
  const [row] = await rows.list({ limit: 1 });
  if (row === undefined) throw new Error('there is no record to copy');
  for (let made = 1; made < recordCount; ) {
    const batch = Array.from({ length: Math.min(5000, recordCount - made) }, () => copyOf(row, made++));
    await store.write(batch.map((one) => rows.insert(one)));
  }
}

function copyOf(row: Row<{ id: string }>, index: number): Row<{ id: string }> {
  const id = `microvm-${randomIds.uuid()}`;
  return { ...row, id, createdAt: row.createdAt - index * 10, body: { ...row.body, id } };
}

async function measure(credentials: Credentials): Promise<TableRow[]> {
  const starts: number[] = [];
  const startCpu: number[] = [];
  for (let round = 0; round < 3; round++) {
    const server = await start();
    starts.push(server.startMs);
    startCpu.push(cpuSeconds(server) * 1000);
    await stop(server);
  }
  const server = await start();
  await new Promise((resolve) => setTimeout(resolve, 3000));
  const idleMB = residentMB(server);
  const ids: string[] = [];
  const pageRequests: Buffer[] = [];
  for (let round = 0, nextToken: string | null = null; round < 200; round++) {
    const query: Record<string, string> = nextToken === null ? {} : { nextToken };
    const path = '/2025-09-09/microvms';
    const { headers } = await sign(server, credentials, path, query);
    const target = nextToken === null ? path : `${path}?nextToken=${encodeURIComponent(nextToken)}`;
    const response = await fetch(`http://127.0.0.1:${server.apiPort}${target}`, { headers });
    const page = (await response.json()) as { items: { microvmId: string }[]; nextToken: string | null };
    pageRequests.push(plainText(target, headers));
    ids.push(...page.items.map((item) => item.microvmId));
    nextToken = page.nextToken;
  }
  const pages = await generateLoad(server.apiPort, pageRequests, { connections: 1, seconds: 3 });
  const requests = await Promise.all(
    ids.slice(0, 5000).map(async (id) => {
      const path = `/2025-09-09/microvms/${id}`;
      return plainText(path, (await sign(server, credentials, path, {})).headers);
    }),
  );
  await generateLoad(server.apiPort, requests, { connections, seconds: 2 });
  const cpuBefore = cpuSeconds(server);
  const load = await generateLoad(server.apiPort, requests, { connections, seconds: Number(values.seconds) });
  const perCpuSecond = load.count / (cpuSeconds(server) - cpuBefore);
  const loadedMB = residentMB(server);
  await stop(server);
  return [
    {
      what: "signed GetMicrovm per second of one core's time",
      value: `${perCpuSecond.toFixed(0)} /s`,
      promise: '≥ 3000 /s',
      kept: perCpuSecond >= 3000,
    },
    { what: '  per second on the clock', value: `${load.requestsPerSecond.toFixed(0)} /s` },
    {
      what: `  its p99 at ${connections} connections`,
      value: `${load.p99Ms.toFixed(1)} ms`,
      promise: '≤ 10 ms',
      kept: load.p99Ms <= 10,
    },
    { what: '  its median and maximum', value: `${load.p50Ms.toFixed(1)}, ${load.maxMs.toFixed(1)} ms` },
    {
      what: 'list page of 50, p99',
      value: `${pages.p99Ms.toFixed(1)} ms`,
      promise: '≤ 10 ms',
      kept: pages.p99Ms <= 10,
    },
    { what: '  its median and maximum', value: `${pages.p50Ms.toFixed(1)}, ${pages.maxMs.toFixed(1)} ms` },
    { what: 'start, process to ready', value: spread(starts), promise: '≤ 2000 ms', kept: Math.max(...starts) <= 2000 },
    { what: '  CPU time of it', value: spread(startCpu) },
    { what: 'resident memory at rest', value: `${idleMB.toFixed(0)} MB`, promise: '≤ 150 MB', kept: idleMB <= 150 },
    { what: '  after the load', value: `${loadedMB.toFixed(0)} MB` },
  ];
}

async function start(): Promise<Server> {
  const startedAt = performance.now();
  const flags = (process.env.REKINDLE_BENCH_NODE_FLAGS ?? '').split(' ').filter((flag) => flag !== '');
  const program = [process.execPath, ...flags, join(import.meta.dirname, 'wire-server.ts'), stateDir];
  // As scripts/with-node sets it for every command.
  const env = { NODE_COMPILE_CACHE: compiledDir, ...process.env };
  const child = spawn('taskset', ['-c', '0', ...program], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  for await (const line of createInterface({ input: child.stdout })) {
    const ports = JSON.parse(line) as { apiPort: number; s3Port: number };
    return { child, ...ports, startMs: performance.now() - startedAt };
  }
  throw new Error('the server ended before it was ready');
}

async function stop({ child }: Server): Promise<void> {
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  await exited;
}

/** Of all threads, user and system: what the server really used, also on a machine that has other things to do. */
function cpuSeconds({ child }: Server): number {
  const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  const ticksPerSecond = 100;
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

function residentMB({ child }: Server): number {
  const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? Number.NaN) / 1000;
}

async function sign(server: Server, credentials: Credentials, path: string, query: Record<string, string>) {
  const signer = new SignatureV4({ credentials, region, service: 'lambda', sha256: Sha256 });
  return await signer.sign(
    new HttpRequest({ method: 'GET', path, query, headers: { host: `127.0.0.1:${server.apiPort}` } }),
  );
}

function plainText(path: string, headers: Readonly<Record<string, string>>): Buffer {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  return Buffer.from(`GET ${path} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
}

async function until(isSo: () => Promise<boolean>): Promise<void> {
  while (!(await isSo())) await new Promise((resolve) => setTimeout(resolve, 20));
}
