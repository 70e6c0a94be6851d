import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { ARCHIVE_CHUNK_BYTES as CHUNK, readArchive, type SourcePart, writeArchive } from './sparse-archive.ts';

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest();

/** A part of `bytes` bytes with data at the given chunk numbers. */
function part(name: string, bytes: number, data: Readonly<Record<number, Buffer>>): SourcePart {
  return {
    name,
    bytes,
    chunks: Object.entries(data).map(([index, chunk]) => ({ at: Number(index) * CHUNK, digest: sha256(chunk) })),
    read: async (at) => data[at / CHUNK] ?? Buffer.alloc(0),
  };
}

async function packed(about: unknown, parts: readonly SourcePart[]): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of writeArchive(about, parts)) pieces.push(piece);
  return Buffer.concat(pieces);
}

async function* pieces(bytes: Buffer, length = 10_007): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += length) yield bytes.subarray(at, at + length);
}

async function unpacked(bytes: Buffer) {
  const { head, chunks } = await readArchive(pieces(bytes));
  const found: { part: string; at: number; data: Buffer }[] = [];
  for await (const chunk of chunks()) found.push(chunk);
  return { head, found };
}

/** An archive with any manifest at all in front of these bodies. */
function forged(manifest: unknown, ...bodies: Buffer[]): Buffer {
  const text = Buffer.from(typeof manifest === 'string' ? manifest : JSON.stringify(manifest));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(text.length);
  return Buffer.concat([Buffer.from('RKARCH1\n'), length, text, ...bodies]);
}

test('what is packed comes out again: data in its places, holes as holes, noise stored as it is', async () => {
  const noise = randomBytes(CHUNK);
  const text = Buffer.alloc(CHUNK, 'the same again ');
  const disk = part('disk', 20 * 1024 * CHUNK + 77, { 3: text, 9: noise, [20 * 1024]: Buffer.alloc(77, 7) });
  const bytes = await packed({ name: 'shop' }, [disk, part('state', 5, { 0: Buffer.from('state') })]);
  assert.ok(bytes.length < 1.1 * CHUNK, 'holes and what repeats take next to nothing');
  const { head, found } = await unpacked(bytes);
  assert.deepEqual(head.about, { name: 'shop' });
  assert.deepEqual(
    head.parts.map(({ name, bytes }) => [name, bytes]),
    [
      ['disk', disk.bytes],
      ['state', 5],
    ],
  );
  assert.deepEqual(
    found.map(({ part, at, data }) => [part, at, data.length]),
    [
      ['disk', 3 * CHUNK, CHUNK],
      ['disk', 9 * CHUNK, CHUNK],
      ['disk', 20 * 1024 * CHUNK, 77],
      ['state', 0, 5],
    ],
  );
  assert.ok(found[0]?.data.equals(text) && found[1]?.data.equals(noise));
});

test('one wrong byte anywhere, an early end or a late one is found before the chunk is handed on', async () => {
  const bytes = await packed({}, [part('disk', 2 * CHUNK, { 0: randomBytes(CHUNK), 1: Buffer.alloc(CHUNK, 'ab') })]);
  assert.equal((await unpacked(bytes)).found.length, 2);
  for (let at = 0; at < bytes.length; at += at < 400 ? 7 : 99_991) {
    const wrong = Buffer.from(bytes);
    wrong[at] = (wrong[at] ?? 0) ^ 0x11;
    const read = unpacked(wrong);
    const outcome = await read.then(
      ({ head }) => head.digest,
      (error: { code?: string }) => error.code,
    );
    // A changed "about" is another manifest: that is for its digest to tell.
    if (outcome !== 'INVALID') assert.notEqual(outcome, (await unpacked(bytes)).head.digest, `byte ${at}`);
  }
  for (const length of [0, 5, 11, 40, CHUNK, bytes.length - 1]) {
    await assert.rejects(unpacked(bytes.subarray(0, length)), { code: 'INVALID' }, `${length} bytes`);
  }
  await assert.rejects(unpacked(Buffer.concat([bytes, Buffer.of(0)])), /follows its end/);
});

test('a hostile manifest or chunk is refused with a reason, and nothing large is made for it', async () => {
  const digest = '0'.repeat(64);
  const disk = { name: 'disk', bytes: CHUNK, chunks: [] as unknown[] };
  const hostile: [string, unknown, RegExp][] = [
    ['no JSON', '{', /no JSON/],
    ['a list', [], /wrong shape/],
    ['no parts', {}, /no list of parts/],
    ['many parts', { parts: Array(9).fill(disk) }, /no list of parts/],
    ['a part twice', { parts: [disk, disk] }, /comes twice/],
    ['a path for a name', { parts: [{ ...disk, name: '../../etc/passwd' }] }, /proper name/],
    ['a size beyond all', { parts: [{ ...disk, bytes: 2 ** 50 }] }, /size of disk/],
    ['a negative size', { parts: [{ ...disk, bytes: -1 }] }, /size of disk/],
    ['a chunk behind the end', { parts: [{ ...disk, chunks: [[1, digest]] }] }, /out of its bounds/],
    ['a chunk before the start', { parts: [{ ...disk, chunks: [[-1, digest]] }] }, /out of its bounds/],
    [
      'a chunk twice',
      {
        parts: [
          {
            ...disk,
            bytes: 9 * CHUNK,
            chunks: [
              [1, digest],
              [1, digest],
            ],
          },
        ],
      },
      /not in order/,
    ],
    ['no digest', { parts: [{ ...disk, chunks: [[0, 'x']] }] }, /no digest/],
    ['a chunk of an empty part', { parts: [{ ...disk, bytes: 0, chunks: [[0, digest]] }] }, /out of its bounds/],
  ];
  for (const [what, manifest, message] of hostile) await assert.rejects(unpacked(forged(manifest)), message, what);
  const length = Buffer.from('RKARCH1\n\xff\xff\xff\xff', 'latin1');
  await assert.rejects(unpacked(length), /manifest is too long/);
  const one = { parts: [{ ...disk, chunks: [[0, digest]] }] };
  await assert.rejects(unpacked(forged(one, Buffer.of(0, 0, 0, 0))), /wrong length/);
  await assert.rejects(unpacked(forged(one, Buffer.of(0x7f, 0xff, 0xff, 0xff))), /wrong length/);
  await assert.rejects(unpacked(forged(one, Buffer.of(0x80, 0, 0, 1, 65))), /wrong length/);
  await assert.rejects(unpacked(forged(one, Buffer.of(0, 0, 0, 4, 1, 2, 3, 4))), /decompressed/);
});

test('a bomb is stopped at the size of a chunk', async () => {
  const { zstdCompressSync } = await import('node:zlib');
  const bomb = zstdCompressSync(Buffer.alloc(256 * CHUNK));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bomb.length);
  const manifest = { parts: [{ name: 'disk', bytes: CHUNK, chunks: [[0, '0'.repeat(64)]] }] };
  await assert.rejects(unpacked(forged(manifest, length, bomb)), /decompressed/);
});

test('what changed since its digests were made is not packed', async () => {
  const changed = { ...part('disk', CHUNK, { 0: Buffer.alloc(CHUNK, 1) }), read: async () => Buffer.alloc(CHUNK, 2) };
  await assert.rejects(packed({}, [changed]), /changed while it was read/);
});
