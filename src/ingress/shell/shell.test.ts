import assert from 'node:assert/strict';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import { DomainError, MachineError, randomIds, silentLogger, systemClock, TestClock } from '../../lib/index.ts';
import { dial, shellBench } from '../sockets/test-client.ts';

test('a shell begins with its session, carries bytes both ways, and takes sizes and typed text', async () => {
  await using b = await shellBench();
  const client = dial(b.bench, { token: b.token });
  assert.equal(await client.answered, 101);
  assert.equal(client.socket.protocol, '');
  await client.until(({ texts }) => texts.length > 0);
  const [first = ''] = client.texts;
  assert.match(first, /^\{"type":"session_init","session_id":"[0-9a-f-]{36}"\}$/);
  client.socket.send(Buffer.from('typed\r'));
  client.socket.send('{"type":"resize","cols":132,"rows":43}');
  const typed = [
    'plain',
    '{"type":"other"}',
    '{"type":"resize","cols":70000,"rows":1}',
    '{"type":"resize","cols":"1","rows":1}',
    '{',
  ];
  for (const text of typed) client.socket.send(text);
  const all = `typed\r[132x43]${typed.join('')}`;
  await client.until(({ shown }) => shown.length >= all.length);
  assert.equal(client.shown, all);
  client.socket.close();
});

test('the token comes by header or by subprotocol, with or without port 8022, on / or /shell', async () => {
  await using b = await shellBench();
  const auth = `lambda-microvms.authentication.${b.token}`;
  for (const path of ['/', '/shell', '/shell?x=1']) {
    const client = dial(b.bench, { path, protocols: [auth, 'lambda-microvms.port.8022', 'lambda-microvms'] });
    assert.equal(await client.answered, 101, path);
    assert.equal(client.socket.protocol, 'lambda-microvms');
    client.socket.terminate();
  }
});

test('a shell token opens a shell, whatever subprotocol stands beside it', async () => {
  await using b = await shellBench();
  const client = dial(b.bench, { token: b.token, protocols: ['rekindle.tunnel', 'lambda-microvms'] });
  await client.until(({ texts }) => texts.length > 0);
  assert.match(client.texts[0] ?? '', /session_init/);
  assert.equal(client.socket.protocol, 'lambda-microvms');
  client.socket.terminate();
});

test('a shell token opens nothing of the app, and an app token no shell', async () => {
  await using b = await shellBench();
  assert.equal(await dial(b.bench, { token: b.token, path: '/chat' }).answered, 502);
  assert.equal((await b.bench.request({ path: '/', headers: { 'x-aws-proxy-auth': b.token } })).status, 502);
  const other = b.bench.traffic.issue({ microvmId: 'microvm-2', kind: 'shell' });
  assert.equal(await dial(b.bench, { token: other }).answered, 403);
  assert.equal(await dial(b.bench).answered, 403);
  // The counting app answers an upgrade like any request.
  assert.equal(await dial(b.bench, { token: b.bench.token, path: '/shell' }).answered, 200);
  assert.deepEqual(
    b.bench.engine.calls.filter((call) => call.startsWith('openShell')),
    [],
  );
});

test('a shell that exits closes with 1000 behind all it showed', async () => {
  const output = 'x'.repeat(3_000_000);
  await using b = await shellBench((terminal, _session, exit) => {
    terminal.once('data', () => {
      terminal.write(output);
      exit(0);
    });
  });
  const client = dial(b.bench, { token: b.token });
  await client.answered;
  client.socket.send('exit\r');
  assert.deepEqual(await client.closed, { code: 1000, reason: 'shell exited' });
  assert.equal(client.shown.length, output.length);
});

test('a client that goes ends its shell', async () => {
  const ended = Promise.withResolvers<void>();
  await using b = await shellBench((terminal) => {
    terminal.once('close', () => ended.resolve());
  });
  const client = dial(b.bench, { token: b.token });
  await client.until(({ texts }) => texts.length > 0);
  client.socket.terminate();
  await ended.promise;
});

test('why a guest opens no shell is the reason of closing', async () => {
  await using none = await shellBench(null);
  const client = dial(none.bench, { token: none.token });
  assert.deepEqual(await client.closed, { code: 1011, reason: 'the image has no shell (bash, sh or busybox)' });
  await using old = await shellBench();
  old.bench.engine.failNext('openShell', new MachineError('unsupported', `rebuild it ${'ä'.repeat(200)}`));
  const refused = await dial(old.bench, { token: old.token }).closed;
  assert.equal(refused.code, 1011);
  assert.match(refused.reason, /^rebuild it ä+$/);
});

