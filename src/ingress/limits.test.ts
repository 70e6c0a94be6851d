import assert from 'node:assert/strict';
import { once } from 'node:events';
import { constants, connect as http2Connect } from 'node:http2';
import { connect as netConnect, type Socket } from 'node:net';
import { test } from 'node:test';
import { type TLSSocket, connect as tlsConnect } from 'node:tls';
import { silentLogger, TestClock } from '../lib/index.ts';
import { affordableConnections } from './descriptors.ts';
import { Rates } from './rates.ts';
import { type Bench, createBench } from './test-bench.ts';

const SUFFIX = 'lambda-microvm.us-east-1.localhost';
const hostMode = { listen: { host: '127.0.0.1', port: 0 }, suffix: SUFFIX, publicPort: undefined };
const name = (n: number) => `endpoint-${n}.${SUFFIX}`;

function secure(
  bench: Bench,
  options: { servername?: string; ALPNProtocols?: string[]; port?: number } = {},
): TLSSocket {
  return tlsConnect({
    host: '127.0.0.1',
    port: bench.port,
    servername: 'localhost',
    ca: bench.ingress.caPem,
    ...options,
  });
}

/** Everything the server sends until it closes, however it does. */
async function everything(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk)).on('error', () => {});
  if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve));
  return Buffer.concat(chunks);
}

for (const mode of ['port', 'host'] as const) {
  test(`in ${mode} mode a connection more than a microVM may have is told so, and other microVMs are not affected`, async () => {
    await using bench = await createBench(undefined, undefined, {
      limits: { connectionsPerMicrovm: 2, headersMs: 20_000 },
      ...(mode === 'host' && { hostMode }),
    });
    const other = await bench.ingress.open({ microvmId: 'm-2', endpointId: 'endpoint-2', port: null, memoryMiB: 512 });
    const first = mode === 'host' ? { servername: name(1) } : {};
    const second = mode === 'host' ? { servername: name(2) } : { port: other.port ?? 0 };
    const held = [secure(bench, first), secure(bench, first)];
    for (const socket of held) await once(socket, 'secureConnect');
    const turned = String(await everything(secure(bench, first)));
    assert.match(turned, /^HTTP\/1\.1 429 Too Many Requests\r\n[\s\S]*connection: close[\s\S]*Too many connections$/);
    const neighbour = secure(bench, second);
    neighbour.end(`GET / HTTP/1.1\r\nHost: ${second.servername ?? 'localhost'}\r\n\r\n`);
    assert.match(String(await everything(neighbour)), /Request missing authentication$/);
    held[0]?.end();
    if (held[0] !== undefined) await once(held[0], 'close');
    // The server may notice a moment later.
    for (let status = ''; status !== '403'; ) {
      const again = secure(bench, first);
      again.end(`GET / HTTP/1.1\r\nHost: ${first.servername ?? 'localhost'}\r\n\r\n`);
      status = /^HTTP\/1\.1 (\d+)/.exec(String(await everything(again)))?.[1] ?? '';
    }
    held[1]?.destroy();
  });
}

test('an HTTP/2 connection more than a microVM may have is told to calm down', async () => {
  await using bench = await createBench(undefined, undefined, {
    limits: { connectionsPerMicrovm: 1, headersMs: 20_000 },
  });
  const held = secure(bench);
  await once(held, 'secureConnect');
  const session = http2Connect(`https://localhost:${bench.port}`, { ca: bench.ingress.caPem });
  session.on('error', () => {});
  const stream = session.request({ 'x-aws-proxy-auth': bench.token });
  stream.on('error', () => {});
  // Not `once` of events: it would take the session's error, which comes with it.
  const told = await new Promise((resolve) => session.once('goaway', (...args) => resolve(args.slice(0, 2))));
  assert.deepEqual(told, [constants.NGHTTP2_ENHANCE_YOUR_CALM, 0]);
  session.destroy();
  held.destroy();
});

test('a microVM of service limits has the connections of its size', async () => {
  await using bench = await createBench(undefined, undefined, {
    limits: { connectionsPerMicrovm: 'ofSize', headersMs: 20_000 },
  });
  const small = await bench.ingress.open({ microvmId: 'small', endpointId: 'e', port: null, memoryMiB: 512 });
  const at = { port: small.port ?? 0 };
  const held = Array.from({ length: 8 }, () => secure(bench, at));
  for (const socket of held) await once(socket, 'secureConnect');
  assert.match(String(await everything(secure(bench, at))), /^HTTP\/1\.1 429 /);
  for (const socket of held) socket.destroy();
});

test('a connection too many in all is reset before its handshake, and one that ends makes room', async () => {
  await using bench = await createBench(undefined, undefined, { limits: { connections: 3, handshakeMs: 20_000 } });
  const silent = Array.from({ length: 3 }, () => netConnect(bench.port, '127.0.0.1'));
  for (const socket of silent) await once(socket, 'connect');
  const fresh = { agent: false, ca: bench.ingress.caPem } as const;
  await assert.rejects(bench.request(fresh), /ECONNRESET|disconnected|hang up/);
  for (const socket of silent) socket.destroy();
  for (;;) {
    const answer = await bench.request(fresh).catch(() => undefined);
    if (answer?.status === 200) break;
  }
});

