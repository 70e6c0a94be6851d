/**
 * An agent that means harm. What it can make the server hold is counted, not timed; what it breaks is its own link.
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { test } from 'node:test';
import { readLog } from './answers.ts';
import {
  ACCEPT,
  DATA,
  END,
  encodeCredit,
  encodeFrame,
  encodeHeader,
  INITIAL_CREDIT_BYTES,
  MAX_PAYLOAD_BYTES,
  PONG,
  RESET,
} from './frames.ts';
import { type GuestLink, openLink } from './index.ts';
import { MAX_HELD_BYTES, Mux } from './mux.ts';
import type { MuxStream } from './mux-stream.ts';
import { AnswerFinder, encodeAnswer } from './session.ts';
import { serveTestAgent, type TestAgent, type TestAgentOptions } from './test-agent.ts';

const SECRET = 'a'.repeat(64);
const wait = { timeoutMs: 5000 };

interface Host {
  readonly mux: Mux;
  /** A stream the agent took; nobody reads it. */
  open(): MuxStream;
}

function host(): Host {
  const mux = new Mux(new PassThrough().resume(), { side: 'host' });
  return {
    mux,
    open: () => {
      const stream = mux.open({ op: 'tunnel', port: 80 });
      mux.receive(encodeFrame(ACCEPT, stream.id));
      return stream;
    },
  };
}

async function ending(mux: Mux): Promise<string> {
  assert.equal(mux.isOver, true, 'the session is over');
  return (await mux.ended).message;
}

interface Pair extends AsyncDisposable {
  readonly agent: TestAgent;
  readonly link: GuestLink;
}

