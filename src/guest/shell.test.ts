import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type Duplex, duplexPair } from 'node:stream';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { type GuestLink, GuestShell, openLink } from './index.ts';
import { serveTestAgent, type TestAgent, type TestAgentOptions } from './test-agent.ts';

async function pair(
  streams: TestAgentOptions['streams'],
): Promise<AsyncDisposable & { link: GuestLink; agent: TestAgent }> {
  await using stack = new AsyncDisposableStack();
  const folder = await mkdtemp(path.join(tmpdir(), 'rk-shell-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const socketPath = path.join(folder, 'link.sock');
  const agent = stack.use(await serveTestAgent({ socketPath, ...(streams === undefined ? {} : { streams }) }));
  const link = stack.use(await openLink({ socketPath, secret: 'a'.repeat(64), timeoutMs: 5000 }));
  const owned = stack.move();
  return { link, agent, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const wait = { timeoutMs: 5000 };
const size = { cols: 80, rows: 24 };

function record(kind: number, body: Buffer | string): Buffer {
  const bytes = Buffer.from(body);
  const head = Buffer.alloc(5);
  head[0] = kind;
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

const exit = (code: number) => record(2, Buffer.from([0, 0, 0, code]));

/** A shell whose agent's end the test holds. */
function held(): { shell: GuestShell; agent: Duplex } {
  const [near, agent] = duplexPair();
  return { shell: new GuestShell(near), agent };
}

test('a shell carries what is typed and shown, and ends with its exit code', async () => {
  const asked: unknown[] = [];
  await using p = await pair({
    shell: (request, stream) => {
      asked.push(request);
      stream.once('data', (typed: Buffer) => {
        stream.write(record(1, `shown ${typed.subarray(5)}`));
        stream.end(exit(3));
      });
    },
  });
  const shell = await p.link.shell(size, wait);
  shell.write('ls\r');
  assert.equal(await text(shell), 'shown ls\r');
  assert.equal(await shell.exited, 3);
  assert.deepEqual(asked, [{ op: 'shell', cols: 80, rows: 24 }]);
});

test('records may be cut anywhere', async () => {
  const { shell, agent } = held();
  const bytes = Buffer.concat([record(1, 'one'), record(1, ''), record(1, 'two'), exit(0)]);
  for (const byte of bytes) agent.write(Buffer.from([byte]));
  agent.end();
  assert.equal(await text(shell), 'onetwo');
  assert.equal(await shell.exited, 0);
});

test('of many sizes that had to wait only the last is sent, behind what was typed', async () => {
  const { shell, agent } = held();
  const typed = Buffer.alloc(200_000, 'x');
  shell.write(typed);
  for (let cols = 1; cols <= 1000; cols++) shell.resize({ cols, rows: 50 });
  shell.end();
  const received: Buffer[] = [];
  for await (const chunk of agent as AsyncIterable<Buffer>) received.push(chunk);
  const all = Buffer.concat(received);
  const sizes = all.subarray(typed.length + 5 * Math.ceil(typed.length / 65_536));
  assert.deepEqual(sizes, record(3, Buffer.from([0x03, 0xe8, 0, 50])));
});

test('an agent that sends what is no record, or ends without a code, breaks the shell', async () => {
  const broken: [string, Buffer][] = [
    ['an unknown kind', record(7, 'x')],
    ['a record over 64 KiB', Buffer.from([1, 0, 1, 0, 1])],
    ['an exit code of two bytes', record(2, 'ab')],
    ['bytes behind the exit code', Buffer.concat([exit(0), record(1, 'x')])],
    ['half a record', Buffer.from([1, 0, 0, 0, 9, 65])],
    ['no exit code', record(1, 'x')],
  ];
  for (const [what, bytes] of broken) {
    const { shell, agent } = held();
    agent.end(bytes);
    await assert.rejects(text(shell), { name: 'MachineError', kind: 'protocol' }, what);
  }
});

test('a shell that nobody reads makes the guest wait', async () => {
  const { shell, agent } = held();
  let sent = 0;
  while (agent.write(record(1, Buffer.alloc(16_384)))) sent += 16_384;
  assert.ok(sent < 1_000_000, `${sent} bytes were taken`);
  shell.destroy();
});

test('an agent that knows no shells is told, and goes on', async () => {
  await using old = await pair({});
  await assert.rejects(old.link.shell(size, wait), {
    kind: 'unsupported',
    message: 'the image was built before shells were possible: rebuild it',
  });
  assert.equal(await old.link.ping(wait).then(() => 'alive'), 'alive');
});

test('a shell whose session ends is destroyed', async () => {
  await using p = await pair({ shell: (_, stream) => void stream.write(record(1, 'hello')) });
  const shell = await p.link.shell(size, wait);
  await new Promise((resolve) => shell.once('data', resolve));
  const closed = new Promise((resolve) => shell.once('close', resolve));
  p.agent.hangUp();
  await closed;
  assert.ok(shell.destroyed);
});
