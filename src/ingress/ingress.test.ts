import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { connect as tlsConnect } from 'node:tls';
import { DomainError, MachineError } from '../lib/index.ts';
import { answerOf, createBench } from './test-bench.ts';

test('an admitted request reaches the app without proxy headers, with its Host and a request id, and the answer comes back', async () => {
  let seen: string[] = [];
  await using bench = await createBench(() => (request, response) => {
    seen = request.rawHeaders;
    response.writeHead(201, 'Made', [
      'X-App',
      'one',
      'X-App',
      'two',
      'Connection',
      'close',
      'x-amzn-requestid',
      'of-the-app',
    ]);
    response.end(`${request.method} ${request.url}`);
  });
  const answer = await bench.request({
    path: '/a%20b?c=d',
    headers: {
      'x-aws-proxy-port': '9000',
      'X-Aws-Proxy-Unknown': '1',
      'X-Amzn-RequestId': 'forged',
      'X-Own': 'kept',
      TE: 'trailers',
    },
  });
  assert.equal(answer.status, 201);
  assert.equal(answer.body, 'GET /a%20b?c=d');
  assert.deepEqual(
    answer.rawHeaders.filter((_, i, all) => all[i - 1] === 'X-App'),
    ['one', 'two'],
  );
  const id = answer.headers['x-amzn-requestid'];
  assert.match(String(id), /^[0-9a-f-]{36}$/);
  const names = seen.filter((_, i) => i % 2 === 0).map((name) => name.toLowerCase());
  assert.deepEqual(
    names.filter((name) => name.startsWith('x-aws-proxy') || name.startsWith('x-forwarded') || name === 'te'),
    [],
  );
  assert.equal(seen[seen.indexOf('Host') + 1], `localhost:${bench.port}`);
  assert.equal(seen[seen.indexOf('x-amzn-requestid') + 1], id);
  assert.equal(names.filter((name) => name === 'x-amzn-requestid').length, 1);
  assert.ok(seen.includes('X-Own'));
});

test('refusals are plain text with a request id that nobody may store', async () => {
  await using bench = await createBench();
  const foreign = bench.traffic.issue({ microvmId: 'microvm-2' });
  const expired = bench.traffic.issue({ microvmId: bench.id }, true);
  const shell = bench.traffic.issue({ microvmId: bench.id, kind: 'shell', ports: [] });
  const scoped = bench.traffic.issue({
    microvmId: bench.id,
    ports: [
      [8080, 8080],
      [9000, 9002],
    ],
  });
  const cases: [headers: Record<string, string>, status: number, body: string][] = [
    [{ 'x-aws-proxy-auth': '' }, 403, 'Request missing authentication'],
    [{ 'x-aws-proxy-auth': 'not a token' }, 403, 'Request missing authentication'],
    [{ 'x-aws-proxy-auth': 'aa..bb.cc.dd' }, 403, 'Token authentication failed'],
    [{ 'x-aws-proxy-auth': foreign }, 403, 'Token authentication failed'],
    [{ 'x-aws-proxy-auth': expired }, 403, 'Token authentication failed'],
    [{ 'x-aws-proxy-auth': shell }, 502, ''],
    [{ 'x-aws-proxy-port': '80 80' }, 400, 'Invalid port'],
    [{ 'x-aws-proxy-port': '0' }, 400, 'Invalid port'],
    [{ 'x-aws-proxy-port': '65536' }, 400, 'Invalid port'],
    [{ 'x-aws-proxy-auth': scoped, 'x-aws-proxy-port': '9003' }, 403, 'Access to port denied'],
    [{ 'x-aws-proxy-auth': scoped, 'x-aws-proxy-port': '9002' }, 200, '{"id":"microvm-1","count":1}'],
  ];
  for (const [headers, status, body] of cases) {
    const answer = await bench.request({ headers });
    assert.deepEqual([answer.status, answer.body], [status, body], JSON.stringify(headers));
    if (status === 200) continue;
    assert.equal(answer.headers['cache-control'], 'private, no-store');
    assert.ok(answer.headers['x-amzn-requestid']);
    if (body !== '') assert.equal(answer.headers['content-type'], 'text/plain');
  }
  assert.equal(bench.traffic.wakes, 1, 'a refused request wakes nothing');
});

