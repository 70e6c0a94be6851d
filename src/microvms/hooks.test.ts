import assert from 'node:assert/strict';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import type { FakeEngineOptions } from '../engine/index.ts';
import type { Hooks } from '../images/index.ts';
import { type Bench, bench, IDLE } from './test-bench.ts';

const hooks: Hooks = {
  port: 9000,
  microvmHooks: { run: 'ENABLED', resume: 'ENABLED', suspend: 'ENABLED', terminate: 'ENABLED' },
};

const ADVICE = 'Please check your hook endpoint and application logs for more details.';

/** An app whose hooks answer with the given status, 200 where none is given, and that notes what was called. */
function hookApp(statuses: Record<string, number>, seen: string[]): FakeEngineOptions {
  return {
    app: () => (request, response) => {
      let body = '';
      request.setEncoding('utf8').on('data', (chunk) => {
        body += chunk;
      });
      request.on('end', () => {
        const name = request.url?.split('/').at(-1) ?? '';
        seen.push(`${request.method} ${request.headers.host} ${request.url} ${body}`.trim());
        response.statusCode = statuses[name] ?? 200;
        response.end();
      });
    },
  };
}

test('each hook is called at its moment with its body', async () => {
  const seen: string[] = [];
  await using b = await bench({ hooks, engine: hookApp({}, seen) });
  const id = await b.run({ runHookPayload: 'hello' });
  await b.until(id, 'RUNNING');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  await b.microvms.resume(id);
  await b.until(id, 'RUNNING');
  await b.microvms.terminate(id);
  await b.until(id, 'TERMINATED');
  const prefix = 'POST localhost:9000 /aws/lambda-microvms/runtime/v1';
  assert.deepEqual(seen, [
    `${prefix}/run ${JSON.stringify({ microvmId: id, runHookPayload: 'hello' })}`,
    `${prefix}/suspend`,
    `${prefix}/resume`,
    `${prefix}/terminate`,
  ]);
});

for (const [hook, reason] of [
  [
    'run',
    'Run lifecycle hook returned HTTP status 400. Please check your hook endpoint and application logs for more details.',
  ],
  [
    'suspend',
    'Suspend lifecycle hook returned HTTP status 400. Please check your hook endpoint and application logs for more details.',
  ],
] as const) {
  test(`a ${hook} hook that refuses ends the microVM in the recorded words`, async () => {
    await using b = await bench({ hooks, engine: hookApp({ [hook]: 400 }, []) });
    const id = await b.run();
    if (hook === 'suspend') {
      await b.until(id, 'RUNNING');
      await b.microvms.suspend(id);
    }
    await b.until(id, 'TERMINATED');
    assert.equal((await b.microvms.get(id)).stateReason, reason);
    assert.equal(b.engine.machines.size, 0);
  });
}

