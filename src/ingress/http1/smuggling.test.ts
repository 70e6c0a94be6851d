import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import { type Bench, createBench } from '../test-bench.ts';

function open(bench: Bench): TLSSocket {
  return connect({ host: 'localhost', port: bench.port, ca: bench.ingress.caPem, ALPNProtocols: ['http/1.1'] });
}

/** Sends bytes as they are and gives all that comes back until the connection ends. */
async function say(bench: Bench, text: string): Promise<string> {
  const socket = open(bench);
  socket.write(text, 'latin1');
  let answer = '';
  for await (const chunk of socket) answer += chunk.toString('latin1');
  return answer;
}

function statuses(answer: string): string[] {
  return [...answer.matchAll(/^HTTP\/1\.1 (\d+)/gm)].map(([, status]) => status ?? '');
}

/** Bench, its head of a request with valid token, and the requests the app saw. */
async function witness() {
  const seen: string[] = [];
  const bench = await createBench(() => (request, response) => {
    let body = '';
    request.setEncoding('latin1').on('data', (part) => {
      body += part;
    });
    request.on('end', () => {
      seen.push(`${request.method} ${request.url} ${body}`);
      response.end(`saw ${request.url}\n`);
    });
  });
  const head = (line: string, ...more: string[]) =>
    `${[line, 'Host: vm', `X-Aws-Proxy-Auth: ${bench.token}`, ...more].join('\r\n')}\r\n\r\n`;
  return { bench, seen, head };
}

