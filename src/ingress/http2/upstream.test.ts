import assert from 'node:assert/strict';
import { createServer as createHttp1 } from 'node:http';
import { constants, createServer, type ServerHttp2Stream } from 'node:http2';
import { type Duplex, duplexPair } from 'node:stream';
import { test } from 'node:test';
import { MachineError, systemClock, TestClock } from '../../lib/index.ts';
import type { AnswerHead, AnswerSink, RequestHead } from '../exchange.ts';
import type { RawHeaders } from '../headers.ts';
import { StreamReset } from './reset.ts';
import { SessionPool } from './sessions.ts';
import { Shielded } from './shielded.ts';
import { Http2Upstream } from './upstream.ts';

const LIMITS = { headerBytes: 16_384, headerCount: 100 };
const NEVER = new AbortController();

/** An app behind an upstream; `connects` counts how often it was connected to. */
function appOf(onStream: (stream: ServerHttp2Stream, headers: RawHeaders) => void, settings = {}) {
  const server = createServer({ settings });
  server.on('session', (session) => session.on('error', () => {}));
  server.on('stream', (stream: ServerHttp2Stream, _headers: unknown, _flags: number, raw: RawHeaders) => {
    stream.on('error', () => {});
    onStream(stream, raw);
  });
  const made = { connects: 0, tunnels: [] as Duplex[], apps: [] as Duplex[] };
  const pool = new SessionPool({
    ...LIMITS,
    clock: systemClock,
    connect: async () => {
      made.connects += 1;
      const [near, far] = duplexPair();
      made.tunnels.push(near);
      made.apps.push(far);
      server.emit('connection', new Shielded(far));
      return near;
    },
  });
  return { upstream: new Http2Upstream(pool, 'http'), made, [Symbol.dispose]: () => pool[Symbol.dispose]() };
}

function headOf(head: Partial<RequestHead> = {}): RequestHead {
  return {
    protocol: 'h2',
    method: 'GET',
    path: '/',
    headers: ['host', 'vm.example'],
    hasBody: false,
    bodyLength: 0,
    expectsContinue: false,
    ...head,
  };
}

class Recorder implements AnswerSink {
  interims: [number, RawHeaders][] = [];
  answered: AnswerHead | undefined;
  body = '';
  trailers: RawHeaders | undefined;
  failure: { error: Error; isRepeatable: boolean } | undefined;
  takes = true;
  readonly #done = Promise.withResolvers<void>();
  readonly done = this.#done.promise;
  onHead: () => void = () => {};
  onData: () => void = () => {};

  interim(status: number, headers: RawHeaders): void {
    this.interims.push([status, headers]);
  }
  head(head: AnswerHead): void {
    this.answered = head;
    this.onHead();
  }
  data(chunk: Buffer): boolean {
    this.body += chunk;
    this.onData();
    return this.takes;
  }
  end(trailers: RawHeaders): void {
    this.trailers = trailers;
    this.#done.resolve();
  }
  failed(error: Error, isRepeatable: boolean): void {
    this.failure = { error, isRepeatable };
    this.#done.resolve();
  }
}

