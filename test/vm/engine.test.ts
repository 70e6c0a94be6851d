/**
 * The engine on real machines, without server or builder: the managed base's root disk with a Python app. Every case is
 * followed by a look for processes and files that outlived it.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import {
  cp,
  link,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  statfs,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { after, afterEach, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { loadConfig } from '../../src/config.ts';
import {
  type BuildFailure,
  createEngine,
  type Engine,
  loadRuntime,
  type Machine,
  type MemoryMiB,
  type Readiness,
  type Runtime,
} from '../../src/engine/index.ts';
import { encodeManifest, type Manifest } from '../../src/engine/snapshot/manifest.ts';
import { readWorkingSet } from '../../src/engine/snapshot/working-set.ts';
import { type Clock, type Logger, randomIds, silentLogger, systemClock } from '../../src/lib/index.ts';
import { smallDisk } from '../support/small-disk.ts';

const { cacheDir } = loadConfig({}, process.env);
const found = findRuntime();
const skip = found === undefined ? 'set-up has not run: no runtime.json' : false;
const needsRoot = process.getuid?.() !== 0 && 'needs root: a small disk is mounted';

const PARTS = ['ram', 'state', 'disk', 'changes'];
const TMPFS = 0x01021994;
const PORT = 8080;
const APP = `
import http.server, os, sys, time
count = 0
ready = 0
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        global count
        if self.path == '/count':
            count += 1
            self.answer(200, str(count))
        elif self.path == '/random': self.answer(200, os.urandom(16).hex())
        elif self.path == '/time': self.answer(200, str(int(time.time() * 1000)))
        elif self.path == '/memory': self.answer(200, open('/proc/meminfo').readline().split()[1])
        elif self.path == '/exit': os._exit(7)
        elif self.path == '/words': self.answer(200, open('/words').read())
        elif self.path.startswith('/write/'):
            with open('/words', 'a') as file: file.write(self.path[7:] + ' ')
            self.answer(200, 'written')
        elif self.path == '/slow':
            self.send_response(200)
            self.send_header('content-length', '20')
            self.end_headers()
            for _ in range(20):
                self.wfile.write(b'.')
                time.sleep(0.1)
        elif self.path.startswith('/say/'):
            print(self.path[5:], flush=True)
            self.answer(200, 'said')
        elif self.path.startswith('/dirty/'):
            global dirt
            dirt = os.urandom(1 << 20) * int(self.path[7:])
            self.answer(200, 'dirty')
    def do_POST(self):
        global ready
        ready += 1
        self.answer(503 if ready < 3 else 200, '')
    def log_message(self, *args): pass
print('up', flush=True)
http.server.ThreadingHTTPServer(('127.0.0.1', ${PORT}), Handler).serve_forever()
`;

describe('the engine on real machines', { skip }, () => {
  let root: string;
  let stateDir: string;
  let snapshotDir: string;
  let engine: Engine;
  let bootId = systemClock.sinceBoot().bootId;
  const clock = { ...systemClock, sinceBoot: () => ({ ...systemClock.sinceBoot(), bootId }) };
  const said: string[] = [];

  before(async () => {
    root = await mkdtemp(path.join(tmpdir(), 'rk-engine-'));
    // Deeper than a unix socket's path may be long.
    stateDir = path.join(root, 'state'.repeat(20), 'deep'.repeat(20));
    snapshotDir = path.join(stateDir, 'images/test/1.0/snapshot');
    await mkdir(stateDir, { recursive: true });
    engine = await openEngine(stateDir, { clock });
    await seal('seal-1', { kind: 'hook', port: PORT, path: '/ready', timeoutMs: 120_000 }, snapshotDir);
  });
  after(async () => {
    await engine?.[Symbol.asyncDispose]();
    if (root !== undefined) await rm(root, { recursive: true, force: true });
  });
  afterEach(async () => {
    for (const id of await engine.residue()) await engine.destroy(id);
    assert.deepEqual(await processesUnder(stateDir), [], 'no process outlives its case');
    assert.deepEqual(await engine.residue(), []);
  });

  async function seal(buildId: string, readiness: Readiness, into: string, app = APP, memoryMiB: MemoryMiB = 512) {
    const config = {
      entrypoint: ['python3', '-c'],
      cmd: [app],
      env: ['PATH=/usr/bin:/bin'],
      workingDir: '/',
      user: '',
      exposedPorts: [],
    };
    const disk = { diskPath: runtime().base.disk, config, usedBytes: 0 };
    const onLog = (chunk: Buffer) => void said.push(chunk.toString());
    const request = { buildId, disk, config, capabilities: 'default', memoryMiB, readiness, onLog } as const;
    return engine.seal({ ...request, snapshotDir: into }, {});
  }

  /** As far as the engine can tell: no process of before is left, and the boot is another one. */
  async function hostEnds(machine: Machine): Promise<void> {
    process.kill(machine.pid, 'SIGKILL');
    await machine.exited;
    await machine[Symbol.asyncDispose]();
    bootId = `${bootId}+`;
  }

  test('the app spoke while it started, and its hook was asked until it agreed', () => {
    assert.ok(said.join('').includes('up\n'), said.join(''));
  });

  test('memory survives suspend and resume, again and again', async () => {
    let machine = await engine.launch({ id: 'vm-1', snapshotDir }, {});
    for (let count = 1; count <= 4; count++) {
      assert.equal(await get(machine, '/count'), `${count}`);
      const { deltaBytes } = await machine.suspend({});
      assert.ok(deltaBytes > 0);
      assert.deepEqual(await processesUnder(stateDir), []);
      machine = await engine.resume({ id: 'vm-1', snapshotDir }, {});
    }
    assert.equal(await get(machine, '/count'), '5');
  });

  test('much changed memory survives too', async () => {
    let machine = await engine.launch({ id: 'vm-2', snapshotDir }, {});
    await get(machine, '/dirty/100');
    const { deltaBytes } = await machine.suspend({});
    assert.ok(deltaBytes > 100 * 2 ** 20);
    machine = await engine.resume({ id: 'vm-2', snapshotDir }, {});
    assert.equal(await get(machine, '/count'), '1');
  });

  test('clones draw different random numbers and show the time', async () => {
    const ids = ['vm-a', 'vm-b', 'vm-c', 'vm-d'];
    const machines = await Promise.all(ids.map((id) => engine.launch({ id, snapshotDir }, {})));
    const drawn = await Promise.all(machines.map((machine) => get(machine, '/random')));
    assert.equal(new Set(drawn).size, 4);
    for (const machine of machines) {
      const before = Date.now();
      const shown = Number(await get(machine, '/time'));
      assert.ok(shown > before - 5000 && shown < Date.now() + 5000, `${shown - before} ms off`);
    }
  });

  test('the guest sees four times its size class', async () => {
    const machine = await engine.launch({ id: 'vm-3', snapshotDir }, {});
    const kib = Number(await get(machine, '/memory'));
    assert.ok(kib > 1800 * 1024 && kib <= 2048 * 1024, `${kib} KiB`);
  });

  test('the largest size runs and suspends, also where its peak is more than the host has', async () => {
    const into = path.join(stateDir, 'images/large/1.0/snapshot');
    await seal('seal-3', { kind: 'listening', port: PORT, graceMs: 60_000 }, into, APP, 8192);
    let machine = await engine.launch({ id: 'vm-large', snapshotDir: into }, {});
    const kib = Number(await get(machine, '/memory'));
    assert.ok(kib > 31 * 2 ** 20 && kib <= 32 * 2 ** 20, `${kib} KiB`);
    await machine.suspend({});
    machine = await engine.resume({ id: 'vm-large', snapshotDir: into }, {});
    assert.equal(await get(machine, '/count'), '1');
  });

  test('an app that ends is told with its code', async () => {
    const machine = await engine.launch({ id: 'vm-4', snapshotDir }, {});
    await get(machine, '/exit').catch(() => {});
    assert.deepEqual(await machine.exited, { kind: 'app', exitCode: 7 });
  });

  test('a VMM that is killed is told', async () => {
    const machine = await engine.launch({ id: 'vm-5', snapshotDir }, {});
    process.kill(machine.pid, 'SIGKILL');
    const exit = await machine.exited;
    assert.equal(exit.kind, 'vmm');
    await assert.rejects(machine.connect(PORT, {}), { kind: 'exited' });
  });

  test('the log has what the app printed, and follows it', async () => {
    const machine = await engine.launch({ id: 'vm-6', snapshotDir }, {});
    await get(machine, '/say/hello');
    const lines = await Array.fromAsync(machine.logs({}));
    assert.ok(lines.some((line) => line.text === 'hello' && line.stream === 'stdout'));
    const stop = new AbortController();
    await get(machine, '/say/again');
    for await (const line of machine.logs({ follow: true, signal: stop.signal }))
      if (line.text === 'again') stop.abort();
  });

  test('nothing listening is told apart from a machine that is gone', async () => {
    const machine = await engine.launch({ id: 'vm-7', snapshotDir }, {});
    await assert.rejects(machine.connect(81, {}), { kind: 'failed' });
  });

  test('a suspend that fails leaves the machine running', async () => {
    const machine = await engine.launch({ id: 'vm-8', snapshotDir }, {});
    assert.equal(await get(machine, '/count'), '1');
    await unlink(path.join(stateDir, 'microvms/vm-8/overlay.qcow2'));
    await assert.rejects(machine.suspend({}));
    assert.equal(await get(machine, '/count'), '2');
    assert.deepEqual(await readdir(path.join(stateDir, 'microvms/vm-8')), ['boot-id']);
  });

  test('a checkpoint brings memory and disk of its moment back when the host ended, and nothing from later', async () => {
    const machine = await engine.launch({ id: 'vm-15', snapshotDir }, {});
    for (const word of ['one', 'two', 'three']) {
      const slow = get(machine, '/slow');
      await get(machine, `/write/${word}`);
      await get(machine, '/count');
      if (word !== 'three') await machine.checkpoint({});
      assert.equal(await slow, '.'.repeat(20), 'what is under way goes on');
    }
    const off = Number(await get(machine, '/time')) - Date.now();
    assert.ok(Math.abs(off) < 1000, `its clock is ${off} ms off`);
    const dir = path.join(stateDir, 'microvms/vm-15');
    assert.deepEqual(await readdir(path.join(dir, 'checkpoints')), ['2'], 'the newest is kept');
    await hostEnds(machine);
    const { kind } = await engine.recall('vm-15');
    assert.equal(kind, 'checkpoint');
    assert.deepEqual((await readdir(dir)).sort(), ['boot-id', 'delta', 'overlay.qcow2']);

    let again = await engine.resume({ id: 'vm-15', snapshotDir, keepsCheckpoint: true }, {});
    assert.equal(await get(again, '/words'), 'one two ');
    assert.equal(await get(again, '/count'), '3');
    await get(again, '/write/four');
    // What it was resumed from holds until there is a newer one.
    await hostEnds(again);
    assert.equal((await engine.recall('vm-15')).kind, 'checkpoint');
    again = await engine.resume({ id: 'vm-15', snapshotDir }, {});
    assert.equal(await get(again, '/words'), 'one two ');
    await hostEnds(again);
    assert.equal((await engine.recall('vm-15')).kind, 'lost', 'a machine that ran on is not brought back');
  });

  test('a suspend, or an end, during a checkpoint leaves what it left without one', async () => {
    const machine = await engine.launch({ id: 'vm-16', snapshotDir }, {});
    await get(machine, '/write/one');
    await machine.checkpoint({});
    const late = assert.rejects(machine.checkpoint({}));
    await machine.suspend({});
    await late;
    assert.deepEqual((await readdir(path.join(stateDir, 'microvms/vm-16'))).sort(), [
      'boot-id',
      'delta',
      'overlay.qcow2',
    ]);
    const again = await engine.resume({ id: 'vm-16', snapshotDir, keepsCheckpoint: true }, {});
    const ending = assert.rejects(again.checkpoint({}));
    await engine.destroy('vm-16');
    await ending;
    assert.deepEqual(await readdir(path.join(stateDir, 'microvms')), []);
  });

  test('a snapshot that does not fit this host is refused with the reason', async () => {
    const other = path.join(root, 'other');
    await mkdir(other);
    const manifest = JSON.parse(await readFile(path.join(snapshotDir, 'manifest.json'), 'utf8'));
    const { sha256: _, ...facts } = manifest;
    facts.vmm.version = '9.9.9';
    await writeFile(path.join(other, 'manifest.json'), encodeManifest(facts));
    await assert.rejects(engine.launch({ id: 'vm-9', snapshotDir: other }, {}), {
      kind: 'unsupported',
      message: /9\.9\.9/,
    });
    await assert.rejects(engine.launch({ id: 'vm-9', snapshotDir: root }, {}), { kind: 'failed' });
    await assert.rejects(engine.resume({ id: 'vm-9', snapshotDir }, {}), { kind: 'failed' });
  });

  test('a snapshot with one wrong byte is refused before its guest runs, whichever part it is in', async () => {
    const told: string[] = [];
    using _watch = engine.onDamage((damage) => told.push(damage.part));
    for (const name of [...PARTS, 'manifest.json']) {
      const broken = path.join(root, `broken-${name}`);
      await mkdir(broken);
      for (const part of [...PARTS, 'manifest.json']) {
        if (part === name) await copyDamaged(path.join(snapshotDir, part), path.join(broken, part));
        else await link(path.join(snapshotDir, part), path.join(broken, part));
      }
      const launch = engine.launch({ id: 'vm-10', snapshotDir: broken }, {});
      await assert.rejects(launch, { kind: 'corrupt' }, name);
    }
    assert.deepEqual(told, [...PARTS, 'manifest']);
  });

  test('a suspended machine with one wrong byte does not resume, and does once the byte is right again', async () => {
    const machine = await engine.launch({ id: 'vm-13', snapshotDir }, {});
    assert.equal(await get(machine, '/count'), '1');
    await machine.suspend({});
    const dir = path.join(stateDir, 'microvms/vm-13');
    for (const name of ['delta/memory', 'delta/state', 'delta/saved.json', 'overlay.qcow2']) {
      await flip(path.join(dir, name), 300);
      await assert.rejects(engine.resume({ id: 'vm-13', snapshotDir }, {}), { kind: 'corrupt' }, name);
      await flip(path.join(dir, name), 300);
    }
    const again = await engine.resume({ id: 'vm-13', snapshotDir }, {});
    assert.equal(await get(again, '/count'), '2');
  });

  test('a snapshot is made anew from the root disk it kept, untouched by the app that ran on it', async () => {
    const kept = await engine.keptDisk(snapshotDir);
    assert.ok(kept);
    assert.deepEqual(kept.config.cmd, [APP]);
    const into = path.join(stateDir, 'images/test/2.0/snapshot');
    const request = { buildId: 'seal-4', disk: kept, config: kept.config, capabilities: 'default' } as const;
    const readiness = { kind: 'listening', port: PORT, graceMs: 60_000 } as const;
    await engine.seal({ ...request, memoryMiB: 512, readiness, snapshotDir: into, onLog: () => {} }, {});
    const machine = await engine.launch({ id: 'vm-14', snapshotDir: into }, {});
    assert.equal(await get(machine, '/count'), '1');
    const broken = path.join(root, 'broken-disk');
    assert.equal(await engine.keptDisk(broken), undefined);
  });

  test('a launch can be called off', async () => {
    const controller = new AbortController();
    const launch = engine.launch({ id: 'vm-11', snapshotDir }, { signal: controller.signal });
    controller.abort(new Error('called off'));
    await assert.rejects(launch, /called off/);
  });

  test('an app that ends before it is ready fails its build and leaves nothing', async () => {
    const into = path.join(root, 'failed/snapshot');
    const failing = seal(
      'seal-2',
      { kind: 'listening', port: PORT, graceMs: 60_000 },
      into,
      'print("no config"); raise SystemExit(5)',
    );
    await assert.rejects(failing, (error: BuildFailure) => error.kind === 'app-exited' && error.exitCode === 5);
    assert.ok(said.join('').includes('no config\n'));
    assert.deepEqual(await readdir(path.dirname(into)), []);
  });

  test('a host that forbids ptrace suspends and resumes all the same', async () => {
    await using fallback = await openEngine(stateDir, { deltaSave: false });
    let machine = await fallback.launch({ id: 'vm-12', snapshotDir }, {});
    assert.equal(await get(machine, '/count'), '1');
    for (let count = 2; count <= 3; count++) {
      await machine.suspend({});
      machine = await fallback.resume({ id: 'vm-12', snapshotDir }, {});
      assert.equal(await get(machine, '/count'), `${count}`);
    }
    await fallback.destroy('vm-12');
  });

  test('what a clone touched is read ahead by a launch that finds it on the disk only', async (context) => {
    const told: number[] = [];
    const log = Object.create(silentLogger) as Logger;
    log.debug = (fields: { bytes?: number }, text?: string) => {
      if (text === 'memory read ahead') told.push(fields.bytes ?? 0);
    };
    await using other = await openEngine(stateDir, { log });
    assert.ok(other.rehearse);
    await other.rehearse({ id: 'vm-15', snapshotDir, port: PORT }, {});
    const { parts } = JSON.parse(await readFile(path.join(snapshotDir, 'manifest.json'), 'utf8')) as Manifest;
    const ranges = await readWorkingSet(snapshotDir, parts.ram);
    const bytes = ranges?.reduce((sum, range) => sum + range.bytes, 0) ?? 0;
    const ram = path.join(snapshotDir, 'ram');
    const data = (await stat(ram)).blocks * 512;
    assert.ok(bytes > 4 * 2 ** 20 && bytes < data, `a part of the ${data} bytes there are: ${bytes}`);
    await (await other.launch({ id: 'vm-15', snapshotDir }, {}))[Symbol.asyncDispose]();
    await other.destroy('vm-15');
    told.length = 0;
    if ((await statfs(ram)).type === TMPFS) return context.skip('nothing of a tmpfs can be on the disk only');
    await promisify(execFile)('dd', [`if=${ram}`, 'iflag=nocache', 'count=0', 'status=none']);
    const machine = await other.launch({ id: 'vm-15', snapshotDir }, {});
    assert.equal(await get(machine, '/count'), '1');
    await other.destroy('vm-15');
    assert.equal(told.length, 1);
    assert.ok((told[0] ?? 0) > 0 && (told[0] ?? 0) <= bytes, `${told[0]} of ${bytes}`);
  });

  test('what a crashed server left running is found and ended', async () => {
    await using lost = await openEngine(stateDir);
    const machine = await lost.launch({ id: 'vm-13', snapshotDir }, {});
    assert.deepEqual(await engine.residue(), ['vm-13']);
    await engine.destroy('vm-13');
    assert.equal((await machine.exited).kind, 'vmm');
    assert.deepEqual(await engine.residue(), []);
  });

  test('of a suspend that a crashed server did not finish nothing runs or lies around', async () => {
    const lost = await openEngine(stateDir);
    const machine = await lost.launch({ id: 'vm-16', snapshotDir }, {});
    // What the moment between the last flush and the end of the VMM looks like.
    const left = path.join(stateDir, 'left');
    await cp(path.join(stateDir, 'run/vm-16'), left, { recursive: true, filter: (file) => !file.endsWith('.sock') });
    await machine.suspend({});
    await rename(left, path.join(stateDir, 'run/vm-16'));
    await lost[Symbol.asyncDispose]();
    assert.equal(await engine.isSuspended('vm-16'), true);
    await assert.rejects(readdir(path.join(stateDir, 'run/vm-16')), { code: 'ENOENT' });
    await engine.destroy('vm-16');
  });

  test('a resume that a full disk refuses leaves it suspended, wherever it is refused', {
    skip: needsRoot,
  }, async (t) => {
    await using disk = await smallDisk(256);
    await using other = await openEngine(path.join(disk.dir, 'state'));
    const first = await other.launch({ id: 'vm-17', snapshotDir }, {});
    assert.equal(await get(first, '/count'), '1');
    await first.suspend({});
    let machine: Machine | undefined;
    let refused = 0;
    for (let blocks = 0; machine === undefined; blocks++) {
      await leaveBlocks(disk.dir, blocks);
      machine = await other.resume({ id: 'vm-17', snapshotDir }, {}).catch(() => undefined);
      if (machine !== undefined) break;
      refused += 1;
      assert.equal(await other.isSuspended('vm-17'), true, `refused with ${blocks} blocks left, and lost`);
    }
    t.diagnostic(`refused ${refused} times`);
    await leaveBlocks(disk.dir, 10_000);
    assert.equal(await get(machine, '/count'), '2');
    await other.destroy('vm-17');
    assert.ok(refused > 0);
  });

  test('it is found by its cgroup when somebody removed its folder', async (context) => {
    await using lost = await openEngine(stateDir);
    const machine = await lost.launch({ id: 'vm-14', snapshotDir }, {});
    const runDir = path.join(stateDir, 'run/vm-14');
    const { cgroups } = JSON.parse(await readFile(path.join(runDir, 'pid.json'), 'utf8')) as { cgroups: string[] };
    if (cgroups.length === 0) return context.skip('this host has no writable cgroup');
    await rm(runDir, { recursive: true });
    await engine.destroy('vm-14');
    assert.equal((await machine.exited).kind, 'vmm');
    for (const group of cgroups) await assert.rejects(readdir(group), { code: 'ENOENT' });
  });
});

