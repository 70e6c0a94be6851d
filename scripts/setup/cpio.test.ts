import { deepEqual, equal, throws } from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type CpioEntry, writeCpio } from './cpio.ts';

interface Read {
  path: string;
  mode: number;
  data: string;
  device: [number, number];
}

/** Reads an archive back as the kernel does. */
function readCpio(archive: Buffer): Read[] {
  const found: Read[] = [];
  for (let at = 0; ; ) {
    equal(archive.toString('latin1', at, at + 6), '070701');
    const field = (index: number) =>
      Number.parseInt(archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16);
    const nameStart = at + 110;
    const path = archive.toString('utf8', nameStart, nameStart + field(11) - 1);
    const dataStart = (nameStart + field(11) + 3) & ~3;
    const data = archive.toString('utf8', dataStart, dataStart + field(6));
    if (path === 'TRAILER!!!') return found;
    found.push({ path, mode: field(1), data, device: [field(9), field(10)] });
    at = (dataStart + field(6) + 3) & ~3;
  }
}

describe('the cpio writer', () => {
  const entries: CpioEntry[] = [
    { kind: 'directory', path: 'proc' },
    { kind: 'file', path: 'lib/modules/a.ko', mode: 0o644, data: Buffer.from('abcde') },
    { kind: 'link', path: 'lib/b', target: 'modules/a.ko' },
    { kind: 'device', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
  ];

  test('entries can be read back, parents first', () => {
    deepEqual(readCpio(writeCpio(entries)), [
      { path: 'proc', mode: 0o040755, data: '', device: [0, 0] },
      { path: 'lib', mode: 0o040755, data: '', device: [0, 0] },
      { path: 'lib/modules', mode: 0o040755, data: '', device: [0, 0] },
      { path: 'lib/modules/a.ko', mode: 0o100644, data: 'abcde', device: [0, 0] },
      { path: 'lib/b', mode: 0o120777, data: 'modules/a.ko', device: [0, 0] },
      { path: 'dev', mode: 0o040755, data: '', device: [0, 0] },
      { path: 'dev/console', mode: 0o020600, data: '', device: [5, 1] },
    ]);
  });

  test('equal entries give equal bytes in whole blocks', () => {
    const archive = writeCpio(entries);
    equal(archive.length % 512, 0);
    deepEqual(writeCpio(entries), archive);
  });

  test('the same path twice is refused', () => {
    const file: CpioEntry = { kind: 'file', path: 'a', mode: 0o644, data: Buffer.alloc(0) };
    throws(() => writeCpio([file, file]), /a is there twice/);
  });
});
