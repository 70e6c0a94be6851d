import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { test } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import { TestClock } from '../../lib/index.ts';
import { answerOf, type Bench, createBench } from '../test-bench.ts';

function open(bench: Bench): TLSSocket {
  return connect({ host: 'localhost', port: bench.port, ca: bench.ingress.caPem, ALPNProtocols: ['http/1.1'] });
}

function head(bench: Bench, line: string, ...more: string[]): string {
  return `${[line, 'Host: vm', `X-Aws-Proxy-Auth: ${bench.token}`, ...more].join('\r\n')}\r\n\r\n`;
}

async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await new Promise(setImmediate);
}

async function rest(socket: TLSSocket): Promise<string> {
  let text = '';
  for await (const chunk of socket) text += chunk.toString('latin1');
  return text;
}

/** An app that writes its own bytes as the answer to each request. */
function raw(answer: (request: IncomingMessage) => string) {
  return () => (request: IncomingMessage) => {
    request.resume().once('end', () => request.socket.write(answer(request), 'latin1'));
  };
}

test('a client connection is kept for the next request, and ended when client or version say so', async () => {
  await using bench = await createBench();
  const socket = open(bench);
  socket.write(head(bench, 'GET / HTTP/1.1'));
  assert.match(String((await once(socket, 'data'))[0]), /"count":1\}$/);
  socket.write(head(bench, 'GET / HTTP/1.1', 'Connection: close'));
  const last = await rest(socket);
  assert.match(last, /\r\nConnection: close\r\n[\s\S]*"count":2\}$/);

  const old = open(bench);
  old.write(head(bench, 'GET / HTTP/1.0', 'Connection: keep-alive'));
  assert.match(String((await once(old, 'data'))[0]), /\r\nConnection: keep-alive\r\n[\s\S]*"count":3\}$/);
  old.write(head(bench, 'GET / HTTP/1.0'));
  assert.match(await rest(old), /\r\nConnection: close\r\n[\s\S]*"count":4\}$/);
});

test('an answer without a length is chunked for HTTP/1.1 and ends with the connection for HTTP/1.0', async () => {
  await using bench = await createBench(() => (_request, response) => {
    response.write('one ');
    response.end('two');
  });
  const answer = await bench.request({});
  assert.deepEqual([answer.headers['transfer-encoding'], answer.body], ['chunked', 'one two']);
  const old = open(bench);
  old.write(head(bench, 'GET / HTTP/1.0', 'Connection: keep-alive'));
  const text = await rest(old);
  assert.doesNotMatch(text, /transfer-encoding/i);
  assert.match(text, /\r\n\r\none two$/);
});

test('HEAD, 204 and 304 have no body, whatever their headers say, and the connection goes on', async () => {
  await using bench = await createBench(
    raw(({ method, url }) => {
      if (method === 'HEAD') return 'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n';
      if (url === '/204') return 'HTTP/1.1 204 No Content\r\n\r\n';
      if (url === '/304') return 'HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: "x"\r\n\r\n';
      return 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
    }),
  );
  const socket = open(bench);
  const requests = ['HEAD /', 'GET /204', 'GET /304'].map((line) => head(bench, `${line} HTTP/1.1`)).join('');
  socket.write(`${requests}${head(bench, 'GET / HTTP/1.1', 'Connection: close')}`);
  const text = await rest(socket);
  assert.deepEqual(
    [...text.matchAll(/^HTTP\/1\.1 (\d+)|Content-Length: (\d+)/gm)].map(([, status, length]) => status ?? length),
    ['200', '1000', '204', '304', '1000', '200', '2'],
  );
  assert.match(text, /ok$/);
});

test('a client that was refused before it was told to go on may leave its body out: the connection ends', async () => {
  await using bench = await createBench();
  const socket = open(bench);
  const expecting = ['Expect: 100-continue', 'Content-Length: 1000000', 'X-Aws-Proxy-Port: none'];
  socket.write(head(bench, 'POST / HTTP/1.1', ...expecting));
  assert.match(await rest(socket), /^HTTP\/1\.1 400 [\s\S]*\r\nConnection: close\r\n[\s\S]*Invalid port$/);
});