/** Of the file system at `dir`, or a few more, by a file that takes the others. */
async function leaveBlocks(dir: string, blocks: number): Promise<void> {
  const pad = path.join(dir, 'pad');
  await rm(pad, { force: true });
  const { bavail, bsize } = await statfs(dir);
  for (let taken = bavail - blocks; taken > 0; taken--) {
    try {
      return void (await promisify(execFile)('fallocate', ['-l', `${taken * bsize}`, pad]));
    } catch {
      // The file's own tables take some.
      await rm(pad, { force: true });
    }
  }
}

function openEngine(
  stateDir: string,
  extra: { deltaSave?: boolean; clock?: Clock; log?: Logger } = {},
): Promise<Engine> {
  const log = silentLogger;
  return createEngine({ runtime: runtime(), stateDir, cacheDir, log, clock: systemClock, ids: randomIds, ...extra });
}

function runtime(): Runtime {
  assert.ok(found);
  return found;
}

/** A sparse copy with one bit of its first data turned. */
async function copyDamaged(from: string, to: string): Promise<void> {
  await promisify(execFile)('cp', ['--sparse=auto', '--reflink=auto', '--no-preserve=mode', from, to]);
  const { stdout } = await promisify(execFile)(runtime().qemu.img, ['map', '--output=json', '-f', 'raw', to]);
  const extents = JSON.parse(stdout) as { start: number; data: boolean }[];
  await flip(to, (extents.find((extent) => extent.data)?.start ?? 0) + 100);
}