test('a resume hook that refuses leaves it SUSPENDED', async () => {
  await using b = await bench({ hooks, engine: hookApp({ resume: 500 }, []) });
  const id = await b.run({ idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  await assert.rejects(b.microvms.wake(id, {}), { code: 'CONFLICT' });
  assert.equal((await b.microvms.get(id)).state, 'SUSPENDED');
  assert.equal(b.engine.machines.size, 0);
});

type Misbehave = (socket: Duplex) => void;

/** What an app may do instead of answering, and what comes of it. */
const MISBEHAVIOUR: readonly (readonly [what: string, does: Misbehave, outcome: string])[] = [
  ['hangs', () => {}, 'did not answer in time'],
  ['closes at once', (socket) => void socket.destroy(), 'gave no answer'],
  ['answers garbage', (socket) => void socket.end('\x16\x03\x01 this is not HTTP\r\n\r\n'), 'gave no answer'],
  ['closes within the head', (socket) => void socket.end('HTTP/1.1 200 OK\r\nX-A: b'), 'gave no answer'],
  [
    'sends headers without end',
    (socket) => void socket.write(`HTTP/1.1 200 OK\r\n${'X-A: b\r\n'.repeat(10_000)}`),
    'gave no answer',
  ],
  ['begins a head and waits', (socket) => void socket.write('HTTP/1.1 200 OK\r\nX-A: b\r\n'), 'did not answer in time'],
  [
    'sends interim answers without end',
    (socket) => void socket.write('HTTP/1.1 102 Processing\r\n\r\n'.repeat(1000)),
    'gave no answer',
  ],
  [
    'redirects',
    (socket) =>
      void socket.write('HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n'),
    'returned HTTP status 302',
  ],
  [
    'switches protocols',
    (socket) => void socket.write('HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n'),
    'returned HTTP status 101',
  ],
  ['answers another 2xx', (socket) => void socket.write('HTTP/1.1 204 No Content\r\n\r\n'), 'returned HTTP status 204'],
];

/** An app that does this for one hook and passes the others. */
function misbehaving(hook: string, does: Misbehave, seen: string[] = []): FakeEngineOptions {
  return {
    app: () => (request, response) => {
      request.resume();
      const name = request.url?.split('/').at(-1) ?? '';
      seen.push(name);
      if (name === hook) does(request.socket);
      else response.end();
    },
  };
}

/** Lets the turns pass that it takes until the app was called so often. */
async function called(b: Bench, seen: readonly string[], times: number): Promise<void> {
  for (let i = 0; i < 2000 && seen.length < times; i++) await b.clock.advance(0);
  assert.equal(seen.length, times);
}

for (const [what, does, outcome] of MISBEHAVIOUR) {
  test(`an app that ${what} cannot hold the run hook beyond its timeout`, async () => {
    const seen: string[] = [];
    await using b = await bench({ hooks, engine: misbehaving('run', does, seen) });
    const startedAt = b.clock.now();
    const id = await b.run();
    await called(b, seen, 1);
    await b.clock.advance(1000);
    await b.until(id, 'TERMINATED');
    assert.equal((await b.microvms.get(id)).stateReason, `Run lifecycle hook ${outcome}. ${ADVICE}`);
    assert.ok(b.clock.now() - startedAt <= 1000);
    assert.deepEqual(seen, ['run']);
    assert.equal(b.engine.machines.size, 0);
  });

  test(`an app that ${what} at its end is ended all the same`, async () => {
    const seen: string[] = [];
    await using b = await bench({ hooks, engine: misbehaving('terminate', does, seen) });
    const id = await b.run();
    await b.until(id, 'RUNNING');
    await b.microvms.terminate(id);
    await called(b, seen, 2);
    await b.clock.advance(1000);
    await b.until(id, 'TERMINATED');
    assert.equal((await b.microvms.get(id)).stateReason, 'Success.');
  });
}

test('an app that passes and then streams for ever has passed', async () => {
  const drip: Misbehave = (socket) => {
    socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n');
    const more = () => void (socket.writable && socket.write('1\r\nx\r\n', () => setImmediate(more)));
    more();
  };
  await using b = await bench({ hooks, engine: misbehaving('run', drip) });
  await b.until(await b.run(), 'RUNNING');
});

test('the timeout of a hook is the one of its version', async () => {
  const slow: Hooks = { port: 9000, microvmHooks: { run: 'ENABLED', runTimeoutInSeconds: 60 } };
  const seen: string[] = [];
  await using b = await bench({ hooks: slow, engine: misbehaving('run', () => {}, seen) });
  const id = await b.run();
  await called(b, seen, 1);
  await b.clock.advance(59_999);
  assert.equal((await b.microvms.get(id)).state, 'PENDING');
  await b.clock.advance(1);
  await b.until(id, 'TERMINATED');
});

test('a resume hook that hangs leaves it SUSPENDED with what it was, again and again', async () => {
  const seen: string[] = [];
  await using b = await bench({ hooks, engine: misbehaving('resume', () => {}, seen) });
  const id = await b.run({ idlePolicy: { ...IDLE, suspendedDurationSeconds: 3600 } });
  await b.until(id, 'RUNNING');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  for (let i = 0; i < 3; i++) {
    const woken = assert.rejects(b.microvms.wake(id, {}), { code: 'CONFLICT' });
    await called(b, seen, 3 + i);
    await b.clock.advance(1000);
    await woken;
    await b.until(id, 'SUSPENDED');
    assert.equal(await b.engine.isSuspended(id), true);
  }
});

test('an app that exits within a hook gives the microVM its exit code as the reason', async () => {
  for (const hook of ['run', 'resume'] as const) {
    const exits: (() => void)[] = [];
    await using b = await bench({ hooks, engine: misbehaving(hook, () => exits.shift()?.()) });
    exits.push(() => {
      for (const [id] of b.engine.machines) b.engine.exit(id, { kind: 'app', exitCode: 4 });
    });
    const id = await b.run({ idlePolicy: IDLE });
    if (hook === 'resume') {
      await b.until(id, 'RUNNING');
      await b.microvms.suspend(id);
      await b.until(id, 'SUSPENDED');
      await b.microvms.resume(id);
    }
    await b.until(id, 'TERMINATED');
    assert.equal((await b.microvms.get(id)).stateReason, 'Container Stopped with Exit Code: 4');
  }
});

test('a server that stops waits for no hook, and the next one goes on', async () => {
  let hangs = true;
  const before = await bench({
    hooks,
    engine: {
      app: () => (request, response) => {
        request.resume();
        if (!hangs) response.end();
      },
    },
  });
  const id = await before.run();
  await before.clock.advance(0);
  hangs = false;
  await using after = await before.restart();
  assert.equal(after.clock.now(), before.clock.now());
  await after.until(id, 'RUNNING');
});

test('the longest payload arrives whole, however many bytes its characters take', async () => {
  const seen: string[] = [];
  await using b = await bench({ hooks, engine: hookApp({}, seen) });
  const runHookPayload = '€"\\\n'.repeat(1024);
  assert.equal(runHookPayload.length, 4096);
  const id = await b.run({ runHookPayload });
  await b.until(id, 'RUNNING');
  assert.ok(seen[0]?.endsWith(JSON.stringify({ microvmId: id, runHookPayload })));
});

test('a payload without a run hook is refused', async () => {
  await using b = await bench();
  await assert.rejects(b.run({ runHookPayload: 'x' }), { code: 'INVALID' });
});
