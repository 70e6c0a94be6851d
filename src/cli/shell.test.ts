import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import { createFakeEngine, type FakeEngineOptions, type FakeShell } from '../engine/index.ts';
import { routeOf } from './commands/tunnel.ts';
import { startFakeServer } from './test-server.ts';

const main = join(import.meta.dirname, 'main.ts');
const { PATH = '', HOME = '' } = process.env;
const env = { PATH, HOME };

interface Ended {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Echoes, says its size, takes Ctrl-C, and ends at `exit`. */
const playedShell: FakeShell = (terminal, { onResize }, exit) => {
  onResize(({ cols, rows }) => terminal.write(`size ${cols}x${rows}\r\n`));
  let typed = '';
  terminal.on('data', (chunk: Buffer) => {
    typed += chunk;
    terminal.write(chunk);
    if (chunk.includes(3)) terminal.write('interrupted\r\n');
    if (typed.endsWith('exit\r')) exit(0);
  });
  terminal.write('λ $ ');
};

/** A server with an image; each microVM is launched by the test that needs it. */
async function openHome(options: FakeEngineOptions = {}) {
  await using stack = new AsyncDisposableStack();
  const server = stack.use(await startFakeServer(async () => createFakeEngine({ shell: playedShell, ...options })));
  const rekindle = (args: readonly string[], input?: string): Promise<Ended> =>
    new Promise((resolve) => {
      const child = execFile(
        process.execPath,
        [main, ...args, '--state', server.stateDir],
        { env },
        (error, stdout, stderr) =>
          resolve({ exitCode: typeof error?.code === 'number' ? error.code : 0, stdout, stderr }),
      );
      child.stdin?.end(input ?? '');
    });
  await rekindle(['images', 'build', join(import.meta.dirname, '../../examples/counter')]);
  const owned = stack.move();
  const launch = async (...flags: string[]) => (await rekindle(['run', 'counter', ...flags])).stdout.trim();
  return { stateDir: server.stateDir, rekindle, launch, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

let h: Awaited<ReturnType<typeof openHome>>;
before(async () => {
  h = await openHome({ listening: [8080] });
});
after(() => h[Symbol.asyncDispose]());

type Step = { until: string } | { type: string } | { resize: [number, number] } | { signal: number };

interface Watched {
  readonly exitCode: number;
  readonly shown: string;
  readonly wasRaw: boolean;
  readonly isRestored: boolean;
}

/** Undefined: this machine has no python3 to play a terminal with. */
function onTerminal(args: readonly string[], steps: readonly Step[]): Promise<Watched | undefined> {
  return new Promise((resolve, reject) => {
    const child = execFile(
      'python3',
      [join(import.meta.dirname, 'test-terminal.py')],
      { env },
      (error, stdout, stderr) => {
        if (error?.code === 'ENOENT') resolve(undefined);
        else if (error) reject(new Error(`${stderr}${stdout}`));
        else resolve(JSON.parse(stdout));
      },
    );
    child.stdin?.on('error', () => {});
    child.stdin?.end(JSON.stringify({ argv: [process.execPath, main, ...args], steps }));
  });
}

test('on a terminal a shell is raw, follows its size, takes Ctrl-C and leaves everything as it was', async (t) => {
  const id = await h.launch('--shell');
  const watched = await onTerminal(
    ['shell', id, '--state', h.stateDir],
    [
      { until: 'λ $ ' },
      { until: 'size 91x17' },
      { resize: [132, 43] },
      { until: 'size 132x43' },
      { type: '\x03' },
      { until: 'interrupted' },
      { type: 'exit\r' },
    ],
  );
  if (watched === undefined) return t.skip('python3 is not there');
  assert.deepEqual({ ...watched, shown: '' }, { exitCode: 0, shown: '', wasRaw: true, isRestored: true });
});

test('a shell that is cut off or killed restores the terminal, too', async (t) => {
  const id = await h.launch('--shell');
  const args = ['shell', id, '--state', h.stateDir];
  const killed = await onTerminal(args, [{ until: 'λ $ ' }, { signal: 15 }]);
  if (killed === undefined) return t.skip('python3 is not there');
  assert.deepEqual({ ...killed, shown: '' }, { exitCode: 130, shown: '', wasRaw: true, isRestored: true });
});

test('piped input is typed, then the shell ends', async () => {
  const id = await h.launch('--shell');
  const ended = await h.rekindle(['shell', id], 'id\nls');
  assert.deepEqual(ended, { exitCode: 0, stdout: ended.stdout, stderr: '' });
  assert.equal(ended.stdout, 'λ $ id\rls\r\x04exit\r');
});

test('a suspend cuts a shell off with a sentence, and the next one wakes the microVM', async () => {
  const id = await h.launch('--shell');
  const child = spawn(process.execPath, [main, 'shell', id, '--state', h.stateDir], { env });
  const stderr = text(child.stderr);
  const ended = new Promise((resolve) => child.once('exit', resolve));
  await new Promise((resolve) => child.stdout.once('data', resolve));
  assert.equal((await h.rekindle(['suspend', id])).exitCode, 0);
  assert.deepEqual(
    [await ended, await stderr],
    [1, `rekindle: The shell was cut off: the microVM was suspended or ended. Open another: rekindle shell ${id}\n`],
  );
  assert.equal((await h.rekindle(['shell', id], '')).exitCode, 0);
});

test('why there is no shell is a sentence', async () => {
  const without = await h.launch();
  assert.deepEqual(await h.rekindle(['shell', without]), {
    exitCode: 1,
    stdout: '',
    stderr: `rekindle: ${without} was launched without a shell; "rekindle run --shell" launches one with it.\n`,
  });
  await using bare = await openHome({ shell: null });
  const id = await bare.launch('--shell');
  assert.deepEqual(await bare.rekindle(['shell', id]), {
    exitCode: 1,
    stdout: '',
    stderr: `rekindle: ${id} gives no shell: the image has no shell (bash, sh or busybox).\n`,
  });
});

function get(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () =>
      socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'),
    );
    socket.once('error', reject);
    text(socket).then((answer) => resolve(answer.slice(answer.indexOf('\r\n\r\n') + 4)), reject);
  });
}