async function flip(file: string, at: number): Promise<void> {
  await using handle = await open(file, 'r+');
  const byte = Buffer.alloc(1);
  await handle.read(byte, 0, 1, at);
  byte[0] = (byte[0] ?? 0) ^ 1;
  await handle.write(byte, 0, 1, at);
}

function findRuntime(): Runtime | undefined {
  try {
    return loadRuntime(cacheDir);
  } catch {
    return undefined;
  }
}

/** The answer's body. The connection is closed afterwards. */
async function get(machine: Machine, target: string): Promise<string> {
  const stream = await machine.connect(PORT, { signal: AbortSignal.timeout(60_000) });
  const request = httpRequest({ createConnection: () => stream, path: target, headers: { connection: 'close' } }).end();
  // A server may leave the connection open until a suspend cuts it.
  request.on('error', () => {});
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  assert.equal(response.statusCode, 200);
  return text(response);
}

/** Processes that work under `dir`: a machine's VMM does, in its run folder. */
async function processesUnder(dir: string): Promise<string[]> {
  const cwds = await Promise.all(
    (await readdir('/proc'))
      .filter((name) => /^\d+$/.test(name))
      .map((pid) => readlink(`/proc/${pid}/cwd`).catch(() => '')),
  );
  return cwds.filter((cwd) => cwd.startsWith(dir));
}
