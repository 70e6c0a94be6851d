import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type Duplex, duplexPair } from 'node:stream';
import { test } from 'node:test';
import { TestClock } from '../lib/index.ts';
import { splice } from './splice.ts';

interface Bench {
  readonly clock: TestClock;
  /** The far ends: a client's and an app's. */
  readonly client: Duplex;
  readonly app: Duplex;
  readonly near: readonly [Duplex, Duplex];
  readonly moved: () => number;
}

function bench(early: { client?: string; tunnel?: string } = {}): Bench {
  const clock = new TestClock();
  const [client, nearClient] = duplexPair();
  const [app, nearApp] = duplexPair();
  let moved = 0;
  for (const stream of [client, app]) stream.on('error', () => {});
  splice(nearClient, nearApp, {
    early: { client: Buffer.from(early.client ?? ''), tunnel: Buffer.from(early.tunnel ?? '') },
    clock,
    onBytes: () => void moved++,
  });
  return { clock, client, app, near: [nearClient, nearApp], moved: () => moved };
}

/** To its end, without destroying it as an iterator would. */
async function all(stream: Duplex): Promise<string> {
  let received = '';
  stream.on('data', (chunk: Buffer) => {
    received += String(chunk);
  });
  await once(stream, 'end');
  return received;
}

test('bytes received before the splice come first, and either end may finish its own direction alone', async () => {
  const b = bench({ client: 'early ', tunnel: 'hello ' });
  b.client.end('bye');
  assert.equal(await all(b.app), 'early bye');
  b.app.end('last words');
  assert.equal(await all(b.client), 'hello last words');
  await b.clock.advance(0);
  assert.deepEqual(
    b.near.map((stream) => stream.destroyed),
    [true, true],
  );
});

test('a side that breaks takes the other with it', async () => {
  for (const side of ['client', 'app'] as const) {
    const b = bench();
    const [nearClient, nearApp] = b.near;
    const other = side === 'client' ? nearApp : nearClient;
    const closed = once(other, 'close');
    (side === 'client' ? nearClient : nearApp).destroy(new Error('reset'));
    await closed;
  }
});

test('a side that broke before the splice takes the other with it too', () => {
  const [client, tunnel] = [duplexPair()[0], duplexPair()[0]];
  tunnel.destroy();
  const early = { client: Buffer.alloc(0), tunnel: Buffer.alloc(0) };
  splice(client, tunnel, { early, clock: new TestClock(), onBytes: () => {} });
  assert.equal(client.destroyed, true);
});

test('after one side ended, the other has a while to end too, prolonged by what it still says', async () => {
  const b = bench();
  b.client.resume();
  b.app.resume();
  b.client.end();
  await b.clock.advance(20_000);
  b.app.write('still here');
  await b.clock.advance(20_000);
  assert.equal(b.near[1].destroyed, false);
  await b.clock.advance(10_001);
  assert.equal(b.near[1].destroyed, true);
});

test('an app that never stops talking to a client that has gone is cut', async () => {
  const b = bench();
  b.client.resume();
  b.app.resume();
  b.client.end();
  await b.clock.advance(0);
  b.near[0].end();
  await once(b.near[0], 'close');
  const before = b.moved();
  for (let i = 0; i < 40 && !b.near[1].destroyed; i++) {
    b.app.write('more');
    await b.clock.advance(1000);
  }
  assert.equal(b.near[1].destroyed, true);
  assert.equal(b.moved(), before, 'what nobody gets is no activity');
});

test('a side that does not read stops the other, so that little is held between them', async () => {
  const b = bench();
  const chunk = Buffer.alloc(65_536);
  let sent = 0;
  while (sent < 1000 && b.app.write(chunk)) {
    sent++;
    await b.clock.advance(0);
  }
  assert.ok(sent < 20, `${sent} chunks were taken for a client that reads nothing`);
  b.client.resume();
  await once(b.app, 'drain');
});