async function pair(options: Omit<TestAgentOptions, 'socketPath'> = {}): Promise<Pair> {
  await using stack = new AsyncDisposableStack();
  const folder = await mkdtemp(path.join(tmpdir(), 'rk-hostile-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const socketPath = path.join(folder, 'link.sock');
  const agent = stack.use(await serveTestAgent({ socketPath, ...options }));
  const link = stack.use(await openLink({ socketPath, secret: SECRET, timeoutMs: 5000 }));
  const owned = stack.move();
  return { agent, link, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

test('frames for closed streams end the session when they do not stop', async () => {
  for (const frame of [
    (id: number) => encodeFrame(RESET, id, Buffer.from('closed: again')),
    (id: number) => encodeFrame(END, id),
    (id: number) => encodeFrame(ACCEPT, id),
    (id: number) => encodeCredit(id, 1),
    (id: number) => encodeFrame(DATA, id, Buffer.alloc(1000)),
  ]) {
    const { mux, open } = host();
    const stream = open();
    stream.destroy();
    let sent = 0;
    while (!mux.isOver && sent < 1_000_000) {
      mux.receive(frame(stream.id));
      sent += 1;
    }
    assert.match(await ending(mux), /closed streams without end/);
    assert.ok(sent > 500, 'what was under way is let pass');
  }
});

test('all data a stream had credit for may still come after it was closed', () => {
  const { mux, open } = host();
  const stream = open();
  stream.destroy();
  for (let i = 0; i < 10_000; i++) mux.receive(encodeFrame(DATA, stream.id, Buffer.alloc(26)));
  assert.equal(mux.isOver, false);
});

test('a frame for a stream that was never opened ends the session', async () => {
  const { mux } = host();
  mux.receive(encodeFrame(RESET, 7, Buffer.alloc(0)));
  assert.match(await ending(mux), /never opened/);
});

test('empty data, credit for nothing and credit beyond what was sent end the session', async () => {
  const cases: [name: string, frame: (id: number) => Buffer][] = [
    ['empty data', (id) => encodeFrame(DATA, id)],
    ['no credit', (id) => encodeCredit(id, 0)],
    ['a byte of credit for nothing', (id) => encodeCredit(id, 1)],
    ['all the credit there is', (id) => encodeCredit(id, 0xffff_ffff)],
  ];
  for (const [name, frame] of cases) {
    const { mux, open } = host();
    mux.receive(frame(open().id));
    assert.match(await ending(mux), /agent link/, name);
  }
});

test('an answer to no ping ends the session', async () => {
  const { mux } = host();
  mux.receive(encodeFrame(PONG, 0, Buffer.alloc(8)));
  assert.match(await ending(mux), /no ping/);
});

test('what all streams hold for readers that do not read is bounded', () => {
  const { mux, open } = host();
  const streams = Array.from({ length: 400 }, open);
  const payload = Buffer.alloc(MAX_PAYLOAD_BYTES);
  for (const { id } of streams) {
    for (let sent = 0; sent < INITIAL_CREDIT_BYTES; sent += payload.length) {
      mux.receive(encodeHeader(DATA, id, payload.length));
      mux.receive(payload);
      assert.ok(mux.heldBytes <= MAX_HELD_BYTES + payload.length);
    }
  }
  assert.equal(mux.isOver, false);
  const left = streams.filter((stream) => !stream.destroyed);
  assert.ok(left.length >= MAX_HELD_BYTES / INITIAL_CREDIT_BYTES, `${left.length} streams are left`);
  assert.ok(left.length < streams.length);
  for (const stream of left) stream.destroy();
  assert.equal(mux.heldBytes, 0);
});

test('a frame cut anywhere holds its header and a kilobyte at most, and the session lives', () => {
  const { mux, open } = host();
  const stream = open();
  const reset = encodeFrame(RESET, stream.id, Buffer.alloc(1024, 'x'));
  for (let at = 0; at < reset.length - 1; at++) mux.receive(reset.subarray(at, at + 1));
  assert.equal(mux.isOver, false);
  assert.equal(mux.heldBytes, 0);
  assert.equal(stream.destroyed, false);
  mux.receive(reset.subarray(-1));
  assert.equal(stream.destroyed, true);
});

test('the reason a guest gives is cut and on one line', async () => {
  const { mux, open } = host();
  const stream = open();
  const failed = new Promise<Error>((resolve) => stream.once('error', resolve));
  mux.receive(encodeFrame(RESET, stream.id, Buffer.from(`failed: \u001b[2J\n${'x'.repeat(900)}`)));
  const { message } = await failed;
  assert.ok(message.length <= 500);
  assert.doesNotMatch(message, /\p{Cc}/u);
});

test('how many frames came is told, so that a flood can be read at a rate', () => {
  const { mux, open } = host();
  const stream = open();
  const flood = Buffer.concat(Array.from({ length: 5000 }, () => encodeFrame(DATA, stream.id, Buffer.alloc(1))));
  assert.equal(mux.receive(flood), 5000);
});

test('false answers to the preamble are not looked at for ever', () => {
  const finder = new AnswerFinder('0'.repeat(32));
  const forged = Buffer.concat(Array.from({ length: 100 }, () => encodeAnswer('f'.repeat(32), 1, null)));
  assert.throws(() => finder.push(forged), { kind: 'protocol', message: /not asked/ });
  const skipping = new AnswerFinder('0'.repeat(32));
  assert.throws(() => {
    for (;;) skipping.push(Buffer.alloc(65_536));
  }, /without answering/);
});

test('an answer without end is cut at 64 KiB and its stream reset', async () => {
  let sent = 0;
  const closed = Promise.withResolvers<void>();
  await using p = await pair({
    streams: {
      listening: (_, stream) => {
        stream.once('close', closed.resolve);
        const pump = () => {
          for (sent += 4096; stream.write(Buffer.alloc(4096, ' ')); sent += 4096);
        };
        stream.on('drain', pump);
        pump();
      },
    },
  });
  await assert.rejects(p.link.isListening(80, wait), { kind: 'protocol', message: /64 KiB/ });
  await closed.promise;
  assert.ok(sent <= 2 * INITIAL_CREDIT_BYTES + 65_536, `${sent} bytes were taken`);
  assert.ok((await p.link.ping(wait)) >= 0);
});

test('a log line without end ends its stream, however small its pieces', async () => {
  const pieces = Readable.from(
    (function* () {
      for (;;) yield Buffer.from('x');
    })(),
  );
  await assert.rejects(Array.fromAsync(readLog(pieces)), { kind: 'protocol', message: /too long/ });
});

test('a log in single bytes is read as it is, and its reader says when to rest', async () => {
  const line = `{"c":1,"t":5,"s":1,"d":"${'y'.repeat(16_000)}"}\n`;
  let taken = 0;
  const rest = (bytes: number) => {
    taken += bytes;
    return undefined;
  };
  const lines = await Array.fromAsync(
    readLog(Readable.from([...Buffer.from(line + line)].map((b) => Buffer.of(b))), rest),
  );
  assert.equal(lines.length, 2);
  assert.equal(taken, 2 * line.length);
});

test('a guest that goes silent in the middle of a frame keeps a call only until its deadline', async () => {
  await using p = await pair({ calls: { listening: () => new Promise(() => {}) } });
  const call = p.link.isListening(80, { timeoutMs: 20 });
  p.agent.send(encodeHeader(DATA, 1, 100).subarray(0, 7));
  await assert.rejects(call, { kind: 'timeout' });
  // What comes next makes no sense behind half a frame, and a new session is begun.
  assert.ok((await p.link.ping(wait)) >= 0);
});

test('a guest that nobody asked anything for long is not taken for silent at the next question', async () => {
  const answer = async () => {
    await new Promise((resolve) => setTimeout(resolve, 1500));
    return { listening: true };
  };
  await using p = await pair({ calls: { listening: answer }, streams: { tunnel: () => {} } });
  const idle = await p.link.tunnel(80, wait);
  await new Promise((resolve) => setTimeout(resolve, 10_500));
  assert.equal(await p.link.isListening(80, wait), true);
  assert.equal(p.agent.sessions, 1);
  assert.equal(idle.destroyed, false);
});

test('a flood of tiny frames is survived, and the link answers afterwards', async () => {
  const end = Promise.withResolvers<void>();
  await using p = await pair({
    streams: {
      tunnel: (_, stream) => {
        const pump = (left: number) => {
          if (left === 0) return end.resolve();
          stream.write('x', () => pump(left - 1));
        };
        pump(60_000);
      },
    },
  });
  const stream = await p.link.tunnel(80, wait);
  let seen = 0;
  stream.on('data', (chunk: Buffer) => {
    seen += chunk.length;
  });
  await end.promise;
  assert.ok((await p.link.ping(wait)) >= 0);
  assert.equal(seen, 60_000);
});
