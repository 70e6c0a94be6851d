import { deepEqual, equal } from 'node:assert/strict';
import { describe, test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import { findPayload, hasPvhEntry } from './kernel-image.ts';

function bzImage(packed: Buffer): Buffer {
  const setup = Buffer.alloc(3 * 512);
  setup.writeUInt8(2, 0x1f1);
  setup.write('HdrS', 0x202, 'latin1');
  setup.writeUInt32LE(16, 0x248);
  setup.writeUInt32LE(packed.length + 4, 0x24c);
  return Buffer.concat([setup, Buffer.alloc(16), packed, Buffer.alloc(4), Buffer.from('tail')]);
}

function elfWithNote(name: string, type: number): Buffer {
  const elf = Buffer.alloc(64 + 56 + 24);
  elf.write('\x7fELF\x02\x01', 'latin1');
  elf.writeBigUInt64LE(64n, 0x20);
  elf.writeUInt16LE(56, 0x36);
  elf.writeUInt16LE(1, 0x38);
  elf.writeUInt32LE(4, 64);
  elf.writeBigUInt64LE(120n, 72);
  elf.writeBigUInt64LE(24n, 96);
  elf.writeUInt32LE(4, 120);
  elf.writeUInt32LE(8, 124);
  elf.writeUInt32LE(type, 128);
  elf.write(name, 132, 'latin1');
  return elf;
}

describe('kernel images', () => {
  test('the payload of a bzImage is found with its compression', () => {
    const packed = zstdCompressSync(Buffer.from('kernel'));
    deepEqual(findPayload(bzImage(packed)), { compression: 'zstd', bytes: packed });
  });

  test('something else has no payload', () => {
    equal(findPayload(Buffer.alloc(4_096)), undefined);
    equal(findPayload(bzImage(Buffer.alloc(64)).subarray(0, 1_560)), undefined);
  });

  test('the PVH entry is known by its Xen note', () => {
    equal(hasPvhEntry(elfWithNote('Xen\0', 18)), true);
    equal(hasPvhEntry(elfWithNote('Xen\0', 17)), false);
    equal(hasPvhEntry(elfWithNote('GNU\0', 18)), false);
    equal(hasPvhEntry(Buffer.from('MZ')), false);
  });
});
