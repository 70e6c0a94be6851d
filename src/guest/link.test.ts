import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import { DATA, encodeFrame, encodeHeader } from './frames.ts';
import { type GuestLink, openLink } from './index.ts';
import { encodeAnswer } from './session.ts';
import { serveTestAgent, type TestAgent, type TestAgentOptions } from './test-agent.ts';

const SECRET = 'a'.repeat(64);

interface Pair extends AsyncDisposable {
  agent: TestAgent;
  link: GuestLink;
  socketPath: string;
}

async function pair(options: Omit<TestAgentOptions, 'socketPath'> = {}): Promise<Pair> {
  await using stack = new AsyncDisposableStack();
  const folder = await mkdtemp(path.join(tmpdir(), 'rk-link-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const socketPath = path.join(folder, 'link.sock');
  const agent = stack.use(await serveTestAgent({ socketPath, ...options }));
  const link = stack.use(await openLink({ socketPath, secret: SECRET, timeoutMs: 5000 }));
  const owned = stack.move();
  return { agent, link, socketPath, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const echo = { tunnel: (_: unknown, stream: Duplex) => void stream.pipe(stream) };
const wait = { timeoutMs: 5000 };

async function textOf(stream: Duplex): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of stream as AsyncIterable<Buffer>) parts.push(part);
  return Buffer.concat(parts).toString();
}

test('a tunnel carries bytes both ways and closes in halves', async () => {
  await using p = await pair({ streams: echo });
  const stream = await p.link.tunnel(80, wait);
  stream.end('hello');
  assert.equal(await textOf(stream), 'hello');
});

test('four megabytes through sixteen tunnels at once arrive unchanged', async () => {
  await using p = await pair({ streams: echo });
  const payload = Buffer.alloc(4 * 1024 * 1024, 'abcdefg');
  await Promise.all(
    Array.from({ length: 16 }, async () => {
      const stream = await p.link.tunnel(80, wait);
      stream.end(payload);
      const parts: Buffer[] = [];
      for await (const part of stream as AsyncIterable<Buffer>) parts.push(part);
      assert.ok(Buffer.concat(parts).equals(payload));
    }),
  );
});

test('a reader that stops holds only its own stream back, within its credit', async () => {
  let sent = 0;
  await using p = await pair({
    streams: {
      tunnel: (request, stream) => {
        if (request.port === 1) return void stream.pipe(stream);
        const chunk = Buffer.alloc(1000);
        const pump = () => {
          for (sent += 1000; stream.write(chunk); sent += 1000);
        };
        stream.on('drain', pump);
        pump();
      },
    },
  });
  const slow = await p.link.tunnel(2, wait);
  const quick = await p.link.tunnel(1, wait);
  for (let i = 0; i < 50; i++) {
    quick.write('ping');
    await new Promise((resolve) => quick.once('data', resolve));
  }
  assert.ok(sent < 600_000, `${sent} bytes were taken`);
  slow.destroy();
  quick.destroy();
});

test('a refused tunnel says that nothing listens', async () => {
  await using p = await pair();
  await assert.rejects(p.link.tunnel(81, wait), { kind: 'failed' });
});

test('destroying a tunnel resets it in the guest', async () => {
  const closed = Promise.withResolvers<void>();
  await using p = await pair({ streams: { tunnel: (_, stream) => void stream.once('close', closed.resolve) } });
  (await p.link.tunnel(80, wait)).destroy();
  await closed.promise;
});

test('calls check the shape and the size of every answer', async () => {
  await using p = await pair({
    calls: {
      listening: () => ({ listening: 'yes' }),
      'root.mount': () => ({ usedBytes: -1 }),
      'container.status': () => 'x'.repeat(70_000),
      quiesce: () => {
        throw new Error('disk full of woe');
      },
    },
  });
  await assert.rejects(p.link.isListening(80, wait), { kind: 'protocol' });
  await assert.rejects(p.link.mountRoot(wait), { kind: 'protocol' });
  await assert.rejects(p.link.appStatus(wait), { kind: 'protocol' });
  await assert.rejects(p.link.quiesce({ dropCaches: true, ...wait }), { kind: 'failed', message: /woe/ });
});

test('a call that is never answered ends at its deadline', async () => {
  await using p = await pair({ calls: { listening: () => new Promise(() => {}) } });
  await assert.rejects(p.link.isListening(80, { timeoutMs: 20 }), { kind: 'timeout' });
});

test('exec streams its output and gives the exit code', async () => {
  const record = (kind: number, body: Buffer) => {
    const head = Buffer.alloc(5);
    head[0] = kind;
    head.writeUInt32BE(body.length, 1);
    return Buffer.concat([head, body]);
  };
  await using p = await pair({
    streams: {
      exec: (_, stream) => {
        stream.write(record(1, Buffer.from('one ')));
        stream.write(record(1, Buffer.from('two')));
        stream.end(record(2, Buffer.from([0, 0, 0, 10])));
        stream.resume();
      },
    },
  });
  let output = '';
  const onOutput = (chunk: Buffer) => {
    output += chunk;
  };
  const { exitCode } = await p.link.exec({ argv: ['x'], env: [], cwd: '/' }, { onOutput, ...wait });
  assert.deepEqual([output, exitCode], ['one two', 10]);
});

test('the log is read line by line and a line with a false shape ends it', async () => {
  await using p = await pair({
    streams: {
      logs: (request, stream) => {
        stream.resume();
        stream.end(`{"c":${request.cursor},"t":5,"s":2,"d":"boo"}\n${request.cursor === 9 ? '{"c":1}\n' : ''}`);
      },
    },
  });
  assert.deepEqual(await Array.fromAsync(p.link.logs({ cursor: 3 })), [
    { cursor: 3, at: 5, stream: 'stderr', text: 'boo' },
  ]);
  await assert.rejects(Array.fromAsync(p.link.logs({ cursor: 9 })), { kind: 'protocol' });
});

test('what an earlier session left in the port is skipped, forged answers included', async () => {
  const stale = Buffer.concat([
    Buffer.alloc(100_000, 7),
    encodeAnswer('f'.repeat(32), 1, null),
    Buffer.from('\0RKACKN1\0\0\x0f\xff{"nonce"', 'latin1'),
  ]);
  await using p = await pair({ stale, streams: echo });
  const stream = await p.link.tunnel(80, wait);
  stream.end('fresh');
  assert.equal(await textOf(stream), 'fresh');
});

test('a preamble nobody answers is sent again on a new connection', async () => {
  await using p = await pair({ deafFor: 1 });
  assert.equal(p.agent.sessions, 1);
});

test('a restore step is done and its secret used from then on', async () => {
  await using p = await pair();
  await p.link[Symbol.asyncDispose]();
  const nextSecret = 'b'.repeat(64);
  const restore = { wallClockMs: 1, seed: Buffer.alloc(32), nextSecret };
  await using link = await openLink({ socketPath: p.socketPath, secret: SECRET, restore, timeoutMs: 5000 });
  assert.equal(p.agent.secret, nextSecret);
  p.agent.hangUp();
  assert.ok((await link.ping(wait)) >= 0);
});

test('a restore that fails in the guest fails the opening', async () => {
  await using p = await pair({
    onRestore: () => {
      throw new Error('no ioctl');
    },
  });
  await p.link[Symbol.asyncDispose]();
  const restore = { wallClockMs: 1, seed: Buffer.alloc(32), nextSecret: SECRET };
  const opening = openLink({ socketPath: p.socketPath, secret: SECRET, restore, timeoutMs: 5000 });
  await assert.rejects(opening, { kind: 'failed', message: /no ioctl/ });
});

test('another generation is refused', async () => {
  await assert.rejects(pair({ generation: 2 }), { kind: 'unsupported' });
});

test('a session that is cut is replaced, and the wait for the app goes on in the next', async () => {
  const end = Promise.withResolvers<{ exitCode: number }>();
  await using p = await pair({ calls: { 'container.wait': () => end.promise }, streams: echo });
  const waiting = p.link.waitApp({});
  const stream = await p.link.tunnel(80, wait);
  p.agent.hangUp();
  await assert.rejects(textOf(stream), { kind: 'exited' });
  await p.link.ping(wait);
  end.resolve({ exitCode: 3 });
  assert.deepEqual(await waiting, { exitCode: 3 });
});

test('a guest that sends garbage again and again loses its link with a protocol error', async () => {
  await using p = await pair();
  let isClosed = false;
  void p.link.closed.then(() => {
    isClosed = true;
  });
  while (!isClosed) {
    p.agent.send(Buffer.from('garbage garbage garbage'));
    await p.link.ping(wait).catch(() => {});
  }
  assert.equal(((await p.link.closed) as { kind?: string }).kind, 'protocol');
});

test('more data than credit resets the stream', async () => {
  let agent: TestAgent | undefined;
  await using p = await pair({
    streams: {
      tunnel: () => {
        for (let i = 0; i < 5; i++) agent?.send(Buffer.concat([encodeHeader(DATA, 1, 65_536), Buffer.alloc(65_536)]));
        agent?.send(encodeFrame(DATA, 1, Buffer.alloc(1)));
      },
    },
  });
  agent = p.agent;
  const stream = await p.link.tunnel(80, wait);
  const failure = await new Promise((resolve) => stream.once('error', resolve));
  assert.equal((failure as { kind?: string }).kind, 'protocol');
  assert.ok((await p.link.ping(wait)) >= 0);
});

test('the link is closed for good when the socket is gone', async () => {
  await using p = await pair();
  await p.link[Symbol.asyncDispose]();
  assert.match((await p.link.closed).message, /closed/);
  await assert.rejects(p.link.ping(wait));
});

test('credentials cross the link sealed for the key the agent offered', async () => {
  const { publicKey } = generateKeyPairSync('x25519');
  const key = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32).toString('base64');
  const pushed: Record<string, unknown>[] = [];
  await using p = await pair({
    calls: {
      'credentials.offer': () => ({ key, erasesFreed: true }),
      'credentials.set': (request) => void pushed.push(request),
      'credentials.clear': (request) => void pushed.push(request),
    },
  });
  assert.deepEqual(await p.link.setCredentials(Buffer.from('the secret document'), wait), { erasesFreed: true });
  await p.link.clearCredentials(wait);
  assert.deepEqual(
    pushed.map(({ op }) => op),
    ['credentials.set', 'credentials.clear'],
  );
  assert.equal(Buffer.from(String(pushed[0]?.sealed), 'base64').length, 'the secret document'.length + 16);
});

test('an agent that offers no key gets no credentials', async () => {
  const offers: unknown[] = [{}, { key: 7 }, { key: 'AAAA' }, { key: Buffer.alloc(32).toString('base64') }];
  const pushed: unknown[] = [];
  await using p = await pair({
    calls: { 'credentials.offer': () => offers.shift(), 'credentials.set': (request) => void pushed.push(request) },
  });
  while (offers.length > 0) await assert.rejects(p.link.setCredentials(Buffer.from('secret'), wait));
  await using old = await pair({});
  await assert.rejects(old.link.setCredentials(Buffer.from('secret'), wait), /credentials\.offer/);
  assert.deepEqual(pushed, []);
});
