import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { silentLogger } from '../lib/index.ts';
import { createLogs } from '../logs/index.ts';
import { AppLogs, type Printer } from './app-log.ts';
import type { LogLine } from './index.ts';
import { bench } from './test-bench.ts';

/** A guest's ring of lines with these cursors, which ends. */
function printer(cursors: readonly number[], asked: number[] = []): Printer {
  return {
    id: 'microvm-1',
    logs: async function* ({ cursor = 0 }) {
      asked.push(cursor);
      for (const n of cursors) if (n >= cursor) yield lineOf(n);
    },
  };
}

const lineOf = (cursor: number): LogLine => ({ cursor, at: 1000 + cursor, stream: 'stdout', text: `line ${cursor}` });

async function openBoth() {
  await using stack = new AsyncDisposableStack();
  const folder = await mkdtemp(path.join(tmpdir(), 'rk-app-log-'));
  stack.defer(() => rm(folder, { recursive: true }));
  const logs = stack.use(createLogs({ file: path.join(folder, 'events.sqlite'), log: silentLogger }));
  const sink = logs.resumableSink('group', 'stream', 'microvm-1');
  const messages = () => logs.read('group', 'stream', { limit: 100, fromHead: true }).map(({ message }) => message);
  const owned = stack.move();
  return { folder, sink, messages, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const kept = { hasEnded: async () => true };

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

test('lines that a guest had to drop are counted in the log', async () => {
  await using both = await openBoth();
  const appLogs = new AppLogs(both.folder, silentLogger, async () => both.sink);
  await appLogs.collect(printer([0, 1, 6, 7])).finish();
  assert.deepEqual(both.messages(), ['line 0', 'line 1', '[rekindle] 4 lines dropped', 'line 6', 'line 7']);
});

test('after a server that was killed each line is there once, in the kept copy and among the log events', async () => {
  await using both = await openBoth();
  for (const n of [0, 1, 2]) both.sink.write({ at: 1000 + n, message: `line ${n}` }, n + 1);
  const written = [0, 1, 2, 3, 4].map((n) => JSON.stringify(lineOf(n))).join('\n');
  await writeFile(path.join(both.folder, 'microvm-1.log'), `${written}\n{"cursor":5,"at":10`);
  const appLogs = new AppLogs(both.folder, silentLogger, async () => both.sink);
  const asked: number[] = [];
  await appLogs.collect(printer([0, 1, 2, 3, 4, 5, 6], asked)).finish();
  assert.equal(asked[0], 3);
  const all = [0, 1, 2, 3, 4, 5, 6].map((n) => `line ${n}`);
  assert.deepEqual(both.messages(), all);
  assert.deepEqual(await texts(appLogs.read('microvm-1', kept)), all);
});

test('a machine that continues from a checkpoint logs on from there', async () => {
  await using both = await openBoth();
  const appLogs = new AppLogs(both.folder, silentLogger, async () => both.sink);
  await appLogs.collect(printer([0, 1, 2, 3, 4])).finish();
  // Asked for what comes after the last line, an agent that has not got there hands out what it prints next.
  const recalled: Printer = {
    id: 'microvm-1',
    logs: async function* ({ cursor = 0 }) {
      for (const n of [2, 3]) if (cursor > 3 || n >= cursor) yield { ...lineOf(n), text: `again ${n}` };
    },
  };
  const collection = appLogs.collect(recalled);
  for (let turn = 0; both.messages().length < 7 && turn < 10_000; turn++) await setImmediate();
  await collection.stop();
  const all = ['line 0', 'line 1', 'again 2', 'again 3'];
  assert.deepEqual(await texts(appLogs.read('microvm-1', kept)), all);
  assert.equal(both.messages().length, 7, 'events that were handed out stay');
});

test('a follower who reads slowly misses what is not kept any more, and holds nothing up', async () => {
  await using both = await openBoth();
  const appLogs = new AppLogs(both.folder, silentLogger);
  const follower = appLogs.read('microvm-1', { follow: true, hasEnded: async () => false })[Symbol.asyncIterator]();
  const first = follower.next();
  const printed = Promise.withResolvers<void>();
  const machine: Printer = {
    id: 'microvm-1',
    logs: async function* () {
      yield lineOf(0);
      // The follower has it and asks for no other until all are printed, else how many it gets is a matter of luck.
      await first;
      for (let n = 1; n < 4000; n++) yield { ...lineOf(n), text: 'x'.repeat(1000) };
      printed.resolve();
    },
  };
  const collection = appLogs.collect(machine);
  await printed.promise;
  await collection.stop();
  appLogs.end('microvm-1');
  const cursors = [(await first).value?.cursor];
  for (let found = await follower.next(); found.done !== true; found = await follower.next()) {
    cursors.push(found.value.cursor);
  }
  assert.equal(cursors.at(-1), 3999);
  assert.ok(cursors.length < 3000, `${cursors.length} of 4,000 lines`);
  assert.deepEqual(
    cursors,
    cursors.toSorted((a = 0, b = 0) => a - b),
  );
});

test('a guest that prints without end is taken at a pace', async () => {
  await using both = await openBoth();
  let taken = 0;
  const endless: Printer = {
    id: 'microvm-1',
    logs: async function* ({ signal }) {
      while (signal?.aborted !== true) {
        yield { ...lineOf(taken++), text: 'y' };
        if (taken % 1000 === 0) await setImmediate();
      }
    },
  };
  const appLogs = new AppLogs(
    both.folder,
    silentLogger,
    async () => undefined,
    () => 0,
  );
  const collection = appLogs.collect(endless);
  while (taken < 20_000) await setImmediate();
  for (let turn = 0; turn < 2000; turn++) await setImmediate();
  await collection.stop();
  assert.ok(taken < 25_000, `${taken} lines`);
});

test('what could not be kept at first is kept once it can', async () => {
  await using both = await openBoth();
  let isBroken = true;
  const appLogs = new AppLogs(both.folder, silentLogger, async () => {
    if (!isBroken) return both.sink;
    isBroken = false;
    throw new Error('EMFILE: too many open files');
  });
  await appLogs.collect(printer([0, 1])).finish();
  assert.deepEqual(both.messages(), ['line 0', 'line 1']);
});
