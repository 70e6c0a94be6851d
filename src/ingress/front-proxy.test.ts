/** The proxy that docs/ENDPOINT.md puts in front of host mode, run with the very file of the example. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage } from 'node:http';
import { connect as http2Connect } from 'node:http2';
import { Agent, request } from 'node:https';
import { type AddressInfo, createServer as createNetServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { duplexPair } from 'node:stream';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { connect as tlsConnect } from 'node:tls';
import { WebSocket, WebSocketServer } from 'ws';
import type { Machine } from '../microvms/index.ts';
import { createBench } from './test-bench.ts';

const CADDY = process.env.REKINDLE_CADDY ?? '/usr/bin/caddy';
const EXAMPLE = join(import.meta.dirname, '../../examples/front-proxy/Caddyfile');
const SUFFIX = 'lambda-microvm.us-east-1.localhost';
const NAME = `endpoint-1.${SUFFIX}`;
const OTHER = `endpoint-2.${SUFFIX}`;

const skip = !existsSync(CADDY) && `there is no ${CADDY}; REKINDLE_CADDY may name another`;

test('through Caddy every protocol passes as it does without, for all microVMs', {
  skip,
  timeout: 120_000,
}, async () => {
  await using stack = new AsyncDisposableStack();
  const bench = stack.use(
    await createBench(undefined, undefined, {
      hostMode: { listen: { host: '127.0.0.1', port: 0 }, suffix: SUFFIX, publicPort: undefined },
      limits: { headersMs: 20_000 },
    }),
  );
  await bench.ingress.open({ microvmId: 'microvm-2', endpointId: 'endpoint-2', port: null, memoryMiB: 512 });
  const real = await bench.traffic.onWake(bench.id);
  const apps = new Map([bench.id, 'microvm-2'].map((id) => [id, stack.use(createApp(id))]));
  bench.traffic.onWake = async (id) => {
    const app = apps.get(id);
    assert.ok(app);
    return withConnect(real, () => app.connect());
  };
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-caddy-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const port = await freePort();
  const child = spawn(CADDY, ['run', '--adapter', 'caddyfile', '--config', EXAMPLE], {
    env: {
      HOME: dir,
      XDG_DATA_HOME: dir,
      XDG_CONFIG_HOME: dir,
      ENDPOINT_SUFFIX: SUFFIX,
      REKINDLE_LISTEN: `127.0.0.1:${bench.port}`,
      REKINDLE_CA: bench.ingress.caFile,
      HTTPS_PORT: String(port),
    },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  stack.defer(() => stopped(child));
  const ca = await caOf(child, dir, port);

  const ask = async (name: string, token: string) => {
    const headers = { host: `${name}:${port}`, 'x-aws-proxy-auth': token, 'x-own': 'kept' };
    const sent = request({ host: '127.0.0.1', port, servername: name, ca, headers, path: '/echo', agent: false }).end();
    const [response]: [IncomingMessage] = (await once(sent, 'response')) as [IncomingMessage];
    return { status: response.statusCode, body: await text(response) };
  };
  const other = bench.traffic.issue({ microvmId: 'microvm-2' });
  for (let round = 0; round < 3; round++) {
    const answer = await ask(NAME, bench.token);
    assert.equal(answer.status, 200, answer.body);
    const { id, headers } = JSON.parse(answer.body);
    assert.deepEqual([id, headers.host, headers['x-own']], [bench.id, `${NAME}:${port}`, 'kept']);
    assert.deepEqual(
      Object.keys(headers).filter((name) => /^x-(forwarded|aws-proxy)/.test(name)),
      [],
    );
    assert.equal(JSON.parse((await ask(OTHER, other)).body).id, 'microvm-2');
    assert.deepEqual(await ask(OTHER, bench.token), { status: 403, body: 'Token authentication failed' });
  }

  const events = request({
    host: '127.0.0.1',
    port,
    servername: NAME,
    ca,
    path: '/events',
    headers: { host: NAME, 'x-aws-proxy-auth': bench.token },
    agent: false,
  }).end();
  const [stream] = await once(events, 'response');
  const [first] = await once(stream, 'data');
  assert.equal(String(first), 'data: 1\n\n', 'the first event comes before the app goes on');
  apps.get(bench.id)?.goOn();
  assert.equal(await text(stream), 'data: 2\n\n');

  const protocols = ['lambda-microvms', `lambda-microvms.authentication.${bench.token}`, 'chat'];
  const socket = new WebSocket(`wss://127.0.0.1:${port}/socket`, protocols, {
    agent: new Agent({ ca, servername: NAME }),
    headers: { host: NAME },
  });
  await once(socket, 'open');
  assert.equal(socket.protocol, 'chat');
  socket.send('ping');
  assert.equal(String((await once(socket, 'message'))[0]), 'ping');
  socket.close(4001, 'enough');
  assert.equal((await once(socket, 'close'))[0], 4001);

  const session = http2Connect(`https://${NAME}:${port}`, {
    createConnection: () => tlsConnect({ host: '127.0.0.1', port, servername: NAME, ca, ALPNProtocols: ['h2'] }),
  });
  stack.defer(() => session.destroy());
  const over2 = session.request({ ':path': '/echo', 'x-aws-proxy-auth': bench.token });
  const [head] = await once(over2, 'response');
  assert.equal(head[':status'], 200);
  assert.equal(JSON.parse(await text(over2)).id, bench.id);
});

function withConnect(machine: Machine, connect: Machine['connect']): Machine {
  return new Proxy(machine, {
    get: (target, name) => {
      if (name === 'connect') return connect;
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

interface App extends Disposable {
  connect(): ReturnType<Machine['connect']>;
  /** Sends the second event. */
  goOn(): void;
}

function createApp(id: string): App {
  const { promise, resolve } = Promise.withResolvers<void>();
  const sockets = new WebSocketServer({ noServer: true, handleProtocols: () => 'chat' });
  const server = createServer(async (incoming, response) => {
    if (incoming.url === '/echo') return void response.end(JSON.stringify({ id, headers: incoming.headers }));
    response.setHeader('content-type', 'text/event-stream');
    response.write('data: 1\n\n');
    await promise;
    response.end('data: 2\n\n');
  });
  server.on('upgrade', (incoming, socket, head) =>
    sockets.handleUpgrade(incoming, socket, head, (client) =>
      client.on('message', (data) => client.send(String(data))),
    ),
  );
  return {
    async connect() {
      const [near, far] = duplexPair();
      server.emit('connection', far);
      near.once('close', () => far.destroy());
      far.once('close', () => near.destroy());
      return near;
    },
    goOn: resolve,
    [Symbol.dispose]() {
      for (const client of sockets.clients) client.terminate();
    },
  };
}

async function freePort(): Promise<number> {
  const server = createNetServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** Caddy's authority, once it serves; with Caddy's last words when it does not. */
async function caOf(child: ChildProcess, dir: string, port: number): Promise<string> {
  let log = '';
  child.stderr?.setEncoding('utf8').on('data', (part: string) => {
    log += part;
  });
  for (;;) {
    assert.equal(child.exitCode, null, log);
    const ca = await readFile(join(dir, 'caddy/pki/authorities/local/root.crt'), 'utf8').catch(() => undefined);
    const socket = ca && tlsConnect({ host: '127.0.0.1', port, servername: NAME, ca });
    const isUp =
      socket &&
      (await once(socket, 'secureConnect').then(
        () => true,
        () => false,
      ));
    if (socket) socket.destroy();
    if (ca !== undefined && isUp === true) return ca;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

async function stopped(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || !child.kill('SIGTERM')) return;
  await once(child, 'exit');
}
