import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DATA, encodeCredit, encodeFrame, FrameDecoder, RESET } from './frames.ts';

type Seen = [type: number, stream: number, text: string];

/** Decodes `bytes` cut at random places; parts of one DATA frame are joined. */
function decode(bytes: Buffer, cut: (left: number) => number): Seen[] {
  const seen: Seen[] = [];
  let isNew = true;
  const decoder = new FrameDecoder('host', {
    data(stream, part) {
      const last = seen.at(-1);
      if (!isNew && last?.[0] === DATA && last[1] === stream) last[2] += part.toString('latin1');
      else seen.push([DATA, stream, part.toString('latin1')]);
      isNew = false;
    },
    frame(type, stream, payload) {
      seen.push([type, stream, payload.toString('latin1')]);
      isNew = true;
    },
  });
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + cut(bytes.length - at));
    decoder.push(bytes.subarray(at, end));
    at = end;
  }
  return seen;
}

/** A small deterministic generator, so that a failure can be repeated. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

test('frames come out the same however the bytes are cut', () => {
  for (let seed = 1; seed <= 50; seed++) {
    const next = random(seed);
    const frames: Buffer[] = [];
    const expected: Seen[] = [];
    for (let i = 0; i < 30; i++) {
      const stream = next(1000) + 1;
      const text = 'x'.repeat(next(900) + 1);
      frames.push(encodeFrame(DATA, stream, Buffer.from(text)), encodeFrame(RESET, stream, Buffer.from(text)));
      expected.push([DATA, stream, text], [RESET, stream, text]);
      frames.push(encodeCredit(stream, 7));
      expected.push([4, stream, '\0\0\0\x07']);
    }
    assert.deepEqual(
      decode(Buffer.concat(frames), (left) => next(Math.min(left, 40)) + 1),
      expected,
    );
  }
});

test('random garbage is refused or harmless and never held', () => {
  for (let seed = 1; seed <= 500; seed++) {
    const next = random(seed);
    const bytes = Buffer.from(Array.from({ length: 300 }, () => (next(3) === 0 ? next(256) : next(9))));
    try {
      decode(bytes, (left) => next(left) + 1);
    } catch (error) {
      assert.match(String(error), /MachineError: agent link/);
    }
  }
});

test('a frame that lies about its length or type is a protocol error', () => {
  const lies: [string, Buffer][] = [
    ['type 9', encodeFrame(9, 1)],
    ['OPEN from the guest', encodeFrame(1, 1, Buffer.from('{}'))],
    ['PING from the guest', encodeFrame(7, 0, Buffer.alloc(8))],
    ['CREDIT of three bytes', encodeFrame(4, 1, Buffer.alloc(3))],
    ['END with a payload', encodeFrame(5, 1, Buffer.alloc(1))],
    ['RESET of 1025 bytes', encodeFrame(6, 1, Buffer.alloc(1025))],
    ['DATA on stream 0', encodeFrame(3, 0, Buffer.alloc(1))],
    ['PONG on stream 1', encodeFrame(8, 1, Buffer.alloc(8))],
    ['reserved bytes', Buffer.from('030001000000000100000000', 'hex')],
    ['DATA of 64 KiB and one', Buffer.from('030000000000000100010001', 'hex')],
  ];
  for (const [name, bytes] of lies) {
    assert.throws(() => decode(bytes, () => 5), { kind: 'protocol' }, name);
  }
});