test('what two readers could read differently is refused, ends the connection, and reaches nobody', async () => {
  const { bench, seen, head } = await witness();
  await using _bench = bench;
  const hidden = head('GET /hidden HTTP/1.1');
  const post = 'POST / HTTP/1.1';
  const auth = `X-Aws-Proxy-Auth: ${bench.token}`;
  const cases: Record<string, string> = {
    'two lengths that differ': `${head(post, 'Content-Length: 0', 'Content-Length: 5')}${hidden}`,
    'two lengths that agree': `${head(post, 'Content-Length: 0', 'Content-Length: 0')}${hidden}`,
    'a list of lengths': `${head(post, 'Content-Length: 0, 0')}${hidden}`,
    'a signed length': `${head(post, 'Content-Length: +5')}hello${hidden}`,
    'a hexadecimal length': `${head(post, 'Content-Length: 0x5')}hello${hidden}`,
    'an empty length': `${head(post, 'Content-Length:')}${hidden}`,
    'a length beyond what can be counted': `${head(post, 'Content-Length: 99999999999999999999')}${hidden}`,
    'length and chunks': `${head(post, 'Content-Length: 5', 'Transfer-Encoding: chunked')}0\r\n\r\n${hidden}`,
    'chunks and length': `${head(post, 'Transfer-Encoding: chunked', 'Content-Length: 5')}0\r\n\r\n${hidden}`,
    'two transfer encodings': `${head(post, 'Transfer-Encoding: chunked', 'Transfer-Encoding: identity')}0\r\n\r\n${hidden}`,
    'a list of transfer encodings': `${head(post, 'Transfer-Encoding: gzip, chunked')}0\r\n\r\n${hidden}`,
    'an unknown transfer encoding': `${head(post, 'Transfer-Encoding: xchunked')}0\r\n\r\n${hidden}`,
    'a transfer encoding with a vertical tab': `${head(post, 'Transfer-Encoding:\x0bchunked')}0\r\n\r\n${hidden}`,
    'chunks in HTTP/1.0': `${head('POST / HTTP/1.0', 'Transfer-Encoding: chunked')}0\r\n\r\n${hidden}`,
    'a folded line': head('GET / HTTP/1.1', 'X-A: one', ' two'),
    'a folded line with a tab': head('GET / HTTP/1.1', 'X-A: one', '\ttwo'),
    'a first line that is folded': `GET / HTTP/1.1\r\n Host: vm\r\n${auth}\r\n\r\n`,
    'a bare LF in a head': `GET / HTTP/1.1\r\nHost: vm\nX-A: b\r\n${auth}\r\n\r\n`,
    'bare LFs only': `GET / HTTP/1.1\nHost: vm\n${auth}\n\n`,
    'a bare CR in a value': head('GET / HTTP/1.1', 'X-A: one\rX-B: two'),
    'a bare CR in the request line': head('GET /\r HTTP/1.1'),
    'NUL in a value': head('GET / HTTP/1.1', 'X-A: one\0two'),
    'NUL in a name': head('GET / HTTP/1.1', 'X\0A: one'),
    'a control character in the target': head('GET /\x01 HTTP/1.1'),
    'a blank before the colon': head(post, 'Content-Length : 5'),
    'a tab before the colon': head(post, 'Transfer-Encoding\t: chunked'),
    'a name with a blank': head('GET / HTTP/1.1', 'X A: one'),
    'no name': head('GET / HTTP/1.1', ': one'),
    'a line without a colon': head('GET / HTTP/1.1', 'X-A'),
    'two hosts': head('GET / HTTP/1.1', 'Host: other'),
    'two hosts that agree': head('GET / HTTP/1.1', 'Host: vm'),
    'no host': `GET / HTTP/1.1\r\n${auth}\r\n\r\n`,
    'no host in HTTP/1.0': `GET / HTTP/1.0\r\n${auth}\r\n\r\n`,
    'a list of hosts': `GET / HTTP/1.1\r\nHost: vm, other\r\n${auth}\r\n\r\n`,
    'a host with a path': `GET / HTTP/1.1\r\nHost: vm/x\r\n${auth}\r\n\r\n`,
    'a target that names another host': head('GET http://other/ HTTP/1.1'),
    'a target with user information': head('GET http://user@vm/ HTTP/1.1'),
    'a target without a slash': head('GET x HTTP/1.1'),
    CONNECT: head('CONNECT vm:443 HTTP/1.1'),
    'two blanks in the request line': head('GET  / HTTP/1.1'),
    'a blank behind the request line': head('GET / HTTP/1.1 '),
    'a tab in the request line': head('GET\t/ HTTP/1.1'),
    'a request line of HTTP/0.9': 'GET /\r\n\r\n',
    'HTTP/1.2': head('GET / HTTP/1.2'),
    'HTTP/2.0': head('GET / HTTP/2.0'),
    'a method that is none': head('G@T / HTTP/1.1'),
    'a chunk without a size': `${head(post, 'Transfer-Encoding: chunked')}\r\nhello\r\n0\r\n\r\n`,
    'a chunk size that is no number': `${head(post, 'Transfer-Encoding: chunked')}5x\r\nhello\r\n0\r\n\r\n`,
    'a chunk size with a sign': `${head(post, 'Transfer-Encoding: chunked')}+5\r\nhello\r\n0\r\n\r\n`,
    'a chunk size with 0x': `${head(post, 'Transfer-Encoding: chunked')}0x5\r\nhello\r\n0\r\n\r\n`,
    'a chunk size with a blank': `${head(post, 'Transfer-Encoding: chunked')}5 \r\nhello\r\n0\r\n\r\n`,
    'a chunk size that overflows': `${head(post, 'Transfer-Encoding: chunked')}10000000000000005\r\nhello\r\n0\r\n\r\n`,
    'a chunk size that ends with LF': `${head(post, 'Transfer-Encoding: chunked')}5\nhello\r\n0\r\n\r\n`,
    'a bare LF in a chunk extension': `${head(post, 'Transfer-Encoding: chunked')}5;a\nb\r\nhello\r\n0\r\n\r\n`,
    'a bare CR in a chunk extension': `${head(post, 'Transfer-Encoding: chunked')}5;a\rb\r\nhello\r\n0\r\n\r\n`,
    'a long chunk extension': `${head(post, 'Transfer-Encoding: chunked')}5;${'a'.repeat(5000)}\r\nhello\r\n0\r\n\r\n`,
    'a chunk longer than its size': `${head(post, 'Transfer-Encoding: chunked')}2\r\nhello\r\n0\r\n\r\n`,
    'a trailer with a blank before its colon': `${head(post, 'Transfer-Encoding: chunked')}0\r\nX-A : b\r\n\r\n`,
    'a folded trailer': `${head(post, 'Transfer-Encoding: chunked')}0\r\nX-A: b\r\n c\r\n\r\n`,
    'an upgrade with a body': `${head(post, 'Connection: Upgrade', 'Upgrade: websocket', 'Content-Length: 5')}hello`,
  };
  for (const [what, bytes] of Object.entries(cases)) {
    const answer = await say(bench, bytes);
    assert.deepEqual(statuses(answer), ['400'], `${what}: ${answer}`);
    assert.match(answer, /\r\nconnection: close\r\n/i, what);
  }
  assert.deepEqual(seen, []);
});

