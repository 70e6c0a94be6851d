import assert from 'node:assert/strict';
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import type { LogLine } from './index.ts';
import { bench } from './test-bench.ts';

async function texts(lines: AsyncIterable<LogLine>): Promise<string[]> {
  const found: string[] = [];
  for await (const line of lines) found.push(line.text);
  return found;
}

test('the app log is kept over suspend, resume and the end', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  b.engine.print(id, 'one');
  await b.clock.advance(1000);
  b.engine.print(id, 'two');
  const followed = texts(b.microvms.logs(id, { follow: true }));
  await b.clock.advance(0);
  b.engine.print(id, 'three');
  await b.microvms.terminate(id);
  await b.until(id, 'TERMINATED');
  assert.deepEqual(await followed, ['one', 'two', 'three']);
  assert.deepEqual(await texts(b.microvms.logs(id, { follow: true })), ['one', 'two', 'three']);
  assert.deepEqual(await texts(b.microvms.logs(id, { cursor: 2 })), ['three']);
});

test('the kept copy is bounded, and what is left continues by its cursors', async () => {
  await using b = await bench();
  const id = await b.run();
  await b.until(id, 'RUNNING');
  await b.clock.advance(1000);
  const line = 'x'.repeat(10_000);
  for (let i = 0; i < 30; i++) {
    for (let k = 0; k < 10; k++) b.engine.print(id, line);
    await b.clock.advance(0);
  }
  await b.microvms.terminate(id);
  await b.until(id, 'TERMINATED');
  const folder = path.join(b.stateDir, 'logs', 'microvms');
  const files = (await readdir(folder)).sort();
  assert.deepEqual(files, [`${id}.log`, `${id}.log.1`]);
  for (const file of files) assert.ok((await stat(path.join(folder, file))).size <= 1024 * 1024);
  const cursors: number[] = [];
  for await (const kept of b.microvms.logs(id, {})) cursors.push(kept.cursor);
  assert.equal(cursors.at(-1), 299);
  assert.deepEqual(
    cursors,
    cursors.map((_, index) => 300 - cursors.length + index),
  );
});
