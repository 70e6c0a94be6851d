import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import type { Egress } from '../egress.ts';
import { ControlChannel } from './control.ts';

const egress: Egress = {
  policy: { rules: [], dns: 'off' },
  labels: { principal: 'p', imageArn: 'i', imageVersion: '1.0' },
};

type Answer = (request: Record<string, unknown>, socket: Socket) => void;

/** The other end of a control channel, answering as told. */
async function channelTo(answer: Answer) {
  const stack = new AsyncDisposableStack();
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-control-'));
  stack.defer(() => rm(dir, { recursive: true }));
  const server = createServer((socket) => {
    let text = '';
    socket.on('error', () => {});
    socket.setEncoding('utf8').on('data', (chunk) => {
      text += chunk;
      const lines = text.split('\n');
      text = lines.pop() ?? '';
      for (const line of lines) answer(JSON.parse(line), socket);
    });
  });
  stack.defer(() => void server.close());
  const socketPath = path.join(dir, 's');
  server.listen(socketPath);
  await once(server, 'listening');
  const channel = stack.use(await ControlChannel.open(socketPath));
  return { channel, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

const say = (socket: Socket, message: unknown) => void socket.write(`${JSON.stringify(message)}\n`);

describe('the control channel of the gateway', () => {
  test('answers find their questions in any order and in pieces', async () => {
    const asked: Record<string, unknown>[] = [];
    await using end = await channelTo((request, socket) => {
      asked.push(request);
      if (asked.length < 2) return;
      const [attach, stats] = asked;
      const counts = { flows: 3, flowsInAll: 4, refused: -1, dropped: 'x', queries: 1, bytesOut: 5, bytesIn: 6 };
      const text = `${JSON.stringify({ id: stats?.id, result: { ...counts, connected: true } })}\n${JSON.stringify({ id: attach?.id, result: {} })}\n`;
      socket.write(text.slice(0, 30));
      setImmediate(() => socket.write(text.slice(30)));
    });
    const [, stats] = await Promise.all([end.channel.attach('g', egress), end.channel.stats('g')]);
    assert.deepEqual(asked[0], {
      id: 1,
      op: 'attach',
      guest: 'g',
      policy: egress.policy,
      limits: {},
      labels: egress.labels,
    });
    assert.equal(stats.flows, 3);
    assert.equal(stats.dropped, 0);
    assert.equal(stats.connected, true);
  });

  test('a refusal is the gateway’s sentence, on one line, and the channel goes on', async () => {
    await using end = await channelTo((request, socket) =>
      say(
        socket,
        request.op === 'attach' ? { id: request.id, error: `no\n${'x'.repeat(5000)}` } : { id: request.id, result: {} },
      ),
    );
    await assert.rejects(end.channel.attach('g', egress), (error: { kind?: string; message: string }) => {
      assert.equal(error.kind, 'failed');
      assert.match(error.message, /refused: no x+$/);
      return error.message.length < 600;
    });
    await end.channel.detach('g');
  });

  test('a gateway of another generation is refused', async () => {
    await using end = await channelTo((request, socket) =>
      say(socket, { id: request.id, result: { generation: 2, version: '', pid: 1, guests: [] } }),
    );
    await assert.rejects(end.channel.hello(), { kind: 'unsupported' });
  });

  for (const [what, garbage] of [
    ['no JSON', 'garbage\n'],
    ['an array', '[]\n'],
    ['an endless line', 'x'.repeat(1024 * 1024 + 1)],
  ] as const) {
    test(`${what} ends the channel and what waits`, async () => {
      await using end = await channelTo((_, socket) => void socket.write(garbage));
      await assert.rejects(end.channel.cut('g'), { kind: 'protocol' });
      assert.equal((await end.channel.closed).kind, 'protocol');
      assert.equal(end.channel.isOpen, false);
      await assert.rejects(end.channel.cut('g'), { kind: 'protocol' });
    });
  }

  test('an answer without a result or a strange introduction ends it too', async () => {
    for (const message of [{}, { result: null }, { result: { generation: 1, version: 'v', guests: [1] } }]) {
      await using end = await channelTo((request, socket) => say(socket, { id: request.id, ...message }));
      await assert.rejects(end.channel.hello(), { kind: 'protocol' });
    }
  });

  test('the gateway’s end is told at once', async () => {
    await using end = await channelTo((_, socket) => void socket.destroy());
    await assert.rejects(end.channel.detach('g'), { kind: 'exited' });
    assert.equal((await end.channel.closed).kind, 'exited');
  });

  test('a policy that no line holds is refused before it is sent', async () => {
    await using end = await channelTo(() => assert.fail('nothing is sent'));
    const rule = { id: 'r', kind: 'domain', name: 'x'.repeat(200), ports: [], content: 'opaque' } as const;
    const large = { ...egress, policy: { rules: Array(5000).fill(rule), dns: 'off' } } as const;
    await assert.rejects(end.channel.attach('g', large), { kind: 'failed' });
  });
});
