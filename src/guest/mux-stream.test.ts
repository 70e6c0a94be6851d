import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { ACCEPT, END, encodeCredit, encodeFrame, FrameDecoder, INITIAL_CREDIT_BYTES, RESET } from './frames.ts';
import { Mux } from './mux.ts';
import type { MuxStream } from './mux-stream.ts';

interface Sent {
  readonly mux: Mux;
  readonly stream: MuxStream;
  readonly bytes: () => Buffer;
  readonly frames: number[];
}

/** A stream the agent took, and what it was sent. */
function accepted(): Sent {
  const parts: Buffer[] = [];
  const frames: number[] = [];
  const decoder = new FrameDecoder('agent', {
    data: (_, part) => void parts.push(Buffer.from(part)),
    frame: (type) => void frames.push(type),
  });
  const out = new Writable({
    write: (chunk, _encoding, done) => {
      decoder.push(chunk);
      done();
    },
  });
  const mux = new Mux(out, { side: 'host' });
  const stream = mux.open({ op: 'tunnel', port: 80 });
  mux.receive(encodeFrame(ACCEPT, stream.id));
  return { mux, stream, bytes: () => Buffer.concat(parts), frames };
}

test('bytes that were given wait for credit in their order with what is written, and their buffer is free at once', async () => {
  const { mux, stream, bytes, frames } = accepted();
  const part = Buffer.alloc(10_000);
  const want: Buffer[] = [];
  let rounds = 0;
  let drains = 0;
  stream.on('drain', () => {
    drains += 1;
  });
  for (let given = 0; given < 2 * INITIAL_CREDIT_BYTES; given += part.length) {
    part.fill(rounds++);
    want.push(Buffer.from(part));
    // Whatever way a piece takes.
    if (rounds % 20 === 3) stream.write(Buffer.from(part));
    else if (!stream.give(part)) assert.ok(given + part.length > INITIAL_CREDIT_BYTES);
  }
  stream.end();
  await turn();
  assert.equal(bytes().length, INITIAL_CREDIT_BYTES);
  assert.ok(!frames.includes(END));
  while (!frames.includes(END)) {
    mux.receive(encodeCredit(stream.id, 65_536));
    await turn();
  }
  assert.ok(bytes().equals(Buffer.concat(want)));
  assert.ok(drains > 0);
});

test('single bytes that wait for credit wait in one block', () => {
  const { mux, stream } = accepted();
  stream.give(Buffer.alloc(INITIAL_CREDIT_BYTES));
  let blocks = 0;
  const takeBlock = mux.takeBlock.bind(mux);
  mux.takeBlock = () => {
    blocks += 1;
    return takeBlock();
  };
  for (let i = 0; i < 10_000; i++) assert.equal(stream.give(Buffer.of(i)), false);
  assert.equal(blocks, 1);
  stream.destroy();
});

test('what was given to a stream that is reset goes nowhere', async () => {
  const { mux, stream, bytes } = accepted();
  stream.give(Buffer.alloc(INITIAL_CREDIT_BYTES + 1));
  mux.receive(encodeFrame(RESET, stream.id, Buffer.from('closed: over')));
  await turn();
  assert.equal(stream.destroyed, true);
  assert.equal(bytes().length, INITIAL_CREDIT_BYTES);
  assert.equal(mux.isOver, false);
});
