/**
 * What a machine leaves on disk, with and without an operator's key. The app keeps a text in its memory and in a file; where
 * the text can be found afterwards is what is tested. Without a key it must be found: else nobody looked in the right place.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import { createEngine, type Engine, Keyring, loadRuntime, type Machine, type Runtime } from '../../src/engine/index.ts';
import { memoryFolder } from '../../src/engine/memory-folder.ts';
import { forEachChunk } from '../../src/engine/snapshot/digest.ts';
import { randomIds, silentLogger, systemClock } from '../../src/lib/index.ts';

const { cacheDir } = loadConfig({}, process.env);
const found = findRuntime();
const skip = found === undefined ? 'set-up has not run: no runtime.json' : false;

const PORT = 8080;
const APP = `
import http.server, os
kept = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        _, verb, word = self.path.split('/')
        if verb == 'keep':
            kept.append((word + ' ') * 4096)
            with open('/kept', 'w') as file: file.write(kept[-1])
            os.sync()
        if verb == 'told': kept.append('TOLD')
        body = (kept[-1] if kept else '').split(' ')[0].encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('127.0.0.1', ${PORT}), Handler).serve_forever()
`;

describe('what machines leave on disk', { skip }, () => {
  const stack = new AsyncDisposableStack();
  let root: string;
  /** Sealed once, by an engine without a key. */
  let snapshotDir: string;

  before(async () => {
    root = await mkdtemp(path.join(tmpdir(), 'rk-at-rest-'));
    stack.defer(() => rm(root, { recursive: true, force: true }));
    snapshotDir = path.join(root, 'images/test/1.0/snapshot');
    await using engine = await open('sealing');
    await seal(engine, snapshotDir);
  });
  after(() => stack.disposeAsync());

  async function open(name: string, keyring?: Keyring): Promise<Engine> {
    const stateDir = path.join(root, name);
    await mkdir(stateDir, { recursive: true });
    if (keyring !== undefined) stack.defer(() => rm(memoryFolder(stateDir), { recursive: true, force: true }));
    const common = { log: silentLogger, clock: systemClock, ids: randomIds };
    return createEngine({ runtime: runtime(), stateDir, cacheDir, ...common, ...(keyring && { keyring }) });
  }

  test('without a key the guest is there to be read', async () => {
    await using engine = await open('plain');
    const word = marker();
    const machine = await engine.launch({ id: 'vm-1', snapshotDir }, {});
    await get(machine, `/keep/${word}`);
    await machine.suspend({});
    const holders = await holdersOf(path.join(root, 'plain'), word);
    assert.deepEqual(holders, ['microvms/vm-1/delta/memory', 'microvms/vm-1/overlay.qcow2']);
    await engine.destroy('vm-1');
  });

  test('with a key nothing of it can be read, and it resumes, again and again', async () => {
    const keyring = new Keyring(randomBytes(32));
    await using engine = await open('encrypted', keyring);
    const stateDir = path.join(root, 'encrypted');
    const word = marker();
    let machine = await engine.launch({ id: 'vm-1', snapshotDir }, {});
    await get(machine, `/keep/${word}`);
    const secret = (
      JSON.parse(await readFile(path.join(memoryFolder(stateDir), 'run/vm-1/machine.json'), 'utf8')) as {
        secret: string;
      }
    ).secret;
    for (let round = 0; round < 2; round++) {
      await machine.suspend({});
      assert.deepEqual(await holdersOf(stateDir, word), []);
      assert.deepEqual(await holdersOf(stateDir, secret), []);
      assert.deepEqual(existsSync(path.join(stateDir, 'run')) ? readdirSync(path.join(stateDir, 'run')) : [], []);
      machine = await engine.resume({ id: 'vm-1', snapshotDir }, {});
      assert.equal(await get(machine, '/kept/'), word);
    }
    await machine.checkpoint({});
    assert.deepEqual(await readdir(path.join(stateDir, 'microvms/vm-1/checkpoints')), ['1']);
    assert.deepEqual(await holdersOf(stateDir, word), []);
    assert.deepEqual(await holdersOf(stateDir, secret), []);
    const commandLine = await readFile(`/proc/${machine.pid}/cmdline`, 'latin1');
    assert.ok(commandLine.includes('key-secret'), 'its disk is opened with a secret');
    assert.deepEqual(await keyFilesUnder(memoryFolder(stateDir)), [], 'which is gone once it is open');
    await machine.suspend({});

    await engine[Symbol.asyncDispose]();
    await assert.rejects(open('encrypted'), { code: 'INVALID', message: /--encryption-key-file/ });
    await assert.rejects(open('encrypted', new Keyring(randomBytes(32))), { code: 'INVALID' });
    await using again = await open('encrypted', keyring);
    await using resumed = await again.resume({ id: 'vm-1', snapshotDir }, {});
    assert.equal(await get(resumed, '/kept/'), word);
    // The app says it where it may: the way to look is right.
    assert.notDeepEqual(await holdersOf(root, 'ThreadingHTTPServer'), []);
  });

  test('a snapshot sealed under a key hides what its app held, and is launched like any other', async () => {
    const keyring = new Keyring(randomBytes(32));
    const stateDir = path.join(root, 'sealed');
    const [word, plainWord] = [marker(), marker()];
    const into = path.join(stateDir, 'images/test/1.0/snapshot');
    {
      await using plain = await open('sealed-plain');
      await seal(plain, path.join(root, 'sealed-plain/images/test/1.0/snapshot'), plainWord);
      const holders = await holdersOf(path.join(root, 'sealed-plain'), plainWord);
      assert.deepEqual(holders, ['images/test/1.0/snapshot/manifest.json', 'images/test/1.0/snapshot/ram']);
    }
    await using engine = await open('sealed', keyring);
    await seal(engine, into, word);
    assert.deepEqual(await holdersOf(stateDir, word), []);
    assert.deepEqual(await readdir(path.join(memoryFolder(stateDir), 'drafts')), []);
    const machines = await Promise.all(['vm-1', 'vm-2'].map((id) => engine.launch({ id, snapshotDir: into }, {})));
    for (const machine of machines) assert.equal(await get(machine, '/told/'), word);
    assert.equal((await readdir(path.join(memoryFolder(stateDir), 'snapshots'))).length, 1, 'they share one');
    const [first] = machines;
    assert.ok(first);
    await get(first, `/keep/${word}`);
    await first.suspend({});
    const again = await engine.resume({ id: 'vm-1', snapshotDir: into }, {});
    assert.equal(await get(again, '/kept/'), word);
    assert.deepEqual(await holdersOf(stateDir, word), []);
    const kept = await engine.keptDisk(into);
    assert.ok(kept?.config.cmd[0]?.includes(word), 'its configuration comes back with the key');
    for (const id of ['vm-1', 'vm-2']) await engine.destroy(id);
  });

  test('a wrapped key that is gone takes everything with it', async () => {
    await using engine = await open('erased', new Keyring(randomBytes(32)));
    const machine = await engine.launch({ id: 'vm-1', snapshotDir }, {});
    await machine.suspend({});
    await rm(path.join(root, 'erased/microvms/vm-1/key.json'));
    await assert.rejects(engine.resume({ id: 'vm-1', snapshotDir }, {}));
    await engine.destroy('vm-1');
  });
});

