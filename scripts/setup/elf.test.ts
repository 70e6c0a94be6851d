import { deepEqual, equal, throws } from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { elfNeeds } from './elf.ts';

describe('what an ELF file needs', () => {
  test('a dynamic program names its loader and its C library', async () => {
    const needs = elfNeeds(await readFile('/bin/ls'));
    equal(needs.libraries.includes('libc.so.6'), true);
    equal(needs.interpreter?.includes('ld-linux'), true);
  });

  test('a static program needs nothing', () => {
    const header = Buffer.alloc(64);
    header.write('\x7fELF\x02\x01', 'latin1');
    deepEqual(elfNeeds(header), { libraries: [], interpreter: undefined });
  });

  test('anything else is refused', () => {
    throws(() => elfNeeds(Buffer.from('#!/bin/sh\n')), /not a 64-bit/);
  });
});