test('a refused request with a body is read to its end, and the next one is answered', async () => {
  await using bench = await createBench();
  const socket = open(bench);
  socket.write(`${head(bench, 'POST / HTTP/1.1', 'X-Aws-Proxy-Port: none', 'Content-Length: 100000')}`);
  await once(socket, 'data');
  socket.write(Buffer.alloc(100_000));
  socket.write(head(bench, 'GET / HTTP/1.1', 'Connection: close'));
  assert.match(await rest(socket), /^HTTP\/1\.1 200 /);
});

test('an unknown expectation is 417', async () => {
  await using bench = await createBench();
  const socket = open(bench);
  socket.write(head(bench, 'POST / HTTP/1.1', 'Expect: a-miracle', 'Content-Length: 5'));
  assert.match(await rest(socket), /^HTTP\/1\.1 417 /);
});

test('interim answers other than 100 reach the client, and one without end does not', async () => {
  let flood = false;
  await using bench = await createBench(
    raw(() =>
      flood
        ? 'HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(100)
        : 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
    ),
  );
  const sent = bench.start({});
  const hints = once(sent, 'information');
  sent.end();
  assert.equal((await answerOf(sent)).body, 'ok');
  const [{ statusCode, headers }] = await hints;
  assert.deepEqual([statusCode, headers.link], [103, '</a>']);
  flood = true;
  assert.equal((await bench.request({})).status, 502);
});

test('an app may answer, wholly, while the client goes on sending, and still gets all of it', async () => {
  let received = 0;
  const whole = Promise.withResolvers<void>();
  await using bench = await createBench(() => (request, response) => {
    response.end('early');
    request.on('data', (part: Buffer) => {
      received += part.length;
    });
    request.on('end', () => whole.resolve());
  });
  const sent = bench.start({ method: 'POST', headers: { 'content-length': 300_000 } });
  sent.write(Buffer.alloc(100_000));
  const answer = await answerOf(sent);
  assert.equal(answer.body, 'early');
  sent.end(Buffer.alloc(200_000));
  await whole.promise;
  assert.equal(received, 300_000);
  assert.equal((await bench.request({ method: 'POST' }, 'next')).body, 'early');
});

test('a client that ended its side still gets its answer, however long that takes', async () => {
  const gate = Promise.withResolvers<void>();
  await using bench = await createBench(() => async (request, response) => {
    request.resume();
    await gate.promise;
    response.end('late');
  });
  const socket = open(bench);
  socket.end(`${head(bench, 'POST / HTTP/1.1', 'Content-Length: 5')}hello`);
  let text = '';
  socket.on('data', (part) => {
    text += String(part);
  });
  const closed = once(socket, 'close');
  // Asked whether it is still there meanwhile.
  await until(() => text.includes('100 Continue'));
  gate.resolve();
  await closed;
  assert.match(text, /HTTP\/1\.1 200 OK\r\n[\s\S]*late/);
});

test('a client that ends its side in the middle of a body takes the request with it', async () => {
  const aborted = Promise.withResolvers<void>();
  await using bench = await createBench(() => (request) => {
    request.resume().once('aborted', () => aborted.resolve());
  });
  const socket = open(bench);
  socket.end(`${head(bench, 'POST / HTTP/1.1', 'Content-Length: 50')}hello`);
  await aborted.promise;
  assert.equal(await rest(socket), '');
});

test('a crowd reaches the app by a few connections until it answers, and by those from then on', async () => {
  const waiting: (() => void)[] = [];
  const sockets = new Set<unknown>();
  let isOpen = false;
  // Its clock stands still: an answer that is late would let others in.
  await using bench = await createBench(
    () => (request, response) => {
      sockets.add(request.socket);
      if (isOpen) response.end('here');
      else waiting.push(() => response.end('here'));
    },
    undefined,
    { clock: new TestClock({ startAtMs: Date.now() }) },
  );
  const crowd = Promise.all(Array.from({ length: 60 }, () => bench.request({})));
  await until(() => waiting.length === 16 && bench.traffic.underWay === 60);
  for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate);
  assert.equal(waiting.length, 16);
  isOpen = true;
  for (const answer of waiting) answer();
  for (const { status, body } of await crowd) assert.deepEqual([status, body], [200, 'here']);
  assert.ok(sockets.size < 60, `${sockets.size} connections for 60 requests`);
  assert.equal(bench.traffic.underWay, 0);
});