test('a port on which nothing listens, an app that hangs up and a microVM that can not be woken are 502 without a body', async () => {
  await using bench = await createBench(() => (request) => request.socket.destroy(), [8080]);
  for (const port of ['8081', '8080']) {
    const answer = await bench.request({ headers: { 'x-aws-proxy-port': port } });
    assert.deepEqual([answer.status, answer.body], [502, ''], port);
  }
  bench.traffic.onWake = async () => {
    throw new DomainError('CONFLICT', 'it is terminated');
  };
  assert.equal((await bench.request({})).status, 502);
});

test('a large upload is streamed at the pace of the app and a large download at the pace of the client', async () => {
  const size = 24 * 1024 * 1024;
  await using bench = await createBench(() => (request, response) => {
    request.pipe(response);
  });
  const sent = bench.start({ method: 'POST', headers: { 'content-length': size } });
  const chunk = Buffer.alloc(64 * 1024, 7);
  let received = 0;
  const whole = new Promise<void>((resolve, reject) => {
    sent.once('error', reject);
    sent.once('response', (response) => {
      response.on('data', (part: Buffer) => {
        received += part.length;
      });
      response.once('end', resolve).once('error', reject);
    });
  });
  for (let i = 0; i < size / chunk.length; i++) if (!sent.write(chunk)) await once(sent, 'drain');
  sent.end();
  await whole;
  assert.equal(received, size);
  assert.ok(bench.traffic.active.length > 10, 'bytes count as activity');
});

test('a stream is delivered piece by piece, before the app has finished', async () => {
  const gate = Promise.withResolvers<void>();
  await using bench = await createBench(() => async (_request, response) => {
    response.setHeader('content-type', 'text/event-stream');
    response.flushHeaders();
    await gate.promise;
    response.write('data: 1\n\n');
    await new Promise((resolve) => response.req.socket.once('rekindle-next', resolve));
    response.end('data: 2\n\n');
  });
  const sent = bench.start({});
  sent.end();
  const [response] = await once(sent, 'response');
  assert.equal(response.headers['content-type'], 'text/event-stream');
  gate.resolve();
  const [first] = await once(response, 'data');
  assert.equal(String(first), 'data: 1\n\n');
  sent.destroy();
});

test('chunked bodies and trailers pass in both directions', async () => {
  await using bench = await createBench(() => (request, response) => {
    request.resume();
    request.once('end', () => {
      response.writeHead(200, { Trailer: 'X-Sum' });
      response.write('part');
      response.addTrailers({ 'X-Sum': `${request.headers['transfer-encoding']} ${request.trailers['x-in']}` });
      response.end();
    });
  });
  const sent = bench.start({ method: 'PUT', headers: { Trailer: 'X-In', 'Transfer-Encoding': 'chunked' } });
  sent.write('one');
  sent.addTrailers({ 'X-In': 'yes' });
  sent.end();
  const answer = await answerOf(sent);
  assert.equal(answer.body, 'part');
  assert.equal(answer.trailers['x-sum'], 'chunked yes');
});

test('HEAD has the length of what GET would give, and an empty POST has length 0', async () => {
  await using bench = await createBench(() => (request, response) => {
    response.setHeader('content-length', '5');
    response.setHeader('x-length', String(request.headers['content-length']));
    response.end(request.method === 'HEAD' ? undefined : 'hello');
  });
  const head = await bench.request({ method: 'HEAD' });
  assert.deepEqual([head.status, head.headers['content-length'], head.body], [200, '5', '']);
  const post = await bench.request({ method: 'POST' });
  assert.deepEqual([post.headers['x-length'], post.body], ['0', 'hello']);
});