test('what is unusual and yet plain passes', async () => {
  const { bench, seen, head } = await witness();
  await using _bench = bench;
  const close = 'Connection: close';
  const chunked = 'Transfer-Encoding: chunked';
  const cases: [bytes: string, seen: string][] = [
    [`\r\n${head('GET /1 HTTP/1.1', close)}`, 'GET /1 '],
    [`${head('POST /2 HTTP/1.1', close, 'Transfer-Encoding: Chunked')}5;a=b\r\nhello\r\n0\r\n\r\n`, 'POST /2 hello'],
    [`${head('POST /3 HTTP/1.1', close, chunked)}00005\r\nhello\r\n0\r\nX-T: 1\r\n\r\n`, 'POST /3 hello'],
    [`${head('POST /4 HTTP/1.1', close, 'Content-Length: 005')}hello`, 'POST /4 hello'],
    [head('GET http://VM/5 HTTP/1.1', close), 'GET /5 '],
    [head('OPTIONS * HTTP/1.1', close), 'OPTIONS * '],
    [head('PROPFIND /7 HTTP/1.1', close), 'PROPFIND /7 '],
    [head('GET /8 HTTP/1.0'), 'GET /8 '],
    [head('GET /9 HTTP/1.1', close, 'X-A: \xe4'), 'GET /9 '],
  ];
  for (const [bytes, expected] of cases) {
    assert.deepEqual(statuses(await say(bench, bytes)), ['200'], expected);
    assert.equal(seen.pop(), expected);
  }
});

test('requests sent ahead are answered one at a time, in their order', async () => {
  const open: string[] = [];
  let most = 0;
  await using bench = await createBench(() => (request, response) => {
    open.push(request.url ?? '');
    most = Math.max(most, open.length);
    request.resume().on('end', () => {
      // The first ones take longest.
      setImmediate(() => setImmediate(() => response.end(`${open.pop()};`)));
    });
  });
  const head = (line: string, ...more: string[]) =>
    `${[line, 'Host: vm', `X-Aws-Proxy-Auth: ${bench.token}`, ...more].join('\r\n')}\r\n\r\n`;
  const requests = [
    head('GET /1 HTTP/1.1'),
    `${head('POST /2 HTTP/1.1', 'Content-Length: 5')}hello`,
    `${head('POST /3 HTTP/1.1', 'Transfer-Encoding: chunked')}5\r\nhello\r\n0\r\n\r\n`,
    head('GET /4 HTTP/1.1', 'Connection: close'),
    head('GET /never HTTP/1.1'),
  ].join('');
  const answer = await say(bench, requests);
  assert.deepEqual(
    [...answer.matchAll(/\/(\d|never);/g)].map(([, path]) => path),
    ['1', '2', '3', '4'],
  );
  assert.equal(most, 1);
});

test('a request in single bytes is a request, and a broken one behind a good one does not spoil its answer', async () => {
  const { bench, seen, head } = await witness();
  await using _bench = bench;
  const bytes = `${head('POST /slow HTTP/1.1', 'Transfer-Encoding: chunked')}5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n`;
  const socket = open(bench);
  for (const byte of bytes) {
    socket.write(byte);
    await new Promise(setImmediate);
  }
  socket.write('nonsense\r\n\r\n');
  let answer = '';
  for await (const chunk of socket) answer += String(chunk);
  assert.deepEqual(statuses(answer), ['200', '400']);
  assert.deepEqual(seen, ['POST /slow hello']);
});
