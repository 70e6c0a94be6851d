import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { ByteQueue } from './byte-queue.ts';

test('bytes come out as they went in, whatever the pieces', () => {
  const bytes = randomBytes(200_000);
  const queue = new ByteQueue();
  let put = 0;
  let got = 0;
  for (let turn = 0; got < bytes.length; turn++) {
    const piece = bytes.subarray(put, put + ([1, 7, 4095, 4096, 9000, 0, 300][turn % 7] ?? 0));
    queue.push(piece);
    put += piece.length;
    const wanted = Math.min(queue.length, [0, 3, 5000, 1, 8192][turn % 5] ?? 0);
    assert.ok(queue.take(wanted).equals(bytes.subarray(got, got + wanted)));
    got += wanted;
    assert.equal(queue.length, put - got);
  }
});

test('what is taken stays as it is when more comes', () => {
  const queue = new ByteQueue();
  queue.push(Buffer.from('abc'));
  const ab = queue.take(2);
  queue.push(Buffer.from('def'));
  assert.deepEqual([ab.toString(), queue.take(4).toString()], ['ab', 'cdef']);
  assert.throws(() => queue.take(1), RangeError);
});
