import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, constants } from 'node:http2';
import { test } from 'node:test';
import { connect as tlsConnect } from 'node:tls';
import { DomainError } from '../../lib/index.ts';
import { reset } from './reset.ts';
import { createHttp2Bench, type Http2Bench, h2cApp, toldOf } from './test-bench.ts';

test('a request over HTTP/2 reaches an HTTP/1.1 app with Host, one cookie header and no headers of the proxy', async () => {
  let seen: string[] = [];
  await using bench = await createHttp2Bench(() => (request, response) => {
    seen = request.rawHeaders;
    response.writeHead(201, 'Made', ['X-App', 'One', 'x-app', 'two', 'Connection', 'close', 'Keep-Alive', 'timeout=1']);
    response.end(`${request.method} ${request.url} ${request.httpVersion}`);
  });
  const told = await bench.ask({ ':path': '/a%20b?c=d', cookie: ['a=1', 'b=2'], 'x-own': 'kept', te: 'trailers' });
  assert.deepEqual([told.status, told.body], [201, 'GET /a%20b?c=d 1.1']);
  const names = told.headers.filter((_, i) => i % 2 === 0);
  assert.deepEqual(
    names.filter(
      (name) => name !== name.toLowerCase() || ['connection', 'keep-alive', 'transfer-encoding'].includes(name),
    ),
    [],
  );
  assert.deepEqual(
    told.headers.filter((_, i, all) => all[i - 1] === 'x-app'),
    ['One', 'two'],
  );
  const value = (name: string) => seen[seen.findIndex((one) => one.toLowerCase() === name) + 1];
  assert.equal(value('host'), `localhost:${bench.port}`);
  assert.equal(value('cookie'), 'a=1; b=2');
  assert.equal(value('x-own'), 'kept');
  assert.equal(value('x-amzn-requestid'), told.headers[told.headers.indexOf('x-amzn-requestid') + 1]);
  assert.equal(
    seen.some((name, i) => i % 2 === 0 && /^(x-aws-proxy|te$|:)/i.test(name)),
    false,
  );
});

test('bodies of known and unknown length and trailers pass both ways', async () => {
  const seen: unknown[] = [];
  await using bench = await createHttp2Bench(() => async (request, response) => {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    seen.push([request.headers['content-length'], request.headers['transfer-encoding'], body, request.trailers]);
    response.writeHead(200, { trailer: 'x-sum' });
    response.write(body);
    response.addTrailers({ 'X-Sum': '7' });
    response.end();
  });
  const sized = await bench.ask({ ':method': 'POST', 'content-length': '4' }, 'four');
  assert.deepEqual([sized.body, sized.trailers], ['four', ['x-sum', '7']]);
  const stream = bench.session.request(
    { ':method': 'POST', ':path': '/', 'x-aws-proxy-auth': bench.token },
    { waitForTrailers: true },
  );
  stream.on('wantTrailers', () => stream.sendTrailers({ 'x-end': 'true', 'x-aws-proxy-port': '1' }));
  stream.write('one ');
  stream.end('two');
  const told = await toldOf(stream);
  assert.deepEqual([told.body, told.code], ['one two', 0]);
  assert.deepEqual(seen, [
    ['4', undefined, 'four', {}],
    [undefined, 'chunked', 'one two', { 'x-end': 'true' }],
  ]);
});

test('HEAD, 204 and 304 end with their headers', async () => {
  await using bench = await createHttp2Bench(() => (request, response) => {
    response.statusCode = Number(request.url?.slice(1));
    if (request.method === 'HEAD') response.setHeader('content-length', 12);
    response.end();
  });
  for (const [method, path] of [
    ['HEAD', '/200'],
    ['GET', '/204'],
    ['GET', '/304'],
  ] as const) {
    const told = await bench.ask({ ':method': method, ':path': path });
    assert.deepEqual([told.status, told.body, told.code], [Number(path.slice(1)), '', 0]);
    if (method === 'HEAD') assert.equal(told.headers[told.headers.indexOf('content-length') + 1], '12');
  }
});

