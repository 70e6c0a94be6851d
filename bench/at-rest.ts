/**
 * What it costs to prove what lies on disk before a guest runs, and to encrypt it: `node_modules/.bin/node bench/at-rest.ts`.
 *
 * The engine alone, on the managed base's root disk with an app of one line. "First" launches are each by an engine that has
 * just started, so that nothing is known of the snapshot; its files are in the page cache.
 */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig } from '../src/config.ts';
import { createEngine, type Engine, Keyring, loadRuntime, type Machine } from '../src/engine/index.ts';
import { memoryFolder } from '../src/engine/memory-folder.ts';
import { digestFile } from '../src/engine/snapshot/digest.ts';
import { randomIds, silentLogger, systemClock } from '../src/lib/index.ts';
import { printTable, type Row, spread } from './table.ts';

const ROUNDS = 12;
const PORT = 8080;
const APP = `import http.server
http.server.ThreadingHTTPServer(('127.0.0.1', ${PORT}), http.server.SimpleHTTPRequestHandler).serve_forever()`;

async function main(): Promise<void> {
  await measure('At rest, proven', undefined);
  await measure('At rest, proven and encrypted', new Keyring(randomBytes(32)));
}

async function measure(title: string, keyring: Keyring | undefined): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-at-rest-'));
  stack.defer(() => rm(stateDir, { recursive: true, force: true }));
  if (keyring !== undefined) stack.defer(() => rm(memoryFolder(stateDir), { recursive: true, force: true }));
  const { cacheDir } = loadConfig({}, process.env);
  const runtime = loadRuntime(cacheDir);
  const common = { runtime, stateDir, cacheDir, log: silentLogger, clock: systemClock, ids: randomIds };
  const open = () => createEngine({ ...common, ...(keyring && { keyring }) });
  const snapshotDir = join(stateDir, 'images/bench/1.0/snapshot');
  const rows: Row[] = [];
  {
    await using engine = await open();
    await sealApp(engine, runtime.base.disk, snapshotDir);
  }
  for (const part of ['ram', 'state', 'disk', 'changes']) {
    const file = join(snapshotDir, part);
    const took = await times(5, () => digestFile(file, { mapper: runtime.qemu.img }));
    const mib = ((await stat(file)).blocks * 512) / 2 ** 20;
    rows.push({ what: `digest of ${part}, ${mib.toFixed(1)} MiB of data`, value: spread(took) });
  }
  const [first, later]: [number[], number[]] = [[], []];
  for (let i = 0; i < ROUNDS; i++) {
    // Nothing is known of the snapshot, nor decrypted.
    if (keyring !== undefined) await rm(join(memoryFolder(stateDir), 'snapshots'), { recursive: true, force: true });
    await using engine = await open();
    first.push(await launchOnce(engine, snapshotDir, `first-${i}`));
    later.push(await launchOnce(engine, snapshotDir, `later-${i}`));
  }
  rows.push({ what: 'first launch after start to first 200', value: spread(first) });
  rows.push({ what: 'later launch to first 200', value: spread(later) });
  await using engine = await open();
  const [suspends, resumes]: [number[], number[]] = [[], []];
  let machine = await engine.launch({ id: 'cycle', snapshotDir }, {});
  await get(machine);
  for (let i = 0; i < ROUNDS; i++) {
    await new Promise((resolve) => setTimeout(resolve, 300));
    suspends.push((await machine.suspend({})).tookMs);
    const startedAt = performance.now();
    machine = await engine.resume({ id: 'cycle', snapshotDir }, {});
    await get(machine);
    resumes.push(performance.now() - startedAt);
  }
  rows.push({ what: 'suspend, fsynced', value: spread(suspends) });
  rows.push({ what: 'resume to first 200', value: spread(resumes) });
  const kib = ((await stat(join(stateDir, 'microvms/cycle/overlay.qcow2'))).blocks * 512) / 1024;
  rows.push({ what: 'overlay after the last resume', value: `${Math.round(kib)} KiB` });
  printTable(title, rows);
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
  await engine.seal(
    {
      buildId: 'bench',
      disk: { diskPath, config, usedBytes: 0 },
      config,
      capabilities: 'default',
      memoryMiB: 512,
      readiness: { kind: 'listening', port: PORT, graceMs: 60_000 },
      snapshotDir,
      onLog: () => {},
    },
    {},
  );
}

async function launchOnce(engine: Engine, snapshotDir: string, id: string): Promise<number> {
  const startedAt = performance.now();
  const machine = await engine.launch({ id, snapshotDir }, {});
  await get(machine);
  const took = performance.now() - startedAt;
  await engine.destroy(id);
  return took;
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

async function times(rounds: number, work: () => Promise<unknown>): Promise<number[]> {
  const took: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const startedAt = performance.now();
    await work();
    took.push(performance.now() - startedAt);
  }
  return took;
}

await main();
