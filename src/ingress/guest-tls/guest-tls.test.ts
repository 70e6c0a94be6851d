import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer as createHttp1, type IncomingMessage, type ServerResponse } from 'node:http';
import { createSecureServer } from 'node:http2';
import { createServer as createHttps } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { after, before, test } from 'node:test';
import { createServer as createTls } from 'node:tls';
import { randomIds, systemClock } from '../../lib/index.ts';
import { openAuthority } from '../authority.ts';
import { Shielded } from '../http2/shielded.ts';
import { createHttp2Bench, type Http2Bench } from '../http2/test-bench.ts';

let dir: string;
let tls: { key: string; cert: string };

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rekindle-guest-tls-'));
  const { keyPem, certPem } = await openAuthority(dir, { clock: systemClock, ids: randomIds });
  tls = { key: keyPem, cert: certPem };
});

after(() => rm(dir, { recursive: true }));

async function echo(request: IncomingMessage, response: ServerResponse): Promise<void> {
  let body = '';
  for await (const chunk of request) body += String(chunk);
  if (request.url === '/400') response.statusCode = 400;
  response.end(`${request.httpVersion} ${body}`);
}

interface Server {
  emit(event: 'connection', connection: Duplex): boolean;
}

/** Lets a server take what connects to a port; counts connections. */
function listen(bench: Http2Bench, port: number, server: Server): { connections: number } {
  const counted = { connections: 0 };
  bench.listen(port, (connection) => {
    counted.connections += 1;
    server.emit('connection', new Shielded(connection));
  });
  return counted;
}

test('an app that speaks TLS is found out, and spoken to in the protocol it prefers', async () => {
  await using bench = await createHttp2Bench();
  listen(
    bench,
    9001,
    createHttps(tls, echo).on('tlsClientError', () => {}),
  );
  listen(
    bench,
    9002,
    createSecureServer({ ...tls, allowHTTP1: true }, echo as never).on('tlsClientError', () => {}),
  );
  for (const [port, version] of [
    ['9001', '1.1'],
    ['9002', '2.0'],
  ] as const) {
    for (const body of ['first', 'second']) {
      const told = await bench.ask({ ':method': 'POST', 'x-aws-proxy-port': port }, body);
      assert.deepEqual([told.status, told.body], [200, `${version} ${body}`]);
      const http1 = await bench.request({ method: 'POST', headers: { 'x-aws-proxy-port': port } }, body);
      assert.deepEqual([http1.status, http1.body], [200, `${version} ${body}`]);
    }
  }
});

test('an app that answers 400 to what is no TLS, as Go and nginx do, is found out too', async () => {
  await using bench = await createHttp2Bench();
  const secureApp = createHttps(tls, echo).on('tlsClientError', () => {});
  const plainApp = createHttp1((_request, response) => {
    response.writeHead(400, { connection: 'close' });
    response.end('Client sent an HTTP request to an HTTPS server.\n');
  });
  bench.listen(9001, (connection) => {
    connection.once('data', (first: Buffer) => {
      connection.pause();
      connection.unshift(first);
      (first[0] === 0x16 ? secureApp : plainApp).emit('connection', new Shielded(connection));
    });
  });
  const told = await bench.ask({ ':method': 'POST', 'x-aws-proxy-port': '9001' }, 'hello');
  assert.deepEqual([told.status, told.body], [200, '1.1 hello']);
});

test('an app in the clear is never tried with TLS once it answered, and a 400 of its own arrives as it is', async () => {
  await using bench = await createHttp2Bench();
  const seen = listen(bench, 9001, createHttp1(echo));
  const own = await bench.ask({ ':method': 'POST', ':path': '/400', 'x-aws-proxy-port': '9001' }, 'hello');
  assert.deepEqual([own.status, own.body], [400, '1.1 hello']);
  assert.equal(seen.connections, 2, 'one more was tried with TLS');
  const again = await bench.ask({ ':path': '/400', 'x-aws-proxy-port': '9001' });
  assert.equal(again.status, 400);
  assert.equal(seen.connections, 2, 'the first is used again, and none is tried with TLS');
});