test('refusals are what they are over HTTP/1.1, and a body nobody wants is not waited for', async () => {
  await using bench = await createHttp2Bench();
  const missing = await bench.ask({ 'x-aws-proxy-auth': '' });
  assert.deepEqual([missing.status, missing.body], [403, 'Request missing authentication']);
  assert.equal(missing.headers[missing.headers.indexOf('cache-control') + 1], 'private, no-store');
  const port = await bench.ask({ 'x-aws-proxy-port': '0' });
  assert.deepEqual([port.status, port.body], [400, 'Invalid port']);
  const upload = bench.open({ ':method': 'POST', 'x-aws-proxy-auth': 'no' }, { endStream: false });
  upload.write('a body that never ends');
  const told = await toldOf(upload);
  assert.deepEqual([told.status, told.code], [403, constants.NGHTTP2_NO_ERROR]);
  bench.traffic.onWake = async () => {
    throw new DomainError('CONFLICT', 'it is terminated');
  };
  assert.equal((await bench.ask()).status, 502);
});

test('what HTTP/2 allows and a request may not be is 400, and reaches nobody', async () => {
  await using bench = await createHttp2Bench();
  const cases: Record<string, string>[] = [
    { ':authority': 'localhost', host: 'another.example' },
    { ':authority': 'a b' },
    { ':authority': 'user@localhost' },
    { ':path': '*' },
    { ':method': 'GE T' },
  ];
  for (const headers of cases) {
    const told = await bench.ask(headers);
    assert.ok(told.status === 400 || (told.status === 0 && told.code !== 0), JSON.stringify([headers, told.status]));
  }
  const tunnel = bench.session.request({ ':method': 'CONNECT', ':authority': 'localhost:22' });
  assert.equal((await toldOf(tunnel)).status, 400);
  assert.equal(bench.traffic.wakes, 0);
  assert.notEqual(bench.session.remoteSettings.enableConnectProtocol, true, 'RFC 8441 is not announced');
});

test('too many or too long headers are 431 or a reset stream, and harm no other', async () => {
  await using bench = await createHttp2Bench(undefined, { limits: { headerBytes: 8192, headerCount: 40 } });
  assert.equal((await bench.ask({ 'x-large': 'y'.repeat(8192) })).status, 431);
  const many = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`x-${i}`, '1']));
  assert.equal((await bench.ask(many(60))).status, 431);
  for (const headers of [{ 'x-large': 'y'.repeat(20_000) }, many(200)]) {
    const told = await bench.ask(headers);
    assert.deepEqual([told.status, told.code], [0, constants.NGHTTP2_ENHANCE_YOUR_CALM]);
  }
  assert.equal((await bench.ask()).status, 200);
});

test('a client that only opens streams to reset them is sent away', async () => {
  await using bench = await createHttp2Bench();
  const raw = await rawClient(bench);
  const frames: Buffer[] = [];
  for (let stream = 1; stream < 2000; stream += 2) {
    frames.push(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET));
    frames.push(frame(RST_STREAM, 0, stream, Buffer.from([0, 0, 0, constants.NGHTTP2_CANCEL])));
  }
  raw.socket.write(Buffer.concat(frames));
  // A client that is still sending may find its connection cut before it reads why (-1).
  assert.ok([constants.NGHTTP2_ENHANCE_YOUR_CALM, -1].includes(await raw.goaway));
  assert.equal(bench.traffic.wakes, 0);
  assert.equal((await toldOf(bench.connect().request({ 'x-aws-proxy-auth': bench.token }))).status, 200);
});

test('floods of settings, pings, empty data and continuations end the connection, or cost the server nothing', async () => {
  await using bench = await createHttp2Bench(() => (request, response) => {
    if (request.method === 'GET') response.end();
  });
  const endless = Buffer.concat([POST, literal('x-aws-proxy-auth', bench.token)]);
  const floods: [name: string, frames: Buffer[], isEnded: boolean][] = [
    ['settings', repeat(20_000, frame(SETTINGS, 0, 0)), false],
    ['pings', repeat(20_000, frame(PING, 0, 0, Buffer.alloc(8))), false],
    ['empty data', [frame(HEADERS, END_HEADERS, 1, endless), ...repeat(20_000, frame(DATA, 0, 1))], true],
    ['continuations', [frame(HEADERS, 0, 1, GET), ...repeat(1000, frame(CONTINUATION, 0, 1, GET))], true],
    ['windows', repeat(3, frame(WINDOW_UPDATE, 0, 0, Buffer.from([0x7f, 255, 255, 255]))), true],
  ];
  for (const [name, frames, isEnded] of floods) {
    const raw = await rawClient(bench);
    // Nothing is read meanwhile, so that acknowledgements pile up.
    raw.socket.pause();
    raw.socket.write(Buffer.concat(frames));
    raw.socket.resume();
    if (isEnded) assert.ok((await raw.goaway) !== constants.NGHTTP2_NO_ERROR, name);
    raw.socket.destroy();
    assert.equal((await bench.ask()).status, 200, name);
  }
  assert.equal(bench.traffic.underWay, 0);
});