test('a handshake that does not end in time is cut, one that drips as well', async () => {
  await using bench = await createBench(undefined, undefined, { limits: { handshakeMs: 100 } });
  const silent = netConnect(bench.port, '127.0.0.1');
  assert.equal((await everything(silent)).length, 0);
  const dripping = netConnect(bench.port, '127.0.0.1');
  await once(dripping, 'connect');
  dripping.write(Buffer.from([22, 3, 1, 2, 0, 1]));
  const drip = setInterval(() => dripping.write(Buffer.from([0])), 30);
  await everything(dripping);
  clearInterval(drip);
});

test('more requests than a microVM may have are 429, only with a token do they count, and other microVMs have their own', async () => {
  await using bench = await createBench(undefined, undefined, { limits: { requests: { perSecond: 1, burst: 3 } } });
  const machine = await bench.traffic.onWake(bench.id);
  bench.traffic.onWake = async () => machine;
  const other = await bench.ingress.open({ microvmId: 'm-2', endpointId: 'e', port: null, memoryMiB: 512 });
  for (let i = 0; i < 10; i++) {
    assert.equal((await bench.request({ headers: { 'x-aws-proxy-auth': '' } })).status, 403);
  }
  const statuses: number[] = [];
  for (let i = 0; i < 5; i++) statuses.push((await bench.request({})).status);
  assert.deepEqual(statuses.slice(0, 3), [200, 200, 200]);
  assert.ok(statuses.includes(429), String(statuses));
  const refused = await bench.request({});
  if (refused.status === 429) {
    assert.equal(refused.body, 'Rate exceeded');
    assert.equal(refused.headers['cache-control'], 'private, no-store');
    assert.ok(refused.headers['x-amzn-requestid']);
  }
  const token = bench.traffic.issue({ microvmId: 'm-2' });
  const elsewhere = await bench.request({ port: other.port, headers: { 'x-aws-proxy-auth': token } });
  assert.equal(elsewhere.status, 200);
});

test('a rate lets its burst through at once and its requests per second after that', async () => {
  const clock = new TestClock();
  const rates = new Rates(clock);
  rates.set('m', { perSecond: 2, burst: 3 });
  const taken = (times: number) => Array.from({ length: times }, () => rates.take('m')).filter(Boolean).length;
  assert.equal(taken(10), 3);
  await clock.advance(1000);
  assert.equal(taken(10), 2);
  await clock.advance(60_000);
  assert.equal(taken(10), 3);
  assert.equal(rates.take('unlimited'), true);
});

test('header size and count are bounded, and the answer says so', async () => {
  await using bench = await createBench(undefined, undefined, { limits: { headerBytes: 8192, headerCount: 20 } });
  const ask = async (headers: string) => {
    const socket = secure(bench);
    socket.write(`GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n${headers}\r\n`);
    return /^HTTP\/1\.1 (\d+)/.exec(String(await everything(socket)))?.[1];
  };
  assert.equal(await ask(`X-Big: ${'a'.repeat(4000)}\r\n`), '403');
  assert.equal(await ask(`X-Big: ${'a'.repeat(9000)}\r\n`), '431');
  assert.equal(await ask('X-Many: a\r\n'.repeat(18)), '403');
  assert.equal(await ask('X-Many: a\r\n'.repeat(30)), '431');
});

test('a connection that asks nothing further is closed after its idle time, one that asks nothing at all too', async () => {
  await using bench = await createBench(undefined, undefined, { limits: { keepAliveMs: 100, headersMs: 200 } });
  const idle = secure(bench);
  idle.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
  assert.match(String(await everything(idle)), /^HTTP\/1\.1 403 [\s\S]*Request missing authentication$/);
  await everything(secure(bench));
});

test('a connection on which nothing moves is closed, also in the middle of an answer', async () => {
  await using bench = await createBench(() => (_request, response) => void response.write('begun'), undefined, {
    limits: { silentMs: 100 },
  });
  const socket = secure(bench);
  socket.write(`GET / HTTP/1.1\r\nHost: localhost\r\nX-Aws-Proxy-Auth: ${bench.token}\r\n\r\n`);
  assert.match(String(await everything(socket)), /begun/);
});

test('no more connections are promised than this process may open files, and a remark says what to raise', () => {
  const remarks: string[] = [];
  const log = { ...silentLogger, warn: (_fields: object, text: string) => void remarks.push(text) };
  assert.equal(affordableConnections(10_000, log, 20_000), 10_000);
  assert.deepEqual(remarks, []);
  assert.equal(affordableConnections(10_000, log, 4096), 3072);
  assert.equal(affordableConnections(10_000, log, 100), 16);
  assert.match(remarks[0] ?? '', /may open 4096 files only; raise the limit .* to 11024/);
  assert.equal(affordableConnections(10_000, log, Number.POSITIVE_INFINITY), 10_000);
});