test('force-h2 reaches an app that speaks HTTP/2 in TLS, and one that speaks HTTP/1.1 in TLS is 502', async () => {
  await using bench = await createHttp2Bench();
  listen(
    bench,
    9001,
    createHttps(tls, echo).on('tlsClientError', () => {}),
  );
  listen(
    bench,
    9002,
    createSecureServer(tls, echo as never).on('tlsClientError', () => {}),
  );
  const headers = { ':method': 'POST', 'x-aws-proxy-force-h2': 'true' };
  for (const attempt of ['first', 'second']) {
    const http2 = await bench.ask({ ...headers, 'x-aws-proxy-port': '9002' }, 'hello');
    assert.deepEqual([http2.status, http2.body], [200, '2.0 hello'], attempt);
    assert.equal((await bench.ask({ ...headers, 'x-aws-proxy-port': '9001' }, 'hello')).status, 502, attempt);
  }
});

test('a long first upload to an app that speaks TLS arrives whole, in whatever protocol it came', async () => {
  const long = Buffer.alloc(1024 * 1024, 'x');
  for (const protocol of ['http/1.1', 'h2']) {
    for (const length of [[], [String(long.length)]]) {
      await using bench = await createHttp2Bench();
      listen(
        bench,
        9001,
        createHttps(tls, echo).on('tlsClientError', () => {}),
      );
      const headers = {
        'x-aws-proxy-port': '9001',
        ...(length[0] === undefined ? {} : { 'content-length': length[0] }),
      };
      const told =
        protocol === 'h2'
          ? await bench.ask({ ':method': 'POST', ...headers }, long)
          : await bench.request({ method: 'POST', headers }, long);
      assert.deepEqual([told.status, told.body.length], [200, long.length + '1.1 '.length], `${protocol} ${length}`);
    }
  }
});

test('a long first upload to an app in the clear arrives once and whole, whatever it makes of an attempt with TLS', async () => {
  const long = Buffer.alloc(1024 * 1024, 'x');
  const deaf: Duplex[] = [];
  for (const takesHello of [true, false]) {
    await using bench = await createHttp2Bench();
    let uploads = 0;
    const app = createHttp1((request, response) => {
      uploads += 1;
      void echo(request, response);
    });
    app.on('clientError', (_error, socket) => socket.destroy());
    bench.listen(9001, (connection) => {
      connection.once('data', (first: Buffer) => {
        connection.pause();
        connection.unshift(first);
        if (first[0] === 0x16 && !takesHello) deaf.push(connection.resume());
        else app.emit('connection', new Shielded(connection));
      });
    });
    const told = await bench.ask({ ':method': 'POST', 'x-aws-proxy-port': '9001' }, long);
    assert.deepEqual([told.status, told.body.length, uploads], [200, long.length + '1.1 '.length, 1]);
  }
  assert.equal(deaf.length, 1);
});

test('an app in the clear that answers a long first upload early is heard at once', async () => {
  await using bench = await createHttp2Bench();
  const app = createHttp1((_request, response) => {
    response.writeHead(413);
    response.end('too long');
  });
  bench.listen(9001, (connection) => {
    connection.once('data', (first: Buffer) => {
      connection.pause();
      connection.unshift(first);
      // What is not HTTP is never answered.
      if (first[0] !== 0x16) app.emit('connection', new Shielded(connection));
    });
  });
  const told = await bench.ask({ ':method': 'POST', 'x-aws-proxy-port': '9001' }, Buffer.alloc(1024 * 1024, 'x'));
  assert.deepEqual([told.status, told.body], [413, 'too long']);
});

test('apps that do all kinds of things wrong in TLS are 502 and harm nobody', async () => {
  await using bench = await createHttp2Bench();
  const wrong: ((connection: Duplex) => void)[] = [
    (connection) => connection.destroy(),
    (connection) => connection.once('data', () => connection.end(Buffer.from([0x15, 3, 3, 0, 2, 2, 70]))),
    (connection) => connection.once('data', () => connection.end(Buffer.from([0x16, 3, 3, 0, 4, 2, 0, 0, 0]))),
    (connection) => connection.once('data', () => connection.end(Buffer.alloc(100_000, 0x16))),
  ];
  const server = createTls(tls, (socket) => {
    socket.on('error', () => {}).write('no HTTP at all\r\n\r\n');
    socket.end();
  }).on('tlsClientError', () => {});
  wrong.push((connection) => server.emit('connection', new Shielded(connection)));
  for (const [i, listener] of wrong.entries()) {
    bench.listen(9100 + i, listener);
    for (let n = 0; n < 2; n++) {
      const told = await bench.ask({ 'x-aws-proxy-port': String(9100 + i) });
      assert.equal(told.status, 502, `${i}`);
    }
  }
});