test('a sleeping microVM is woken for its shell, and one that falls asleep in between once more', async () => {
  await using b = await shellBench();
  b.bench.engine.failNext('openShell', new MachineError('exited', 'suspended'));
  const client = dial(b.bench, { token: b.token });
  assert.equal(await client.answered, 101);
  assert.equal(b.bench.traffic.wakes, 2);
  client.socket.terminate();
  b.bench.traffic.onWake = async () => {
    throw new DomainError('CONFLICT', 'it is terminated');
  };
  assert.equal(await dial(b.bench, { token: b.token }).answered, 502);
});

test('a suspend closes the shell with 1001, and an open shell is no exchange under way', async () => {
  await using b = await shellBench();
  const client = dial(b.bench, { token: b.token });
  await client.until(({ texts }) => texts.length > 0);
  assert.equal(b.bench.traffic.underWay, 0);
  await b.bench.engine.machines.get(b.bench.id)?.suspend({});
  assert.deepEqual(await client.closed, { code: 1001, reason: 'the microVM was suspended or ended' });
});

test('bytes count as activity, pings do not', async () => {
  await using b = await shellBench();
  const client = dial(b.bench, { token: b.token });
  await client.until(({ texts }) => texts.length > 0);
  const before = b.bench.traffic.active.length;
  const answered = new Promise((resolve) => client.socket.once('pong', resolve));
  client.socket.ping('still there?');
  await answered;
  assert.equal(b.bench.traffic.active.length, before);
  client.socket.send('x');
  await client.until(({ shown }) => shown === 'x');
  assert.ok(b.bench.traffic.active.length > before);
});

test('a client that does not read makes the shell wait', async () => {
  let shell: Duplex | undefined;
  let sent = 0;
  const stuck = Promise.withResolvers<void>();
  await using b = await shellBench((terminal) => {
    shell = terminal;
    const pour = () => {
      while (terminal.write(Buffer.alloc(65_536))) sent += 65_536;
      stuck.resolve();
    };
    terminal.once('data', pour);
    terminal.on('drain', pour);
  });
  const client = dial(b.bench, { token: b.token });
  await client.until(({ texts }) => texts.length > 0);
  client.socket.pause();
  client.socket.send('go');
  await stuck.promise;
  // Kernel buffers take some megabytes; a shell that is not held back pours for as long as anybody looks.
  for (let last = -1; last !== sent; ) {
    last = sent;
    for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(sent < 64_000_000, `${sent} bytes were taken`);
  assert.ok(shell !== undefined && !shell.destroyed);
  client.socket.terminate();
});

test('frames that are too long, or broken, end the connection', async () => {
  await using b = await shellBench();
  const long = dial(b.bench, { token: b.token });
  await long.answered;
  long.socket.send(Buffer.alloc(1024 * 1024 + 1));
  assert.equal((await long.closed).code, 1009);
  const broken = dial(b.bench, { token: b.token });
  await broken.answered;
  const { _socket: raw } = broken.socket as unknown as { _socket: Duplex };
  raw.write(Buffer.from([0xf3, 0x80, 0, 0, 0, 0]));
  assert.equal((await broken.closed).code, 1002);
});

test('a handshake that is none is refused', async () => {
  await using b = await shellBench();
  const answer = await b.bench.request({
    path: '/',
    headers: {
      'x-aws-proxy-auth': b.token,
      connection: 'upgrade',
      upgrade: 'websocket',
      'sec-websocket-key': 'short',
      'sec-websocket-version': '13',
    },
  });
  assert.deepEqual([answer.status, answer.body], [400, 'Malformed request']);
});

test('a peer that answers no ping is given up; one that answers stays', async () => {
  // Certificates are made by this clock and judged by the client's.
  const clock = new TestClock({ startAtMs: Date.now() });
  const options = { clock, ids: randomIds, log: silentLogger };
  await using b = await shellBench(undefined, options);
  const deaf = dial(b.bench, { token: b.token, autoPong: false });
  const alive = dial(b.bench, { token: b.token });
  await Promise.all([deaf, alive].map((client) => client.until(({ texts }) => texts.length > 0)));
  const pinged = [deaf, alive].map((client) => new Promise((resolve) => client.socket.once('ping', resolve)));
  await clock.advance(30_000);
  await Promise.all(pinged);
  // Its pong is on its way before this is.
  alive.socket.send('here');
  await alive.until(({ shown }) => shown === 'here');
  await clock.advance(30_000);
  assert.equal((await deaf.closed).code, 1006);
  assert.equal(alive.socket.readyState, alive.socket.OPEN);
  alive.socket.terminate();
});

test('a server that stops says so', async () => {
  await using b = await shellBench(undefined, { clock: systemClock });
  const client = dial(b.bench, { token: b.token });
  await client.until(({ texts }) => texts.length > 0);
  const stopped = b.bench.ingress[Symbol.asyncDispose]();
  assert.deepEqual(await client.closed, { code: 1001, reason: 'the server is stopping' });
  await stopped;
});