test('a connection without a request is told to go, whatever else it sends', async () => {
  await using bench = await createHttp2Bench(undefined, { limits: { headersMs: 100 } });
  const session = bench.connect();
  const closed = once(session, 'close');
  const [code] = await once(session, 'goaway');
  assert.equal(code, constants.NGHTTP2_NO_ERROR);
  await closed;
});

test('a slow reader of one stream holds its app back and no other stream', async () => {
  const size = 8 * 1024 * 1024;
  let written = 0;
  await using bench = await createHttp2Bench(() => async (request, response) => {
    const chunk = Buffer.alloc(64 * 1024);
    for (let sent = 0; sent < size; sent += chunk.length) {
      if (request.url === '/slow') written = sent;
      if (!response.write(chunk)) await once(response, 'drain');
    }
    response.end();
  });
  const slow = bench.open({ ':path': '/slow' });
  await once(slow, 'response');
  const fast = await bench.ask({ ':path': '/fast' });
  assert.equal(fast.body.length, size);
  assert.ok(written < 4 * 1024 * 1024, `${written} bytes were taken for a client that reads none`);
  let received = 0;
  for await (const chunk of slow) received += chunk.length;
  assert.equal(received, size);
});

test('an upload is taken at the pace of the app', async () => {
  const size = 8 * 1024 * 1024;
  const go = Promise.withResolvers<void>();
  await using bench = await createHttp2Bench(() => async (request, response) => {
    response.flushHeaders();
    await go.promise;
    let received = 0;
    for await (const chunk of request) received += chunk.length;
    response.end(String(received));
  });
  const upload = bench.open({ ':method': 'POST' }, { endStream: false });
  const told = toldOf(upload);
  await once(upload, 'response');
  const chunk = Buffer.alloc(64 * 1024);
  let sent = 0;
  while (upload.write(chunk) || upload.writableLength < 2 * 1024 * 1024) sent += chunk.length;
  sent += chunk.length;
  go.resolve();
  for (; sent < size; sent += chunk.length) if (!upload.write(chunk)) await once(upload, 'drain');
  upload.end();
  assert.equal((await told).body, String(sent));
});

test('server-sent events arrive one by one', async () => {
  const next: (() => void)[] = [];
  await using bench = await createHttp2Bench(() => (_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.flushHeaders();
    next.push(
      () => response.write('data: 1\n\n'),
      () => response.end('data: 2\n\n'),
    );
  });
  const stream = bench.open();
  await once(stream, 'response');
  next.shift()?.();
  assert.equal(String((await once(stream, 'data'))[0]), 'data: 1\n\n');
  next.shift()?.();
  assert.equal(String((await once(stream, 'data'))[0]), 'data: 2\n\n');
});

test('streams opened while the microVM wakes are held, and all are answered', async () => {
  await using bench = await createHttp2Bench();
  const machine = await bench.traffic.onWake(bench.id);
  const woken = Promise.withResolvers<typeof machine>();
  bench.traffic.onWake = () => woken.promise;
  const asked = Array.from({ length: 50 }, () => bench.ask());
  while (bench.traffic.wakes < 50) await new Promise((resolve) => setImmediate(resolve));
  woken.resolve(machine);
  assert.deepEqual(new Set((await Promise.all(asked)).map(({ status }) => status)), new Set([200]));
  assert.equal(bench.traffic.underWay, 0);
});

test('a client that waits for 100 Continue gets it', async () => {
  await using bench = await createHttp2Bench();
  const stream = bench.open({ ':method': 'POST', expect: '100-continue' }, { endStream: false });
  await once(stream, 'continue');
  stream.end('body');
  assert.equal((await toldOf(stream)).status, 200);
});

