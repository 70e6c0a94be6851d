/**
 * Launches whose snapshot is not in the host's page cache, with and without read-ahead, beside warm ones:
 * `node_modules/.bin/node bench/cold.ts [rounds]`. Also what a version takes on disk and how long sealing it takes.
 *
 * Cold: the parts of this snapshot, and nothing else, are evicted before the launch; the VMM's own files stay in memory, and the server
 * knows the parts from an earlier launch. The launch after its start reads all of them in any case, unless they were proven ahead:
 * those come last. Kinds are taken in turn. The folder is in TMPDIR: put that on the disk to be measured.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rename, rm, stat } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { loadConfig } from '../src/config.ts';
import { createEngine, type Engine, loadRuntime, type Machine } from '../src/engine/index.ts';
import { randomIds, silentLogger, systemClock } from '../src/lib/index.ts';
import { median, printTable, type Row, spread } from './table.ts';

const ROUNDS = Number(process.argv[2] ?? 9);
const FIRST_ROUNDS = 3;
const PORT = 8080;
const APP = `import http.server
http.server.ThreadingHTTPServer(('127.0.0.1', ${PORT}), http.server.SimpleHTTPRequestHandler).serve_forever()`;
const PARTS = ['ram', 'state', 'disk', 'changes'];
const KINDS = ['warm', 'cold', 'cold, read ahead'] as const;

interface Took {
  readonly launch: number[];
  readonly answer: number[];
}

async function main(): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-cold-'));
  stack.defer(() => rm(stateDir, { recursive: true, force: true }));
  const { cacheDir } = loadConfig({}, process.env);
  const runtime = loadRuntime(cacheDir);
  const common = { runtime, stateDir, cacheDir, log: silentLogger, clock: systemClock, ids: randomIds };
  const snapshotDir = join(stateDir, 'images/bench/1.0/snapshot');
  const rows: Row[] = [];
  {
    await using engine = await createEngine(common);
    rows.push({
      what: 'boot, start, seal',
      value: await seconds(() => sealApp(engine, runtime.base.disk, snapshotDir)),
    });
    const rehearse = () => engine.rehearse?.({ id: 'rehearsal', snapshotDir, port: PORT }, {});
    rows.push({ what: 'rehearsal', value: await seconds(rehearse) });
    for (const part of [...PARTS, 'prefetch']) {
      rows.push({ what: `${part} on disk`, value: `${(await allocated(join(snapshotDir, part))).toFixed(1)} MiB` });
    }
    const took = await inTurn(engine, snapshotDir);
    const warm = took.get('warm');
    for (const [kind, { launch, answer }] of took) {
      rows.push({ what: `${kind}: launch`, value: spread(launch) });
      rows.push({ what: `${kind}: first 200`, value: spread(answer), ...held(kind, answer, warm?.answer ?? []) });
    }
  }
  const firsts = {
    warm: [] as number[],
    cold: [] as number[],
    'cold, proven ahead': [] as number[],
    later: [] as number[],
  };
  for (let i = 0; i < FIRST_ROUNDS; i++) {
    for (const kind of ['warm', 'cold', 'cold, proven ahead'] as const) {
      await using engine = await createEngine(common);
      if (kind !== 'warm') await evict(snapshotDir);
      if (kind === 'cold, proven ahead') await engine.prove?.(snapshotDir);
      firsts[kind].push((await launchOnce(engine, snapshotDir)).answer);
      if (kind === 'cold, proven ahead') firsts.later.push((await launchOnce(engine, snapshotDir)).answer);
    }
  }
  for (const [kind, list] of Object.entries(firsts)) {
    const what = kind === 'later' ? 'a later one' : `first after the start of the server, ${kind}`;
    const ratio = median(list.map((ms, i) => ms / (firsts.later[i] ?? Number.NaN)));
    const promise = kind === 'later' ? {} : { promise: `${ratio.toFixed(2)} × a later one` };
    rows.push({ what: `${what}: first 200`, value: spread(list), ...promise });
  }
  printTable('Cold launches', rows);
}

/** Each round has one of each kind. */
async function inTurn(engine: Engine, snapshotDir: string): Promise<Map<(typeof KINDS)[number], Took>> {
  const took = new Map(KINDS.map((kind) => [kind, { launch: [] as number[], answer: [] as number[] }]));
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [kind, { launch, answer }] of took) {
      const list = join(snapshotDir, 'prefetch');
      if (kind === 'cold') await rename(list, `${list}.aside`);
      if (kind !== 'warm') await evict(snapshotDir);
      const ms = await launchOnce(engine, snapshotDir);
      if (kind === 'cold') await rename(`${list}.aside`, list);
      if (round === 0) continue; // the first one reads all parts
      launch.push(ms.launch);
      answer.push(ms.answer);
    }
  }
  return took;
}

function held(kind: string, cold: readonly number[], warm: readonly number[]): Pick<Row, 'promise' | 'kept'> {
  if (kind === 'warm') return {};
  const ratio = median(cold.map((ms, i) => ms / (warm[i] ?? Number.NaN)));
  const what = `${ratio.toFixed(2)} × warm, round by round`;
  return kind === 'cold' ? { promise: what } : { promise: `${what}; <= 1.3`, kept: ratio <= 1.3 };
}

/** Only what is clean and mapped by nobody can be. */
async function evict(snapshotDir: string): Promise<void> {
  for (const part of PARTS) {
    await promisify(execFile)('dd', [`if=${join(snapshotDir, part)}`, 'iflag=nocache', 'count=0', 'status=none']);
  }
}

async function allocated(file: string): Promise<number> {
  return ((await stat(file)).blocks * 512) / 2 ** 20;
}

async function seconds(work: () => Promise<unknown> | undefined): Promise<string> {
  const startedAt = performance.now();
  await work();
  return `${((performance.now() - startedAt) / 1000).toFixed(1)} s`;
}

async function sealApp(engine: Engine, diskPath: string, snapshotDir: string): Promise<void> {
  const env = ['PATH=/usr/bin:/bin'];
  const config = { entrypoint: ['python3', '-c'], cmd: [APP], env, workingDir: '/', user: '', exposedPorts: [] };
  const disk = { diskPath, config, usedBytes: 0 };
  const readiness = { kind: 'listening', port: PORT, graceMs: 60_000 } as const;
  const request = { buildId: 'bench', disk, config, capabilities: 'default', memoryMiB: 512, readiness } as const;
  await engine.seal({ ...request, snapshotDir, onLog: () => {} }, {});
}

async function launchOnce(engine: Engine, snapshotDir: string): Promise<{ launch: number; answer: number }> {
  const startedAt = performance.now();
  const machine = await engine.launch({ id: 'cold', snapshotDir }, {});
  const launch = performance.now() - startedAt;
  await get(machine);
  const answer = performance.now() - startedAt;
  await engine.destroy('cold');
  return { launch, answer };
}

async function get(machine: Machine): Promise<void> {
  const stream = await machine.connect(PORT, {});
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  request({ createConnection: () => stream, path: '/', headers: { host: 'app', connection: 'close' } }, (response) => {
    response.resume();
    response.once('end', resolve);
  })
    .once('error', reject)
    .end();
  await promise;
  stream.destroy();
}

await main();