test('a client that waits for 100 Continue gets it from the app, and a refusal without sending its body', async () => {
  await using bench = await createBench(() => (request, response) => {
    request.pipe(response);
  });
  const sent = bench.start({ method: 'POST', headers: { Expect: '100-continue', 'content-length': 4 } });
  sent.flushHeaders();
  await once(sent, 'continue');
  sent.end('body');
  assert.equal((await answerOf(sent)).body, 'body');

  const refused = bench.start({
    method: 'POST',
    headers: { 'x-aws-proxy-auth': '', Expect: '100-continue', 'content-length': 4 },
  });
  refused.flushHeaders();
  const [response] = await once(refused, 'response');
  assert.equal(response.statusCode, 403);
  refused.destroy();
});

test('an answer that the app breaks off does not look whole', async () => {
  await using bench = await createBench(() => (request, response) => {
    response.writeHead(200, { 'content-length': '100' });
    response.write('only this', () => request.socket.destroy());
  });
  await assert.rejects(bench.request({}), /aborted|hang up|ECONNRESET/);
});

test('what a hostile app answers never harms the server', async () => {
  let answer = '';
  await using bench = await createBench(() => (_request, response) => {
    response.socket?.end(answer, 'latin1');
  });
  const cases: [answer: string, status: number, body: string][] = [
    ['HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n', 502, ''],
    ['HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n', 502, ''],
    ['HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n', 502, ''],
    ['HTTP/1.1 200 OK\r\nTrailer: X-A\r\nContent-Length: 2\r\n\r\nok', 200, 'ok'],
    ['HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n', 502, ''],
    ['HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n', 502, ''],
    [`HTTP/1.1 200 OK\r\nX-Big: ${'a'.repeat(70_000)}\r\n\r\n`, 502, ''],
    ['nonsense', 502, ''],
    ['HTTP/1.0 200 OK\r\n\r\nuntil the end', 200, 'until the end'],
  ];
  for (const [raw, status, body] of cases) {
    answer = raw;
    const seen = await bench.request({});
    assert.deepEqual([seen.status, seen.body], [status, body], raw.slice(0, 60));
  }
});

test('a client that goes away takes its request to the app with it', async () => {
  const arrived = Promise.withResolvers<void>();
  const left = Promise.withResolvers<void>();
  await using bench = await createBench(() => (request) => {
    arrived.resolve();
    request.socket.once('close', () => left.resolve());
  });
  const sent = bench.start({});
  sent.on('error', () => {});
  sent.end();
  await arrived.promise;
  sent.destroy();
  await left.promise;
});

test('a request is under way from its machine being there to the end of its answer, and not while it waits', async () => {
  const seen: number[] = [];
  const ended = Promise.withResolvers<void>();
  await using bench = await createBench(() => (request, response) => {
    request.resume();
    seen.push(bench.traffic.underWay);
    response.write('first');
    void ended.promise.then(() => response.end('last'));
  });
  const wake = bench.traffic.onWake;
  bench.traffic.onWake = (id) => {
    seen.push(bench.traffic.underWay);
    return wake(id);
  };
  const answer = bench.request({});
  while (seen.length < 2) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(seen, [0, 1]);
  assert.equal(bench.traffic.underWay, 1);
  ended.resolve();
  assert.equal((await answer).body, 'firstlast');
  while (bench.traffic.underWay > 0) await new Promise((resolve) => setImmediate(resolve));
});

