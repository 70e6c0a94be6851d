import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { FrameWriter } from './frame-writer.ts';
import { DATA, END, encodeFrame, FrameDecoder, HEADER_BYTES, MAX_PAYLOAD_BYTES } from './frames.ts';

/** A channel that takes a write when it is told to. */
class Channel extends Writable {
  readonly writes: Buffer[] = [];
  readonly #done: (() => void)[] = [];

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.writes.push(Buffer.from(chunk));
    this.#done.push(done);
  }

  async take(): Promise<void> {
    this.#done.shift()?.();
    await turn();
  }

  async takeAll(): Promise<void> {
    while (this.#done.length > 0) await this.take();
  }
}

/** What the other side reads: type, stream and bytes of each frame. */
function framesIn(bytes: Buffer): [type: number, stream: number, bytes: number][] {
  const found: [number, number, number][] = [];
  for (let at = 0; at < bytes.length; at += HEADER_BYTES + bytes.readUInt32BE(at + 8))
    found.push([bytes[at] ?? 0, bytes.readUInt32BE(at + 4), bytes.readUInt32BE(at + 8)]);
  return found;
}

test('what is sent within a turn is one write, and pieces of one stream are one frame', async () => {
  const channel = new Channel();
  const writer = new FrameWriter(channel);
  for (let i = 0; i < 10; i++) writer.data(1, Buffer.from('abc'));
  writer.data(2, Buffer.from('de'));
  writer.frame(encodeFrame(END, 1));
  writer.data(2, Buffer.from('f'));
  await turn();
  assert.deepEqual(channel.writes.map(framesIn), [
    [
      [DATA, 1, 30],
      [DATA, 2, 2],
      [END, 1, 0],
      [DATA, 2, 1],
    ],
  ]);
});

test('a channel that takes its time gets full writes, and the rest when it has taken them', async () => {
  const channel = new Channel();
  const writer = new FrameWriter(channel);
  writer.data(1, Buffer.from('first'));
  await turn();
  for (let i = 0; i < 100; i++) {
    writer.data(1, Buffer.alloc(1000));
    await turn();
  }
  await channel.takeAll();
  assert.equal(channel.writes.length, 3);
  assert.equal(channel.writes[1]?.length, HEADER_BYTES + MAX_PAYLOAD_BYTES);
  assert.equal(writer.queuedBytes, 0);
});

test('bytes of any sizes arrive as they were, in frames that are never empty or too large', async () => {
  const channel = new Channel();
  const writer = new FrameWriter(channel);
  const sent = new Map<number, Buffer[]>();
  let next = 1;
  for (let i = 0; i < 300; i++) {
    // Sizes around those of a block, and small ones.
    const bytes = Buffer.alloc(
      i % 10 === 0 ? MAX_PAYLOAD_BYTES - HEADER_BYTES - 520 + i * 8 : 1 + ((i * 7919) % 9000),
      i % 251,
    );
    const stream = 1 + (i % 3);
    sent.set(stream, [...(sent.get(stream) ?? []), bytes]);
    writer.data(stream, bytes);
    if (i % 17 === 0) writer.frame(encodeFrame(END, 100 + next++));
    if (i % 5 === 0) await channel.take();
  }
  await turn();
  await channel.takeAll();
  const got = new Map<number, Buffer[]>();
  const decoder = new FrameDecoder('host', {
    data: (stream, part) => got.set(stream, [...(got.get(stream) ?? []), Buffer.from(part)]),
    frame: (type) => assert.equal(type, END),
  });
  for (const write of channel.writes) decoder.push(write);
  for (const [stream, parts] of sent) assert.ok(Buffer.concat(parts).equals(Buffer.concat(got.get(stream) ?? [])));
});

test('a buffer may be used again at once', async () => {
  const channel = new Channel();
  const writer = new FrameWriter(channel);
  const bytes = Buffer.from('right');
  writer.data(1, bytes);
  bytes.fill('wrong');
  await turn();
  assert.equal(channel.writes[0]?.subarray(HEADER_BYTES).toString(), 'right');
});
