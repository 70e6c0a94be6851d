/**
 * What it costs that a loss of power finds nothing half done, and what a checkpoint costs: `node bench/durability.ts [rounds]`.
 *
 * The engine alone, an app of a few lines. Two state folders in turn, one on the disk and one in memory, where a flush is free:
 * the difference is what the disk takes. Digests are timed by themselves, on the files of a suspended machine.
 */
import { cp, mkdtemp, rm, stat } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig } from '../src/config.ts';
import { createEngine, type Engine, loadRuntime, type Machine } from '../src/engine/index.ts';
import { noteBoot, voidSaved } from '../src/engine/machine/last-boot.ts';
import { digestOverlay, machineFiles } from '../src/engine/machine/saved.ts';
import { digestFile } from '../src/engine/snapshot/digest.ts';
import { randomIds, silentLogger, systemClock } from '../src/lib/index.ts';
import { printTable, type Row, spread } from './table.ts';

const ROUNDS = Number(process.argv[2] ?? 15);
const PORT = 8080;
const MEMORY_FOLDER = '/dev/shm';
const FILLED_MIB = 64;
const APP = `
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/fill':
            with open('/filled', 'wb') as file:
                for _ in range(${FILLED_MIB}): file.write(os.urandom(1 << 20))
            os.sync()
        self.send_response(200)
        self.send_header('content-length', '0')
        self.end_headers()
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('127.0.0.1', ${PORT}), Handler).serve_forever()`;

interface Side {
  readonly engine: Engine;
  readonly stateDir: string;
  readonly snapshotDir: string;
  readonly launches: number[];
  readonly suspends: number[];
  readonly resumes: number[];
  readonly kept: number[];
}

async function main(): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const { cacheDir } = loadConfig({}, process.env);
  const runtime = loadRuntime(cacheDir);
  const open = async (parent: string): Promise<Side> => {
    const stateDir = await mkdtemp(join(parent, 'rekindle-durability-'));
    stack.defer(() => rm(stateDir, { recursive: true, force: true }));
    const common = { runtime, cacheDir, log: silentLogger, clock: systemClock, ids: randomIds };
    const engine = stack.use(await createEngine({ ...common, stateDir }));
    const snapshotDir = join(stateDir, 'images/bench/1.0/snapshot');
    return { engine, stateDir, snapshotDir, launches: [], suspends: [], resumes: [], kept: [] };
  };
  const disk = await open(tmpdir());
  const memory = await open(MEMORY_FOLDER);
  await sealApp(disk.engine, runtime.base.disk, disk.snapshotDir);
  await cp(disk.snapshotDir, memory.snapshotDir, { recursive: true });
  for (let round = 0; round <= ROUNDS; round++) {
    for (const side of round % 2 === 0 ? [disk, memory] : [memory, disk]) await cycle(side, round);
  }
  const rows: Row[] = [
    ...pair('launch to first 200', disk.launches, memory.launches),
    ...pair('suspend', disk.suspends, memory.suspends),
    ...pair('resume to first 200', disk.resumes, memory.resumes),
    ...pair('the same, keeping what it resumes from as a checkpoint', disk.kept, memory.kept),
  ];
  await parts(disk, runtime.qemu.img, rows);
  await checkpoints(disk, rows);
  printTable(`Durability, ${ROUNDS} rounds`, rows);
}

function pair(what: string, onDisk: readonly number[], inMemory: readonly number[]): Row[] {
  const more = onDisk.map((ms, i) => ms - (inMemory[i] ?? 0));
  return [
    { what: `${what}: on disk`, value: spread(onDisk) },
    { what: `${what}: in memory`, value: spread(inMemory) },
    { what: `${what}: difference, pair by pair`, value: spread(more) },
  ];
}

/** The first round warms up. */
async function cycle({ engine, snapshotDir, launches, suspends, resumes, kept }: Side, round: number): Promise<void> {
  const [id, note] = [`vm-${round}`, (list: number[], ms: number) => void (round > 0 && list.push(ms))];
  const timed = async (start: Promise<Machine>): Promise<[Machine, number]> => {
    const startedAt = performance.now();
    const machine = await start;
    await get(machine);
    return [machine, performance.now() - startedAt];
  };
  let [machine, ms] = await timed(engine.launch({ id, snapshotDir }, {}));
  note(launches, ms);
  await settle();
  note(suspends, (await machine.suspend({})).tookMs);
  [machine, ms] = await timed(engine.resume({ id, snapshotDir }, {}));
  note(resumes, ms);
  await settle();
  await machine.suspend({});
  [, ms] = await timed(engine.resume({ id, snapshotDir, keepsCheckpoint: true }, {}));
  note(kept, ms);
  await engine.destroy(id);
}

