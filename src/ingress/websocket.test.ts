import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import { Agent } from 'node:https';
import { duplexPair } from 'node:stream';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { type ClientOptions, WebSocket, WebSocketServer } from 'ws';
import { DomainError, MachineError } from '../lib/index.ts';
import type { Machine } from '../microvms/index.ts';
import { type Bench, createBench } from './test-bench.ts';

interface SocketBench extends AsyncDisposable {
  readonly bench: Bench;
  /** The heads the app saw. */
  readonly seen: IncomingMessage[];
  /** Ports that were connected to. */
  readonly ports: number[];
  readonly machine: Machine;
  /** A client that sends the token as a header unless told otherwise. */
  dial(options?: ClientOptions & { protocols?: string[]; token?: string | null }): WebSocket;
  /** The client's end of a handshake: what was selected, or the status of the refusal with its body. */
  shake(options?: Parameters<SocketBench['dial']>[0]): Promise<string>;
}

/** A WebSocket echo server as the app; `select` picks a subprotocol. */
async function socketBench(
  app: { select?: (offered: Set<string>) => string | false; onSocket?: (socket: WebSocket) => void } = {},
): Promise<SocketBench> {
  await using stack = new AsyncDisposableStack();
  const bench = stack.use(await createBench());
  const seen: IncomingMessage[] = [];
  const ports: number[] = [];
  const dialed: WebSocket[] = [];
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: 64 * 1024 * 1024,
    handleProtocols: app.select ?? (() => false),
  });
  const echo = (socket: WebSocket) => {
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
    socket.on('error', () => {});
  };
  const server = createServer();
  server.on('upgrade', (request, socket, head) => {
    seen.push(request);
    sockets.handleUpgrade(request, socket, head, app.onSocket ?? echo);
  });
  stack.defer(() => {
    for (const socket of sockets.clients) socket.terminate();
  });
  const real = await bench.traffic.onWake(bench.id);
  const machine = withConnect(real, async (port) => {
    ports.push(port);
    const [near, far] = duplexPair();
    server.emit('connection', far);
    near.once('close', () => far.destroy());
    far.once('close', () => near.destroy());
    return near;
  });
  bench.traffic.onWake = async () => machine;
  const dial: SocketBench['dial'] = ({ protocols = [], token, ...options } = {}) => {
    const auth = token === null ? {} : { 'x-aws-proxy-auth': token ?? bench.token };
    const socket = new WebSocket(`wss://localhost:${bench.port}/chat?room=1`, protocols, {
      ca: bench.ingress.caPem,
      ...options,
      headers: { ...auth, ...options.headers },
    });
    socket.on('error', () => {});
    dialed.push(socket);
    return socket;
  };
  stack.defer(() => {
    for (const socket of dialed) socket.terminate();
  });
  const shake: SocketBench['shake'] = async (options) => {
    const socket = dial(options);
    const { promise, resolve } = Promise.withResolvers<string>();
    socket.once('open', () => resolve(`101 ${socket.protocol}`));
    socket.once('unexpected-response', (_request, response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => {
        body += String(chunk);
      });
      response.once('end', () => resolve(`${response.statusCode} ${body}`));
    });
    socket.once('error', (error) => resolve(`error ${error.message}`));
    const outcome = await promise;
    socket.terminate();
    return outcome;
  };
  const owned = stack.move();
  return { bench, seen, ports, machine, dial, shake, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** The same machine, with another way to its ports. */
function withConnect(machine: Machine, connect: Machine['connect']): Machine {
  return new Proxy(machine, {
    get: (target, name) => {
      if (name === 'connect') return connect;
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

const protocolOf = (request: IncomingMessage | undefined) => request?.headers['sec-websocket-protocol'];

test('token and port come from subprotocols in any order, and the app sees only its own', async () => {
  await using b = await socketBench({ select: (offered) => (offered.has('chat') ? 'chat' : false) });
  const token = `lambda-microvms.authentication.${b.bench.token}`;
  const marker = 'lambda-microvms';
  const port = 'lambda-microvms.port.9000';
  const cases: [protocols: string[], selected: string, seenByApp: string | undefined, port: number][] = [
    [[marker, token], '101 lambda-microvms', undefined, 8080],
    [[marker, token, port], '101 lambda-microvms', undefined, 9000],
    [[token, 'other', port, marker], '101 lambda-microvms', 'other', 9000],
    [[token, 'other', port, marker, 'chat'], '101 chat', 'other, chat', 9000],
  ];
  for (const [protocols, selected, seenByApp, to] of cases) {
    assert.equal(await b.shake({ protocols, token: null }), selected, protocols.length.toString());
    assert.deepEqual([protocolOf(b.seen.at(-1)), b.ports.at(-1)], [seenByApp, to]);
  }
});

test('with the token in a header no subprotocol is needed, the marker included', async () => {
  await using b = await socketBench({ select: (offered) => (offered.has('chat') ? 'chat' : false) });
  assert.equal(await b.shake(), '101 ');
  assert.equal(await b.shake({ protocols: ['chat'] }), '101 chat');
  assert.equal(await b.shake({ protocols: ['lambda-microvms', 'lambda-microvms.port.9000'] }), '101 lambda-microvms');
  assert.equal(b.ports.at(-1), 9000);
  const both = { protocols: ['lambda-microvms', 'lambda-microvms.port.9000'], headers: { 'X-aws-proxy-port': '9001' } };
  assert.equal(await b.shake(both), '101 lambda-microvms');
  assert.equal(b.ports.at(-1), 9001, 'the header comes first');
  const head = b.seen.at(-1)?.rawHeaders.join('\n').toLowerCase() ?? '';
  assert.ok(!head.includes('x-aws-proxy') && !head.includes('lambda-microvms'), head);
  assert.match(head, /x-amzn-requestid\n[0-9a-f-]{36}/);
  assert.equal(b.seen.at(-1)?.url, '/chat?room=1');
});

test('an upgrade is refused with the status and words that a request gets', async () => {
  await using b = await socketBench();
  const { traffic, id, token } = b.bench;
  const auth = (value: string) => `lambda-microvms.authentication.${value}`;
  const other = traffic.issue({ microvmId: 'microvm-2' });
  const second = traffic.issue({ microvmId: id });
  const scoped = traffic.issue({ microvmId: id, ports: [[9000, 9000]] });
  const shell = traffic.issue({ microvmId: id, kind: 'shell', ports: [] });
  const expired = traffic.issue({ microvmId: id }, true);
  const cases: [protocols: string[], outcome: string][] = [
    [[], '403 Request missing authentication'],
    [['lambda-microvms'], '403 Request missing authentication'],
    [[auth(token)], '403 Request missing authentication'],
    [['lambda-microvms', auth('nonsense')], '403 Request missing authentication'],
    [['lambda-microvms', auth(token), auth(second)], '403 Request missing authentication'],
    [['lambda-microvms', auth('aa..bb.cc.dd')], '403 Token authentication failed'],
    [['lambda-microvms', auth(other)], '403 Token authentication failed'],
    [['lambda-microvms', auth(expired)], '403 Token authentication failed'],
    [['lambda-microvms', auth(scoped)], '403 Access to port denied'],
    [['lambda-microvms', auth(shell)], '502 '],
    [['lambda-microvms', auth(token), 'lambda-microvms.port.0x50'], '400 Invalid port'],
    [['lambda-microvms', auth(token), 'lambda-microvms.port.'], '400 Invalid port'],
    [['lambda-microvms', auth(token), 'lambda-microvms.port.65536'], '400 Invalid port'],
    [['lambda-microvms', auth(token), 'lambda-microvms.port.9000', 'lambda-microvms.port.9001'], '400 Invalid port'],
  ];
  for (const [protocols, outcome] of cases) {
    assert.equal(await b.shake({ protocols, token: null }), outcome, protocols.map((p) => p.slice(0, 40)).join());
  }
  assert.equal(traffic.wakes, 0, 'a refused upgrade wakes nothing');
});

test('entries given twice with the same meaning count once', async () => {
  await using b = await socketBench();
  // The client library, like a browser, refuses to offer one twice: a header of its own.
  const auth = `lambda-microvms.authentication.${b.bench.token}`;
  const offered = `lambda-microvms, ${auth}, lambda-microvms,${auth} ,lambda-microvms.port.9000,\tlambda-microvms.port.9000, ,`;
  const request = b.bench.start({
    headers: {
      'x-aws-proxy-auth': b.bench.token,
      connection: 'keep-alive, Upgrade',
      upgrade: 'WebSocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': randomBytes(16).toString('base64'),
      'sec-websocket-protocol': offered,
    },
  });
  request.end();
  const [response, socket] = await once(request, 'upgrade');
  assert.deepEqual([response.statusCode, b.ports], [101, [9000]]);
  assert.equal(protocolOf(b.seen[0]), undefined);
  socket.destroy();
});

test('an upgrade to WebSocket where none can begin is a 400 without a body, for who has a token', async () => {
  await using b = await socketBench();
  const cases: [method: string, headers: Record<string, string>][] = [
    ['GET', { upgrade: 'websocket' }],
    ['GET', { upgrade: 'foo, WebSocket' }],
    ['GET', { upgrade: 'websocket', connection: 'keep-alive' }],
    ['POST', { upgrade: 'websocket', connection: 'upgrade' }],
  ];
  const agent = new Agent({ ca: b.bench.ingress.caPem });
  for (const [method, headers] of cases) {
    const answer = await b.bench.request({ method, headers, agent });
    assert.deepEqual([answer.status, answer.body], [400, ''], JSON.stringify([method, headers]));
    assert.deepEqual(
      [answer.headers['cache-control'], answer.headers['content-type']],
      ['private, no-store', undefined],
    );
    const stranger = await b.bench.request({
      method,
      headers: { ...headers, 'x-aws-proxy-auth': 'x' },
      agent,
    });
    assert.equal(stranger.status, 403);
  }
  const headers = { upgrade: 'websocket', connection: 'upgrade', 'content-length': '5' };
  const withBody = await b.bench.request({ headers, agent }, 'GET /');
  assert.equal(withBody.status, 400, 'a body before the 101 could pass for a request of its own');
  assert.equal(b.bench.traffic.wakes, 0);
});

test('a token among the subprotocols of a request that is no upgrade never reaches the app', async () => {
  const seen: (string | undefined)[] = [];
  await using bench = await createBench(() => (request, response) => {
    seen.push(request.headers['sec-websocket-protocol']);
    response.end();
  });
  const ours = `lambda-microvms, lambda-microvms.authentication.${bench.token},lambda-microvms.port.9000`;
  await bench.request({ headers: { 'sec-websocket-protocol': ours } });
  await bench.request({ headers: { 'Sec-WebSocket-Protocol': `chat,${ours}, other` } });
  assert.deepEqual(seen, [undefined, 'chat, other']);
});

test('a crowd of upgrades is let in a few at a time, and all of it', async () => {
  await using b = await socketBench();
  const door = Promise.withResolvers<void>();
  let dials = 0;
  const slow = withConnect(b.machine, async (port, options) => {
    dials++;
    await door.promise;
    return b.machine.connect(port, options);
  });
  b.bench.traffic.onWake = async () => slow;
  const crowd = Promise.all(Array.from({ length: 40 }, () => b.shake()));
  while (b.bench.traffic.underWay < 40) await setImmediate();
  assert.equal(dials, 16);
  door.resolve();
  assert.deepEqual(new Set(await crowd), new Set(['101 ']));
  assert.equal(dials, 40);
});

test('an upgrade is held while its microVM resumes, and what the client sent meanwhile arrives', async () => {
  await using b = await socketBench();
  const awake = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  b.bench.traffic.onWake = async () => {
    asked.resolve();
    await awake.promise;
    return b.machine;
  };
  const socket = b.dial();
  await asked.promise;
  assert.deepEqual(b.ports, []);
  awake.resolve();
  await once(socket, 'open');
  socket.send('hello');
  const [data] = await once(socket, 'message');
  assert.equal(String(data), 'hello');
  assert.deepEqual(b.ports, [8080]);
});

test('an upgrade whose machine was suspended meanwhile wakes it again; one that can not be woken is a 502', async () => {
  await using b = await socketBench();
  let failures = 1;
  const flaky = withConnect(b.machine, async (port, options) => {
    if (failures-- > 0) throw new MachineError('exited', 'gone');
    return b.machine.connect(port, options);
  });
  b.bench.traffic.onWake = async () => flaky;
  assert.equal(await b.shake(), '101 ');
  assert.equal(b.bench.traffic.wakes, 2);
  failures = 3;
  assert.equal(await b.shake(), '502 ');
  b.bench.traffic.onWake = async () => {
    throw new DomainError('CONFLICT', 'it is terminated');
  };
  assert.equal(await b.shake(), '502 ');
  while (b.bench.traffic.underWay > 0) await setImmediate();
});

test('text and binary of any size come back as they were sent', async () => {
  await using b = await socketBench();
  const socket = b.dial();
  await once(socket, 'open');
  for (const size of [0, 1, 125, 126, 65_535, 65_536, 1_000_000, 16 * 1024 * 1024]) {
    const sent = randomBytes(size);
    socket.send(sent);
    const [data, isBinary] = await once(socket, 'message');
    assert.ok(isBinary && sent.equals(data as Buffer), `${size} bytes`);
  }
  socket.send('€'.repeat(100_000));
  const [text, isBinary] = await once(socket, 'message');
  assert.deepEqual([isBinary, String(text) === '€'.repeat(100_000)], [false, true]);
  assert.ok(b.bench.traffic.active.length > 10, 'bytes are activity');
});

test('pings and pongs pass with their payload, in both directions', async () => {
  const answered = Promise.withResolvers<string>();
  await using b = await socketBench({
    onSocket: (socket) => {
      socket.on('pong', (data) => answered.resolve(String(data)));
      socket.ping('from the app');
    },
  });
  const socket = b.dial();
  await once(socket, 'open');
  socket.ping('from the client');
  const [payload] = await once(socket, 'pong');
  assert.equal(String(payload), 'from the client');
  assert.equal(await answered.promise, 'from the app');
});

test('a close passes with its code and reason, whoever closes first, as does the lack of one', async () => {
  const { promise: closedAtApp, resolve } = Promise.withResolvers<unknown>();
  let onApp: (socket: WebSocket) => void = (socket) => void socket.once('close', (...close) => resolve(close));
  await using b = await socketBench({ onSocket: (socket) => onApp(socket) });
  const first = b.dial();
  await once(first, 'open');
  const closed = once(first, 'close');
  first.close(4001, 'enough');
  assert.deepEqual(await closedAtApp, [4001, Buffer.from('enough')]);
  assert.deepEqual(await closed, [4001, Buffer.from('enough')]);

  for (const [code, reason] of [
    [1000, 'done'],
    [3000, 'é'],
    [1011, ''],
  ] as const) {
    onApp = (socket) => socket.close(code, reason);
    assert.deepEqual(await once(b.dial(), 'close'), [code, Buffer.from(reason)]);
  }
  onApp = (socket) => socket.close();
  assert.deepEqual(await once(b.dial(), 'close'), [1005, Buffer.alloc(0)]);
  onApp = (socket) => socket.terminate();
  assert.deepEqual(await once(b.dial(), 'close'), [1006, Buffer.alloc(0)]);
});

test('a client that vanishes takes the connection to the app with it', async () => {
  const closed = Promise.withResolvers<number>();
  await using b = await socketBench({ onSocket: (socket) => void socket.once('close', closed.resolve) });
  const socket = b.dial();
  await once(socket, 'open');
  socket.terminate();
  assert.equal(await closed.promise, 1006);
});