test('each event of a stream is with the client before the app makes the next', async () => {
  let next = Promise.withResolvers<void>();
  await using bench = await createBench(() => async (_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
    for (let i = 0; i < 5; i++) {
      await next.promise;
      next = Promise.withResolvers();
      response.write(`data: ${i}\n\n`);
    }
    response.end();
  });
  const sent = bench.start({});
  sent.end();
  const [response] = await once(sent, 'response');
  for (let i = 0; i < 5; i++) {
    next.resolve();
    const [event] = await once(response, 'data');
    assert.equal(String(event), `data: ${i}\n\n`);
  }
  response.resume();
});

test('a slow reader outside holds back an app that has 200 MB to say', async () => {
  const total = 200 * 1024 * 1024;
  const chunk = Buffer.alloc(1024 * 1024, 7);
  let produced = 0;
  await using bench = await createBench(() => async (_request, response) => {
    response.setHeader('content-length', total);
    for (; produced < total; produced += chunk.length) if (!response.write(chunk)) await once(response, 'drain');
    response.end();
  });
  const socket = open(bench);
  socket.write(head(bench, 'GET / HTTP/1.1', 'Connection: close'));
  await once(socket, 'readable');
  // Nothing is read: the app stops by itself, long before its end.
  let before = -1;
  for (let still = 0; still < 200; still = produced === before ? still + 1 : 0) {
    before = produced;
    await new Promise(setImmediate);
  }
  assert.ok(produced < 32 * 1024 * 1024, `${produced} bytes were taken from the app`);
  let received = 0;
  for await (const part of socket) received += part.length;
  assert.ok(received > total && received < total + 1000, String(received));
});

test('a slow reader in the guest holds back a client that has 200 MB to say', async () => {
  const total = 200 * 1024 * 1024;
  const chunk = Buffer.alloc(1024 * 1024, 7);
  const gate = Promise.withResolvers<void>();
  let received = 0;
  await using bench = await createBench(() => async (request, response) => {
    await gate.promise;
    request.on('data', (part: Buffer) => {
      received += part.length;
    });
    request.on('end', () => response.end(String(received)));
  });
  const socket = open(bench);
  socket.write(head(bench, 'POST / HTTP/1.1', 'Connection: close', `Content-Length: ${total}`));
  let sent = 0;
  const send = async () => {
    for (; sent < total; sent += chunk.length) if (!socket.write(chunk)) await once(socket, 'drain');
  };
  const sending = send();
  let before = -1;
  for (let still = 0; still < 200; still = sent === before ? still + 1 : 0) {
    before = sent;
    await new Promise(setImmediate);
  }
  assert.ok(sent < 32 * 1024 * 1024, `${sent} bytes were taken from the client`);
  gate.resolve();
  await sending;
  assert.match(await rest(socket), new RegExp(`\\r\\n\\r\\n(?:[0-9a-f]+\\r\\n)?${total}`));
});