/** What is done for safety's sake within a suspend, a launch and a resume. */
async function parts({ engine, stateDir, snapshotDir }: Side, mapper: string, rows: Row[]): Promise<void> {
  const machine = await engine.launch({ id: 'parts', snapshotDir }, {});
  await get(machine);
  await settle();
  await machine.suspend({});
  const files = machineFiles(join(stateDir, 'microvms/parts'));
  const kib = async (file: string) => `${Math.round(((await stat(file)).blocks * 512) / 1024)} KiB`;
  const times = async (work: () => Promise<unknown>) => {
    const took: number[] = [];
    for (let i = 0; i < ROUNDS; i++) {
      const startedAt = performance.now();
      await work();
      took.push(performance.now() - startedAt);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return spread(took);
  };
  rows.push(
    {
      what: `suspend: digest of the overlay, ${await kib(files.overlay)}`,
      value: await times(() => digestOverlay(files.overlay, mapper)),
    },
    {
      what: `suspend: digest of the state, ${await kib(files.state)}`,
      value: await times(() => digestFile(files.state, { mapper })),
    },
  );
  let boot = 0;
  rows.push({
    what: 'launch: boot-id, flushed (beside the start)',
    value: await times(() => noteBoot(files, `boot-${++boot}`)),
  });
  const took: number[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    const startedAt = performance.now();
    await voidSaved(files);
    took.push(performance.now() - startedAt);
    await cp(files.voided, files.saved);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  rows.push({ what: 'resume: void, flushed (in its way)', value: spread(took) });
  await engine.destroy('parts');
}

async function checkpoints({ engine, snapshotDir }: Side, rows: Row[]): Promise<void> {
  const machine = await engine.launch({ id: 'kept', snapshotDir }, {});
  await get(machine);
  for (const filled of [false, true]) {
    if (filled) await get(machine, '/fill');
    const [paused, whole, mib]: [number[], number[], number[]] = [[], [], []];
    for (let i = 0; i < ROUNDS; i++) {
      await settle();
      const startedAt = performance.now();
      const { pausedMs, deltaBytes } = await machine.checkpoint({});
      whole.push(performance.now() - startedAt);
      paused.push(pausedMs);
      mib.push(deltaBytes / 2 ** 20);
      await get(machine);
    }
    const of = filled ? `a guest that wrote ${FILLED_MIB} MiB` : 'an idle guest';
    rows.push(
      { what: `checkpoint of ${of}: pause`, value: spread(paused) },
      { what: `checkpoint of ${of}: until it is durable`, value: spread(whole) },
      {
        what: `checkpoint of ${of}: its memory`,
        value: `${mib.toSorted((a, b) => a - b)[ROUNDS >> 1]?.toFixed(1)} MiB`,
      },
    );
  }
  await engine.destroy('kept');
}

async function sealApp(engine: Engine, diskPath: string, snapshotDir: string): Promise<void> {
  const config = {
    entrypoint: ['python3', '-c'],
    cmd: [APP],
    env: ['PATH=/usr/bin:/bin'],
    workingDir: '/',
    user: '',
    exposedPorts: [],
  };
  const disk = { diskPath, config, usedBytes: 0 };
  const readiness = { kind: 'listening', port: PORT, graceMs: 60_000 } as const;
  const request = { buildId: 'bench', disk, config, capabilities: 'default', memoryMiB: 512, readiness } as const;
  await engine.seal({ ...request, snapshotDir, onLog: () => {} }, {});
}

/** What the last step left to do is over. */
function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 300));
}

async function get(machine: Machine, path = '/'): Promise<void> {
  const stream = await machine.connect(PORT, {});
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  request({ createConnection: () => stream, path, headers: { host: 'app', connection: 'close' } }, (response) => {
    response.resume();
    response.once('end', resolve);
  })
    .once('error', reject)
    .end();
  await promise;
  stream.destroy();
}

await main();