test('a request waits while the microVM is resumed, its body unread, and many waiting ones are all answered', async () => {
  await using bench = await createBench(() => (request, response) => {
    request.pipe(response);
  });
  const machine = await bench.traffic.onWake(bench.id);
  const awake = Promise.withResolvers<void>();
  bench.traffic.onWake = async () => {
    await awake.promise;
    return machine;
  };
  const answers = [...'abcdefgh'].map((body) => bench.request({ method: 'POST' }, body));
  while (bench.traffic.wakes < 8) await new Promise(setImmediate);
  awake.resolve();
  assert.equal((await Promise.all(answers)).map((answer) => answer.body).join(''), 'abcdefgh');
});

test('tunnels are kept and reused, but never across a suspend', async () => {
  await using bench = await createBench();
  const connects = () => bench.engine.calls.filter((call) => call.startsWith('connect')).length;
  const warnings: Error[] = [];
  const onWarning = (warning: Error) => void warnings.push(warning);
  process.on('warning', onWarning);
  for (let i = 0; i < 12; i++) await bench.request({});
  process.off('warning', onWarning);
  assert.equal(connects(), 1);
  assert.deepEqual(warnings, [], 'reuse leaves no listeners behind');
  const machine = await bench.traffic.onWake(bench.id);
  await machine.suspend({});
  const resumed = await bench.engine.resume({ id: bench.id, snapshotDir: '' }, {});
  bench.traffic.onWake = async () => resumed;
  assert.equal((await bench.request({})).body, '{"id":"microvm-1","count":13}');
  assert.equal(connects(), 2);
});

test('a machine that is suspended between waking and connecting is woken again, for any method', async () => {
  await using bench = await createBench();
  bench.engine.failNext('connect', new MachineError('exited', 'gone'));
  assert.equal((await bench.request({ method: 'POST' }, 'x')).status, 200);
  assert.equal(bench.traffic.wakes, 2);
  for (let i = 0; i < 3; i++) bench.engine.failNext('connect', new MachineError('exited', 'gone'));
  assert.equal((await bench.request({ headers: { 'x-aws-proxy-port': '9000' } })).status, 502);
});

test('a kept tunnel that the app closed without a word is replaced once, unseen by the client', async () => {
  let sockets = 0;
  const known = new WeakSet<object>();
  await using bench = await createBench(() => (request, response) => {
    if (known.has(request.socket)) return void request.socket.destroy();
    known.add(request.socket);
    sockets++;
    response.end(String(sockets));
  });
  assert.equal((await bench.request({})).body, '1');
  assert.equal((await bench.request({})).body, '2');
  assert.equal((await bench.request({ method: 'POST' }, 'a body is not sent twice')).status, 502);
});