test('an answer that the app breaks off ends in a reset, never as if it were whole', async () => {
  await using bench = await createHttp2Bench(() => (request, response) => {
    if (request.url === '/sized') response.setHeader('content-length', 100);
    response.write('half');
    setImmediate(() => response.destroy());
  });
  for (const path of ['/sized', '/chunked']) {
    const stream = bench.open({ ':path': path });
    let ended = false;
    stream.once('end', () => {
      ended = true;
    });
    const told = await toldOf(stream);
    assert.deepEqual([told.status, told.code, ended], [200, constants.NGHTTP2_INTERNAL_ERROR, false], path);
  }
});

test('an upload that the client breaks off never looks whole to the app', async () => {
  const seen: string[] = [];
  const over = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  await using bench = await createHttp2Bench(() => (request, response) => {
    response.flushHeaders();
    request.on('data', () => seen.push('data')).once('end', () => seen.push('end'));
    request.once('close', () => over[0]?.resolve()).on('error', () => {});
  });
  bench.listen(
    9000,
    h2cApp((stream) => {
      stream.respond({ ':status': 200 });
      let isEnded = false;
      stream
        .on('data', () => seen.push('data'))
        .once('end', () => {
          // Node says so of a stream that was reset, too.
          isEnded = !stream.aborted;
        });
      stream.once('close', () => {
        seen.push(isEnded ? 'end' : `reset ${stream.rstCode}`);
        over[1]?.resolve();
      });
    }),
  );
  const toHttp2 = { 'x-aws-proxy-port': '9000', 'x-aws-proxy-force-h2': 'true' };
  for (const [i, headers] of [{}, toHttp2].entries()) {
    const stream = bench.open({ ':method': 'POST', ...headers }, { endStream: false });
    await once(stream, 'response');
    stream.write('half');
    while (seen.length < 1 + i) await new Promise((resolve) => setImmediate(resolve));
    reset(stream, constants.NGHTTP2_CANCEL);
    await over[i]?.promise;
  }
  assert.deepEqual(seen, ['data', 'data', `reset ${constants.NGHTTP2_CANCEL}`]);
});

test('with force-h2 the app is spoken to in HTTP/2, also for a client of HTTP/1.1, and one that can not is 502', async () => {
  let seen: readonly string[] = [];
  await using bench = await createHttp2Bench();
  bench.listen(
    9000,
    h2cApp((stream, headers) => {
      seen = headers;
      stream.respond({ ':status': 200 }, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
      stream.pipe(stream);
    }),
  );
  const headers = { 'x-aws-proxy-port': '9000', 'x-aws-proxy-force-h2': 'true' };
  const told = await bench.ask({ ...headers, ':method': 'POST', te: 'trailers' }, 'hello');
  assert.deepEqual([told.status, told.body, told.trailers], [200, 'hello', ['grpc-status', '0']]);
  assert.equal(seen[seen.indexOf(':authority') + 1], `localhost:${bench.port}`);
  assert.equal(seen[seen.indexOf('te') + 1], 'trailers');
  assert.equal(
    seen.some((name) => name.startsWith('x-aws-proxy')),
    false,
  );
  const http1 = await bench.request({ method: 'POST', headers }, 'from http/1.1');
  assert.deepEqual([http1.status, http1.body, http1.trailers], [200, 'from http/1.1', { 'grpc-status': '0' }]);
  const none = await bench.ask({ 'x-aws-proxy-force-h2': 'true' });
  assert.deepEqual([none.status, none.body], [502, '']);
});

test('a reset passes from client to app and from app to client', async () => {
  const atApp = Promise.withResolvers<number>();
  await using bench = await createHttp2Bench();
  bench.listen(
    9000,
    h2cApp((stream, headers) => {
      const path = headers[headers.indexOf(':path') + 1];
      if (path === '/refuses') return stream.close(constants.NGHTTP2_CANCEL);
      stream.respond({ ':status': 200 });
      stream.write('some');
      if (path === '/fails') setImmediate(() => stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM));
      else stream.once('close', () => atApp.resolve(stream.rstCode ?? -1));
    }),
  );
  const headers = { 'x-aws-proxy-port': '9000', 'x-aws-proxy-force-h2': 'true' };
  const told = await bench.ask({ ...headers, ':path': '/fails' });
  assert.deepEqual([told.status, told.code], [200, constants.NGHTTP2_ENHANCE_YOUR_CALM]);
  const refused = await bench.ask({ ...headers, ':path': '/refuses' });
  assert.deepEqual([refused.status, refused.code], [0, constants.NGHTTP2_CANCEL]);
  const stream = bench.open({ ...headers, ':path': '/cancelled' });
  await once(stream, 'data');
  stream.close(constants.NGHTTP2_CANCEL);
  assert.equal(await atApp.promise, constants.NGHTTP2_CANCEL);
  assert.equal(bench.traffic.underWay, 0);
});

