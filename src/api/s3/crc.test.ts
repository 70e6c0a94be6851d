import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crc32c, crc64nvme } from './crc.ts';

test('the checksums have the published check values, in one piece and byte by byte', () => {
  const text = Buffer.from('123456789');
  for (const [make, expected] of [
    [crc32c, 'e3069283'],
    [crc64nvme, 'ae8b14860a799888'],
  ] as const) {
    const whole = make();
    whole.update(text);
    assert.equal(whole.digest().toString('hex'), expected);
    const pieces = make();
    for (const byte of text) pieces.update(Buffer.from([byte]));
    assert.equal(pieces.digest().toString('hex'), expected);
  }
});