test('a connection that has sent bulk goes on with requests and an upgrade, every byte as it was sent', async () => {
  await using bench = await createBench(() => async (request, response) => {
    const hash = createHash('sha256');
    let count = 0;
    for await (const part of request) {
      hash.update(part);
      // In fits and starts, so that now and then the connection has to wait.
      if (++count % 20 === 0) await new Promise(setImmediate);
    }
    if (request.headers.upgrade === undefined) return void response.end(hash.digest('hex'));
    request.socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    request.socket.pipe(request.socket);
  });
  const socket = open(bench);
  let got = '';
  socket.on('data', (chunk: Buffer) => {
    got += chunk.toString('latin1');
  });
  const bulk = randomBytes(2 * 1024 * 1024);
  const want = createHash('sha256').update(bulk).digest('hex');
  const post = head(bench, 'POST / HTTP/1.1', `Content-Length: ${bulk.length}`);
  // All at once: requests wait behind the body before them, in the same record as its end.
  for (let i = 0; i < 2; i++)
    socket.write(Buffer.concat([Buffer.from(post), bulk, Buffer.from(head(bench, 'GET / HTTP/1.1').repeat(3))]));
  await until(() => got.split(want).length === 3 && got.split('HTTP/1.1 200').length === 9);
  const key = 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==';
  const upgrade = ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', key];
  socket.write(`${head(bench, 'GET / HTTP/1.1', ...upgrade)}first`);
  await until(() => got.endsWith('first'));
  const text = randomBytes(300_000).toString('hex');
  socket.write(text);
  await until(() => got.endsWith(`first${text}`));
  socket.destroy();
});

test('bytes behind an answer end the tunnel, and are never taken for the next answer', async () => {
  const forged = 'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged';
  let answers = 0;
  await using bench = await createBench(
    raw(() => `HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal${answers++ === 0 ? forged : ''}`),
  );
  for (let i = 0; i < 3; i++) assert.equal((await bench.request({})).body, 'real');
  assert.equal(bench.engine.calls.filter((call) => call.startsWith('connect')).length, 2);
});

test('an app that hints how long it keeps connections is taken at its word, and one that closes is not asked again', async () => {
  let hint = 'Keep-Alive: timeout=1';
  await using bench = await createBench(raw(() => `HTTP/1.1 200 OK\r\n${hint}\r\nContent-Length: 2\r\n\r\nok`));
  const connects = () => bench.engine.calls.filter((call) => call.startsWith('connect')).length;
  await bench.request({});
  await bench.request({});
  assert.equal(connects(), 2, 'no time is left');
  hint = 'Keep-Alive: timeout=60';
  await bench.request({});
  await bench.request({});
  assert.equal(connects(), 3);
  hint = 'Connection: close';
  await bench.request({});
  await bench.request({});
  assert.equal(connects(), 4);
});

test('what breaks off in the middle of chunks reaches the client as far as it came, and not as a whole', async () => {
  await using bench = await createBench(() => (request, response) => {
    response.write('as far as it came', () => request.socket.destroy());
  });
  const socket = open(bench);
  socket.write(head(bench, 'GET / HTTP/1.1'));
  const text = await rest(socket);
  assert.match(text, /as far as it came/);
  assert.doesNotMatch(text, /\r\n0\r\n/);
});

test('a hostile answer is a 502 when its framing can be read in two ways', async () => {
  let answer = '';
  await using bench = await createBench(raw(() => answer));
  const ok = 'HTTP/1.1 200 OK\r\n';
  const cases = [
    `${ok}Content-Length: 2\r\nContent-Length: 3\r\n\r\nok`,
    `${ok}Content-Length: 2\r\nContent-Length: 2\r\n\r\nok`,
    `${ok}Content-Length: 2, 2\r\n\r\nok`,
    `${ok}Content-Length: -1\r\n\r\nok`,
    `${ok}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`,
    `${ok}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    `${ok}X-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok`,
    `${ok}X-A : b\r\nContent-Length: 2\r\n\r\nok`,
    `${ok}X-A: b\nSet-Cookie: c\r\nContent-Length: 2\r\n\r\nok`,
    `${ok}X-A: b\rSet-Cookie: c\r\nContent-Length: 2\r\n\r\nok`,
    `${ok}X-A: b\0\r\nContent-Length: 2\r\n\r\nok`,
    'HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok',
    'HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok',
    'HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok',
    `${ok}${'X-A: b\r\n'.repeat(1001)}\r\n`,
  ];
  for (answer of cases) {
    const seen = await bench.request({});
    assert.deepEqual([seen.status, seen.body], [502, ''], answer.slice(0, 100));
  }
});