test('a server that stops says so, and what is under way is finished', async () => {
  const go = Promise.withResolvers<void>();
  const bench = await createHttp2Bench(() => async (_request, response) => {
    response.write('one ');
    await go.promise;
    response.end('two');
  });
  const stream = bench.open();
  const told = toldOf(stream);
  await once(stream, 'data');
  const gone = once(bench.session, 'goaway');
  const disposed = bench.ingress[Symbol.asyncDispose]();
  assert.equal((await gone)[0], constants.NGHTTP2_NO_ERROR);
  go.resolve();
  assert.equal((await told).code, 0);
  await disposed;
  await bench[Symbol.asyncDispose]();
});

test('the end of a microVM is told before its connections are cut', async () => {
  await using bench = await createHttp2Bench();
  assert.equal((await bench.ask()).status, 200);
  const gone = once(bench.session, 'goaway');
  const closed = once(bench.session, 'close');
  await bench.ingress.close(bench.id);
  assert.equal((await gone)[0], constants.NGHTTP2_NO_ERROR);
  await closed;
});

test('bytes that are no HTTP/2 end the connection', async () => {
  await using bench = await createHttp2Bench();
  const options = { host: 'localhost', port: bench.port, ca: bench.ingress.caPem, ALPNProtocols: ['h2'] };
  const socket = tlsConnect(options);
  await once(socket, 'secureConnect');
  socket.on('error', () => {});
  socket.resume();
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(10));
  await once(socket, 'close');
  const session = connect(`https://localhost:${bench.port}`, { ca: bench.ingress.caPem });
  assert.equal((await toldOf(session.request({ 'x-aws-proxy-auth': bench.token }))).status, 200);
  session.destroy();
});

const [DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION] = [0, 1, 3, 4, 6, 7, 8, 9];
const END_STREAM = 1;
const END_HEADERS = 4;
/** GET https://localhost/ in HPACK. */
const GET = Buffer.concat([Buffer.from([0x82, 0x87, 0x84, 0x41, 9]), Buffer.from('localhost')]);

const POST = Buffer.concat([Buffer.from([0x83]), GET.subarray(1)]);

/** A header in HPACK, shorter than 127 bytes each. */
function literal(name: string, value: string): Buffer {
  const of = (text: string) => Buffer.concat([Buffer.from([text.length]), Buffer.from(text)]);
  return Buffer.concat([Buffer.from([0]), of(name), of(value)]);
}

function frame(type: number, flags: number, stream: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

function repeat(count: number, one: Buffer): Buffer[] {
  return Array.from({ length: count }, () => one);
}

/** A client that says what no library would; `goaway` resolves with the code it was sent away with, -1 for none. */
async function rawClient(bench: Http2Bench) {
  const options = { host: 'localhost', port: bench.port, ca: bench.ingress.caPem, ALPNProtocols: ['h2'] };
  const socket = tlsConnect(options);
  socket.on('error', () => {});
  await once(socket, 'secureConnect');
  const goaway = Promise.withResolvers<number>();
  let held = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    held = Buffer.concat([held, chunk]);
    while (held.length >= 9 && held.length >= 9 + held.readUIntBE(0, 3)) {
      if (held[3] === GOAWAY) goaway.resolve(held.readUInt32BE(13));
      held = held.subarray(9 + held.readUIntBE(0, 3));
    }
  });
  socket.once('close', () => goaway.resolve(-1));
  socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
  socket.write(frame(SETTINGS, 0, 0));
  return { socket, goaway: goaway.promise };
}