test('a request reaches an h2c app as a stream, with body, trailers and te, and its answer comes back with trailers', async () => {
  let seen: RawHeaders = [];
  let seenTrailers: RawHeaders = [];
  using app = appOf((stream, headers) => {
    seen = headers;
    let body = '';
    stream.on('data', (chunk) => {
      body += chunk;
    });
    stream.on('trailers', (_headers, _flags, raw) => {
      seenTrailers = raw;
    });
    stream.on('end', () => {
      stream.additionalHeaders({ ':status': 103, link: '</a>' });
      stream.respond({ ':status': 201, 'content-type': 'application/grpc' }, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
      stream.end(`echo ${body}`);
    });
  });
  const answer = new Recorder();
  const head = headOf({
    method: 'POST',
    path: '/pkg.Service/Call?x=1',
    headers: ['Host', 'vm.example', 'TE', 'trailers, deflate'],
    hasBody: true,
    bodyLength: undefined,
  });
  const outgoing = await app.upstream.send(head, ['Host', 'vm.example', 'X-Own', 'A'], answer, NEVER);
  outgoing.body.data(Buffer.from('one '));
  outgoing.body.data(Buffer.from('two'));
  outgoing.body.end(['X-Sum', '42']);
  await answer.done;
  assert.deepEqual(seen, [
    ...[':method', 'POST', ':scheme', 'http', ':authority', 'vm.example', ':path', '/pkg.Service/Call?x=1'],
    ...['x-own', 'A', 'te', 'trailers'],
  ]);
  assert.deepEqual(seenTrailers, ['x-sum', '42']);
  assert.equal(answer.failure, undefined);
  assert.deepEqual(answer.interims, [[103, ['link', '</a>']]]);
  assert.deepEqual([answer.answered?.status, answer.answered?.bodyLength], [201, undefined]);
  assert.equal(answer.body, 'echo one two');
  assert.deepEqual(answer.trailers, ['grpc-status', '0']);
});

test('requests share a session up to the streams its app allows, and then open another', async () => {
  const streams: ServerHttp2Stream[] = [];
  using app = appOf((stream) => streams.push(stream), { maxConcurrentStreams: 2 });
  const answers = [new Recorder(), new Recorder(), new Recorder()];
  const arrived = () => streams.length === 3;
  for (const answer of answers) await app.upstream.send(headOf(), ['host', 'vm'], answer, NEVER);
  while (!arrived()) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(app.made.connects, 2);
  for (const stream of streams) stream.respond({ ':status': 204 }, { endStream: true });
  await Promise.all(answers.map((answer) => answer.done));
  await app.upstream.send(headOf(), ['host', 'vm'], new Recorder(), NEVER);
  assert.equal(app.made.connects, 2, 'a session with room is used again');
});

test('an app that speaks HTTP/1.1 only, or hangs up, or closes the port, is no way at all', async () => {
  const http1 = createHttp1((_request, response) => response.end());
  const ends: (() => Promise<Duplex>)[] = [
    async () => {
      const [near, far] = duplexPair();
      http1.emit('connection', far);
      return near;
    },
    async () => {
      const [near, far] = duplexPair();
      far.once('data', () => far.destroy());
      return near;
    },
    async () => {
      throw new MachineError('failed', 'connection refused');
    },
  ];
  for (const connect of ends) {
    using pool = new SessionPool({ ...LIMITS, clock: systemClock, connect });
    const answer = new Recorder();
    await assert.rejects(new Http2Upstream(pool, 'http').send(headOf(), ['host', 'vm'], answer, NEVER));
    assert.equal(answer.failure, undefined);
  }
});

test('an app that never says whether it speaks HTTP/2 is given up after a while', async () => {
  const clock = new TestClock();
  const asked = Promise.withResolvers<void>();
  using pool = new SessionPool({
    ...LIMITS,
    clock,
    connect: async () => {
      const [near, far] = duplexPair();
      far.once('data', () => asked.resolve());
      return near;
    },
  });
  const sent = new Http2Upstream(pool, 'http').send(headOf(), ['host', 'vm'], new Recorder(), NEVER);
  const refused = assert.rejects(sent, /did not agree to HTTP\/2/);
  await asked.promise;
  await clock.advance(120_000);
  await refused;
});

test('a stream that the app resets fails with its code, and only a refused one may be repeated', async () => {
  const cases: [code: number, repeatable: boolean][] = [
    [constants.NGHTTP2_REFUSED_STREAM, true],
    [constants.NGHTTP2_CANCEL, false],
    [constants.NGHTTP2_INTERNAL_ERROR, false],
    [constants.NGHTTP2_NO_ERROR, false],
  ];
  for (const [code, repeatable] of cases) {
    using app = appOf((stream) => stream.close(code));
    const answer = new Recorder();
    await app.upstream.send(headOf(), ['host', 'vm'], answer, NEVER);
    await answer.done;
    assert.ok(answer.failure?.error instanceof StreamReset);
    assert.deepEqual([answer.failure.error.code, answer.failure.isRepeatable], [code, repeatable]);
  }
});

test('an answer that breaks off without an error code does not pass for a whole one', async () => {
  using app = appOf((stream) => {
    stream.respond({ ':status': 200 });
    stream.write('half');
  });
  const answer = new Recorder();
  // Node's own server can't end a stream so; the frame goes past it: RST_STREAM of stream 1 with NO_ERROR.
  answer.onData = () => {
    answer.onData = () => {};
    app.made.tunnels[0]?.push(Buffer.from([0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 0]));
  };
  await app.upstream.send(headOf(), ['host', 'vm'], answer, NEVER);
  await answer.done;
  assert.equal(answer.body, 'half');
  assert.equal(answer.trailers, undefined);
  assert.ok(answer.failure);
});

test('a cancelled request is reset, and nothing more is heard of it', async () => {
  const reset = Promise.withResolvers<number>();
  using app = appOf((stream) => {
    stream.respond({ ':status': 200 });
    stream.write('some');
    stream.once('close', () => reset.resolve(stream.rstCode ?? -1));
  });
  const answer = new Recorder();
  const began = Promise.withResolvers<void>();
  answer.onData = () => began.resolve();
  const outgoing = await app.upstream.send(headOf(), ['host', 'vm'], answer, NEVER);
  await began.promise;
  outgoing.cancel();
  assert.equal(await reset.promise, constants.NGHTTP2_CANCEL);
  assert.equal(answer.failure, undefined);
});

test('a taker that has had enough holds its own stream, not the others of the session', async () => {
  const size = 4 * 1024 * 1024;
  using app = appOf((stream) => {
    stream.respond({ ':status': 200 });
    stream.end(Buffer.alloc(size, 'x'));
  });
  const slow = new Recorder();
  slow.takes = false;
  const outgoing = await app.upstream.send(headOf(), ['host', 'vm'], slow, NEVER);
  const fast = new Recorder();
  await app.upstream.send(headOf(), ['host', 'vm'], fast, NEVER);
  await fast.done;
  assert.equal(fast.body.length, size);
  assert.ok(slow.body.length <= 1024 * 1024, `${slow.body.length} bytes were taken from an app nobody reads`);
  slow.takes = true;
  outgoing.resumeAnswer();
  await slow.done;
  assert.equal(slow.body.length, size);
});

test('a hostile app can not make a session hold endless headers', async () => {
  using app = appOf((stream) => {
    stream.respond({ ':status': 200, 'x-large': 'y'.repeat(30_000) }, { endStream: true });
  });
  const answer = new Recorder();
  await app.upstream.send(headOf(), ['host', 'vm'], answer, NEVER);
  await answer.done;
  assert.equal(answer.answered?.status, undefined);
  assert.ok(answer.failure);
});

test('an answer that was sent in full is read to its end though the app hung up after it, and no other', async () => {
  const size = 200_000;
  for (const isWhole of [true, false]) {
    using app = appOf((stream) => {
      const hangUp = () => app.made.apps[0]?.destroy();
      stream.respond({ ':status': 200 });
      stream.write(Buffer.alloc(size, 'x'), () => setImmediate(hangUp));
      if (isWhole) stream.end();
    });
    const answer = new Recorder();
    answer.takes = false;
    const outgoing = await app.upstream.send(headOf(), ['host', 'vm'], answer, NEVER);
    await new Promise((resolve) => app.made.tunnels[0]?.once('end', resolve));
    outgoing.resumeAnswer();
    answer.takes = true;
    await answer.done;
    assert.deepEqual([answer.trailers !== undefined, answer.failure === undefined], [isWhole, isWhole]);
    if (isWhole) assert.equal(answer.body.length, size);
  }
});

test('what can not be carried to the client ends the stream on both sides', async () => {
  const reset = Promise.withResolvers<number>();
  using app = appOf((stream) => {
    stream.once('close', () => reset.resolve(stream.rstCode ?? -1));
    stream.respond({ ':status': 200 });
    stream.write('some');
  });
  const answer = new Recorder();
  answer.onHead = () => {
    throw new Error('not carried');
  };
  await app.upstream.send(headOf(), ['host', 'vm'], answer, NEVER);
  await answer.done;
  assert.match(String(answer.failure?.error), /not carried/);
  assert.equal(await reset.promise, constants.NGHTTP2_CANCEL);
});
