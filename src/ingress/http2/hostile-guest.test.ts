/** Guests that answer HTTP/2 with anything at all: requests fail, the server does not, and nothing stays behind. */
import assert from 'node:assert/strict';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import { createHttp2Bench } from './test-bench.ts';

const CASES = 200;
const HEADERS = { 'x-aws-proxy-force-h2': 'true' };

/** xorshift32: the same cases each time. */
function randomOf(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

const SETTINGS = frame(4, 0, 0, Buffer.alloc(0));
const ANSWER = frame(1, 4, 1, Buffer.from([0x88]));

/** One thing that a guest may do. */
function act(connection: Duplex, random: (below: number) => number): void {
  const bytes = (most: number) => Buffer.from(Array.from({ length: random(most) }, () => random(256)));
  switch (random(9)) {
    case 0:
      return void connection.write(bytes(200));
    case 1:
      return void connection.write(SETTINGS);
    case 2:
      return void connection.write(ANSWER);
    case 3:
      return void connection.write(frame(0, random(2), 1 + 2 * random(2), bytes(500)));
    case 4:
      return void connection.write(frame(random(12), random(256), random(4), bytes(60)));
    case 5:
      return void connection.write(frame(3, 0, 1, Buffer.from([0, 0, 0, random(14)])));
    case 6:
      return void connection.write(frame(7, 0, 0, Buffer.from([0, 0, 0, random(3), 0, 0, 0, random(14)])));
    case 7:
      return void connection.end();
    default:
      return void connection.destroy();
  }
}

test(`${CASES} guests that answer at random leave every request answered or reset, and nothing open`, async () => {
  await using bench = await createHttp2Bench();
  const open = new Set<Duplex>();
  const surprises: unknown[] = [];
  const onSurprise = (error: unknown) => void surprises.push(error);
  process.on('uncaughtException', onSurprise);
  bench.listen(8080, (connection) => {
    const random = randomOf(++seed * 7919);
    open.add(connection);
    connection.on('error', () => {}).once('close', () => open.delete(connection));
    // Most begin well: what comes after that is deeper inside.
    if (random(4) > 0) connection.write(SETTINGS);
    let left = 1 + random(8);
    const next = () => {
      if (connection.destroyed) return;
      act(connection, random);
      left -= 1;
      if (left > 0) setImmediate(next);
      else connection.destroy();
    };
    connection.once('data', () => setImmediate(next));
    connection.resume();
  });
  let seed = 0;
  for (let i = 0; i < CASES; i += 20) {
    const told = await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        bench.ask(
          { ...HEADERS, ':method': n % 2 === 0 ? 'GET' : 'POST' },
          n % 2 === 0 ? undefined : 'x'.repeat(n * 1000),
        ),
      ),
    );
    for (const { status, code } of told) assert.ok(status >= 200 || code !== 0, `status ${status}, code ${code}`);
  }
  process.off('uncaughtException', onSurprise);
  assert.deepEqual(surprises, []);
  assert.equal(bench.traffic.underWay, 0);
  bench.ingress[Symbol.asyncDispose]();
  while (open.size > 0) await new Promise((resolve) => setImmediate(resolve));
});