test('a tunnel carries connections, wakes a suspended microVM for the next, and ends cleanly', async () => {
  const id = await h.launch();
  const child = spawn(process.execPath, [main, 'tunnel', id, '0:8080', '--state', h.stateDir], { env });
  const lines = createInterface({ input: child.stdout });
  const [line = ''] = await new Promise<string[]>((resolve) => lines.once('line', (said) => resolve([said])));
  const [, port = ''] = /^127\.0\.0\.1:(\d+) leads to port 8080 of microvm-/.exec(line) ?? [];
  const counts = await Promise.all([get(Number(port)), get(Number(port))]);
  assert.deepEqual(
    counts
      .map(
        (body) =>
          (JSON.parse(body.split('\r\n').find((part) => part.startsWith('{')) ?? '') as { count: number }).count,
      )
      .sort(),
    [1, 2],
  );
  assert.equal((await h.rekindle(['suspend', id])).exitCode, 0);
  assert.match(await get(Number(port)), /"count":3/);
  child.kill('SIGINT');
  const exitCode = await new Promise((resolve) => child.once('exit', resolve));
  assert.equal(exitCode, 0);
});

test('a tunnel says in a line what became of a connection, and ends with its microVM', async () => {
  const id = await h.launch();
  const child = spawn(process.execPath, [main, 'tunnel', id, '0:5432', '--state', h.stateDir], { env });
  const closed = new Promise((resolve) => child.once('close', resolve));
  const stderr = createInterface({ input: child.stderr });
  const said: string[] = [];
  stderr.on('line', (line) => said.push(line));
  const [line = ''] = await new Promise<string[]>((resolve) =>
    createInterface({ input: child.stdout }).once('line', (first) => resolve([first])),
  );
  const port = Number(/:(\d+) leads/.exec(line)?.[1]);
  await assert.rejects(get(port), { code: 'ECONNRESET' });
  assert.equal((await h.rekindle(['rm', id])).exitCode, 0);
  await assert.rejects(get(port), { code: 'ECONNRESET' });
  assert.deepEqual(
    [await closed, said],
    [1, ['connection 1: nothing listens on port 5432', `rekindle: ${id} is TERMINATED.`]],
  );
});

test('a tunnel refuses what is no route, and a port that is taken', async () => {
  assert.deepEqual(routeOf('0:65535'), { localPort: 0, port: 65_535 });
  for (const wrong of ['80', ':80', '80:', '1:0', '70000:1', '1:2:3', 'a:b']) {
    assert.throws(() => routeOf(wrong), { exitCode: 2 }, wrong);
  }
  const id = await h.launch('--shell');
  const taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
  const { port } = taken.address() as { port: number };
  const ended = await h.rekindle(['tunnel', id, `${port}:80`]);
  taken.close();
  assert.deepEqual(
    [ended.exitCode, ended.stderr],
    [1, `rekindle: 127.0.0.1:${port} cannot be listened on: EADDRINUSE.\n`],
  );
});