function marker(): string {
  return `marker${randomBytes(12).toString('hex')}`;
}

/** Files under `dir` in which `word` stands, by their path there. */
async function holdersOf(dir: string, word: string): Promise<string[]> {
  const holders: string[] = [];
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    const file = path.join(entry.parentPath, entry.name);
    if (entry.isFile() && (await holds(file, word))) holders.push(path.relative(dir, file));
  }
  return holders.sort();
}

/** Large files by their data; a text across two chunks stands elsewhere too. */
async function holds(file: string, word: string): Promise<boolean> {
  let isFound = false;
  await forEachChunk(file, { mapper: runtime().qemu.img }, async (_, chunk) => {
    isFound ||= chunk.includes(word);
  });
  return isFound;
}

async function keyFilesUnder(dir: string): Promise<string[]> {
  const names = await readdir(dir, { recursive: true });
  return names.filter((name) => name.endsWith('.key'));
}

async function seal(engine: Engine, into: string, told = 'nothing'): Promise<void> {
  const env = ['PATH=/usr/bin:/bin'];
  const config = {
    entrypoint: ['python3', '-c'],
    cmd: [APP.replace('TOLD', told)],
    env,
    workingDir: '/',
    user: '',
    exposedPorts: [],
  };
  await engine.seal(
    {
      buildId: 'seal-1',
      disk: { diskPath: runtime().base.disk, config, usedBytes: 0 },
      config,
      capabilities: 'default',
      memoryMiB: 512,
      readiness: { kind: 'listening', port: PORT, graceMs: 60_000 },
      snapshotDir: into,
      onLog: () => {},
    },
    {},
  );
}

async function get(machine: Machine, target: string): Promise<string> {
  const stream = await machine.connect(PORT, { signal: AbortSignal.timeout(60_000) });
  const request = httpRequest({ createConnection: () => stream, path: target, headers: { connection: 'close' } }).end();
  request.on('error', () => {});
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  return text(response);
}

function findRuntime(): Runtime | undefined {
  try {
    return loadRuntime(cacheDir);
  } catch {
    return undefined;
  }
}

function runtime(): Runtime {
  assert.ok(found);
  return found;
}