test('an upgrade is passed through both ways, without the entries of the proxy', async () => {
  let protocols: string | undefined;
  await using bench = await createBench(() => (request, response) => {
    protocols = request.headers['sec-websocket-protocol'];
    assert.equal(request.headers.upgrade, 'websocket');
    const { socket } = response;
    socket?.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    socket?.pipe(socket);
  });
  const offered = `lambda-microvms, lambda-microvms.authentication.${bench.token}, lambda-microvms.port.9000, chat`;
  const sent = bench.start({
    headers: { 'x-aws-proxy-auth': '', Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Protocol': offered },
  });
  sent.removeHeader('x-aws-proxy-auth');
  sent.end();
  const [response, socket] = await once(sent, 'upgrade');
  assert.equal(response.headers['sec-websocket-protocol'], 'lambda-microvms');
  assert.ok(response.headers['x-amzn-requestid']);
  assert.equal(protocols, 'chat');
  socket.write('ping');
  const [echo] = await once(socket, 'data');
  assert.equal(String(echo), 'ping');
  socket.destroy();
});

test('an upgrade the app declines is an ordinary answer on a connection that ends', async () => {
  await using bench = await createBench(() => (_request, response) => response.writeHead(426).end('no'));
  const sent = bench.start({ headers: { Connection: 'Upgrade', Upgrade: 'websocket' } });
  sent.end();
  const answer = await answerOf(sent);
  assert.deepEqual([answer.status, answer.body, answer.headers.connection], [426, 'no', 'close']);
  const refused = bench.start({ headers: { 'x-aws-proxy-auth': '', Connection: 'Upgrade', Upgrade: 'websocket' } });
  refused.end();
  assert.equal((await answerOf(refused)).status, 403);
});

test('what is not HTTP or too large is refused, and the connection ends', async () => {
  await using bench = await createBench();
  const raw = async (bytes: string) => {
    const socket = tlsConnect({
      host: 'localhost',
      port: bench.port,
      ca: bench.ingress.caPem,
      ALPNProtocols: ['http/1.1'],
    });
    socket.end(bytes);
    let answer = '';
    for await (const chunk of socket) answer += String(chunk);
    return answer;
  };
  assert.match(await raw('nonsense\r\n\r\n'), /^HTTP\/1.1 400 [\s\S]*x-amzn-requestid: [\s\S]*Malformed request$/);
  assert.match(await raw(`GET / HTTP/1.1\r\nHost: x\r\nX-Big: ${'a'.repeat(70_000)}\r\n\r\n`), /^HTTP\/1.1 431 /);
  assert.match(
    await raw('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    /^HTTP\/1.1 400 /,
  );
});

test('headers that drip in are cut off with 408', async () => {
  await using bench = await createBench();
  const options = { host: 'localhost', port: bench.port, ca: bench.ingress.caPem, ALPNProtocols: ['http/1.1'] };
  const socket = tlsConnect(options);
  socket.write('GET / HTTP/1.1\r\nHost: x\r\nX-Never-');
  let answer = '';
  for await (const chunk of socket) answer += String(chunk);
  assert.match(answer, /^HTTP\/1.1 408 /);
});

test('a session ticket spares the second handshake, and the protocol agreed on is HTTP/2 where both can speak it', async () => {
  await using bench = await createBench();
  const options = { host: 'localhost', port: bench.port, ca: bench.ingress.caPem, ALPNProtocols: ['h2', 'http/1.1'] };
  const first = tlsConnect(options);
  const [session] = await once(first, 'session');
  assert.equal(first.alpnProtocol, 'h2');
  first.destroy();
  const second = tlsConnect({ ...options, session });
  await once(second, 'secureConnect');
  assert.equal(second.isSessionReused(), true);
  second.destroy();
});

test('each microVM has its own port, keeps it when reopened, and a closed one takes no connections', async () => {
  await using bench = await createBench();
  const other = await bench.ingress.open({ microvmId: 'microvm-2', endpointId: 'e', port: null, memoryMiB: 2048 });
  assert.notEqual(other.port, bench.port);
  assert.equal(other.address, `localhost:${other.port}`);
  const answer = await bench.request({ port: other.port });
  assert.deepEqual(
    [answer.status, answer.body],
    [403, 'Token authentication failed'],
    'a token works at its own endpoint only',
  );
  await bench.ingress.close('microvm-2');
  await assert.rejects(bench.request({ port: other.port, agent: false }), /ECONNREFUSED/);
  const again = await bench.ingress.open({
    microvmId: 'microvm-2',
    endpointId: 'e',
    port: other.port,
    memoryMiB: 2048,
  });
  assert.equal(again.port, other.port);
  await assert.rejects(
    bench.ingress.open({ microvmId: 'microvm-3', endpointId: 'e', port: other.port, memoryMiB: 2048 }),
    (error: unknown) => error instanceof DomainError && error.code === 'CONFLICT',
  );
});

test('disposing ends listeners and connections, also with a request in flight', async () => {
  const arrived = Promise.withResolvers<void>();
  const bench = await createBench(() => () => arrived.resolve());
  const hanging = bench.request({});
  hanging.catch(() => {});
  await arrived.promise;
  await bench[Symbol.asyncDispose]();
  await assert.rejects(hanging);
  await assert.rejects(bench.request({}), /ECONNREFUSED/);
});
