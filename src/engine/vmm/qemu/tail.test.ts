import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';
import { CONSOLE_LOG, Tail } from './tail.ts';

test('of endless output the first goes to the log, the last stays in memory, and a flood is read at a rate', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-tail-'));
  try {
    const stream = new PassThrough();
    const tail = new Tail(stream, path.join(dir, 'vmm.log'));
    let written = 0;
    const megabyte = Buffer.alloc(2 ** 20, `${'x'.repeat(99)}\n`);
    while (!stream.isPaused() && written < 1000) {
      stream.write(megabyte);
      written += 1;
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.ok(written >= 16 && written < 1000, `${written} MiB were read at once`);
    assert.ok((await stat(path.join(dir, 'vmm.log'))).size <= 512 * 1024);
    assert.ok(tail.lines().length <= 60);
    assert.ok(tail.lines().join('').length <= 8192);
    stream.destroy();
  } finally {
    await rm(dir, { recursive: true });
  }
});

test('a later server goes on with what an earlier one read, within the same bounds', async () => {
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-tail-'));
  try {
    const log = path.join(dir, CONSOLE_LOG);
    await writeFile(log, 'before\n');
    const stream = new PassThrough();
    const tail = new Tail(stream, log);
    stream.write('after\n');
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(tail.lines(), ['before', 'after']);
    assert.equal(await readFile(log, 'utf8'), 'before\nafter\n');
    await writeFile(log, 'x'.repeat(256 * 1024));
    new Tail(stream, log);
    stream.write('more\n');
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal((await stat(log)).size, 256 * 1024 + 'more\n'.length, 'only the first of the two still writes');
    stream.destroy();
  } finally {
    await rm(dir, { recursive: true });
  }
});
