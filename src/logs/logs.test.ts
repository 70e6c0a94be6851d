import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { silentLogger, TestClock } from '../lib/index.ts';
import { createLogs, type Logs } from './index.ts';

async function openBench(options: { maxBytes?: number } = {}) {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-logs-'));
  stack.defer(() => rm(dir, { recursive: true }));
  const clock = new TestClock();
  const file = join(dir, 'events.sqlite');
  const open = () => createLogs({ file, log: silentLogger, clock, ...options });
  const owned = stack.move();
  return { clock, file, open, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const texts = (events: readonly { message: string }[]) => events.map(({ message }) => message);

function fill(logs: Logs, clock: TestClock, count: number): void {
  const sink = logs.sink('group', 'stream');
  for (let n = 0; n < count; n++) sink.write({ at: clock.now() - count + n, message: `line ${n}` });
}

test('what the server writes makes its group and stream, and outlives a restart', async () => {
  await using bench = await openBench();
  {
    await using logs = bench.open();
    fill(logs, bench.clock, 3);
  }
  await using logs = bench.open();
  assert.deepEqual(
    logs.groups({ limit: 10 }).map(({ name, storedBytes }) => [name, storedBytes]),
    [['group', 18]],
  );
  assert.deepEqual(texts(logs.read('group', 'stream', { limit: 10 })), ['line 0', 'line 1', 'line 2']);
});

test('a stream is read page by page from either end, and an end says so by an empty page', async () => {
  await using bench = await openBench();
  await using logs = bench.open();
  fill(logs, bench.clock, 5);
  const first = logs.read('group', 'stream', { limit: 2, fromHead: true });
  assert.deepEqual(texts(first), ['line 0', 'line 1']);
  const [, last] = first;
  assert.ok(last);
  assert.deepEqual(texts(logs.read('group', 'stream', { limit: 9, after: last })), ['line 2', 'line 3', 'line 4']);
  const tail = logs.read('group', 'stream', { limit: 2 });
  assert.deepEqual(texts(tail), ['line 3', 'line 4']);
  assert.ok(tail[0] && tail[1]);
  assert.deepEqual(texts(logs.read('group', 'stream', { limit: 2, before: tail[0] })), ['line 1', 'line 2']);
  assert.deepEqual(logs.read('group', 'stream', { limit: 2, after: tail[1] }), []);
  assert.deepEqual(
    texts(logs.read('group', 'stream', { limit: 9, from: tail[0].at, to: tail[1].at })),
    ['line 3'],
    'from counts, to does not',
  );
});

test('a page holds at most a MiB, and a single larger event all the same', async () => {
  await using bench = await openBench();
  await using logs = bench.open();
  const sink = logs.sink('group', 'stream');
  for (let n = 0; n < 6; n++) sink.write({ at: n, message: 'x'.repeat(250_000) });
  assert.equal(logs.read('group', 'stream', { limit: 100, fromHead: true }).length, 4);
  const { events, next } = logs.filter('group', { limit: 100 });
  assert.equal(events.length, 4);
  assert.equal(logs.filter('group', { limit: 100, ...(next && { after: next }) }).events.length, 2);
});

test('filtering goes over the streams of a group in the order of time', async () => {
  await using bench = await openBench();
  await using logs = bench.open();
  for (const [at, stream] of [
    [3, 'b'],
    [1, 'a'],
    [2, 'b'],
    [4, 'ab'],
  ] as const)
    logs.sink('group', stream).write({ at, message: `${stream}${at} ${at % 2 === 0 ? 'even' : 'odd'}` });
  const select = (query: object) => texts(logs.filter('group', { limit: 10, ...query }).events);
  assert.deepEqual(select({}), ['a1 odd', 'b2 even', 'b3 odd', 'ab4 even']);
  assert.deepEqual(select({ pattern: 'even' }), ['b2 even', 'ab4 even']);
  assert.deepEqual(select({ streams: ['b'] }), ['b2 even', 'b3 odd']);
  assert.deepEqual(select({ streamPrefix: 'a' }), ['a1 odd', 'ab4 even']);
  assert.deepEqual(select({ from: 2, to: 4 }), ['b2 even', 'b3 odd']);
  const page = logs.filter('group', { limit: 1, pattern: 'odd' });
  assert.deepEqual(texts(page.events), ['a1 odd']);
  assert.deepEqual(select({ pattern: 'odd', after: page.next }), ['b3 odd']);
});

test('an app cannot write into the future, nor more than a line takes', async () => {
  await using bench = await openBench();
  await using logs = bench.open();
  logs.sink('group', 'stream').write({ at: bench.clock.now() + 1e9, message: 'x'.repeat(300_000) });
  const [event] = logs.read('group', 'stream', { limit: 1 });
  assert.equal(event?.at, bench.clock.now());
  assert.equal(event?.message.length, 262_144);
});

test('events go when their retention is over', async () => {
  await using bench = await openBench();
  await using logs = bench.open();
  const { clock } = bench;
  fill(logs, clock, 2);
  logs.flush();
  logs.setRetention('group', 1);
  await clock.advance(23 * 3_600_000);
  fill(logs, clock, 1);
  assert.equal(logs.read('group', 'stream', { limit: 9 }).length, 3);
  await clock.advance(2 * 3_600_000);
  assert.equal(logs.read('group', 'stream', { limit: 9 }).length, 1);
  assert.equal(logs.groups({ limit: 1 })[0]?.storedBytes, 6);
});

test('a full file loses the oldest events of the group that has the most, and stays below its bound', async () => {
  await using bench = await openBench({ maxBytes: 2_000_000 });
  await using logs = bench.open();
  logs.sink('quiet', 'stream').write({ at: 1, message: 'the oldest' });
  const sink = logs.sink('group', 'stream');
  for (let n = 0; n < 20_000; n++) {
    sink.write({ at: n, message: `${n} ${'x'.repeat(200)}` });
    if (n % 1000 === 0) await bench.clock.advance(200);
  }
  await bench.clock.advance(1000);
  assert.deepEqual(texts(logs.read('quiet', 'stream', { limit: 1 })), ['the oldest']);
  const [first] = logs.read('group', 'stream', { limit: 1, fromHead: true });
  const [last] = logs.read('group', 'stream', { limit: 1 });
  assert.ok(Number(first?.message.split(' ')[0]) > 1000);
  assert.ok(last?.message.startsWith('19999 '));
  assert.ok((logs.groups({ prefix: 'group', limit: 1 })[0]?.storedBytes ?? 0) < 2_000_000);
});

test('followers get what arrives in their groups, and only that', async () => {
  await using bench = await openBench();
  await using logs = bench.open();
  logs.createGroup('group');
  const stop = new AbortController();
  const seen: string[] = [];
  const following = (async () => {
    for await (const events of logs.tail(['group'], { pattern: 'yes', signal: stop.signal })) {
      seen.push(...texts(events));
      if (seen.length === 2) stop.abort();
    }
  })();
  await new Promise(setImmediate);
  logs.sink('other', 'stream').write({ at: 1, message: 'yes, elsewhere' });
  for (const message of ['yes 1', 'no', 'yes 2']) logs.sink('group', 'stream').write({ at: 1, message });
  logs.flush();
  await following;
  assert.deepEqual(seen, ['yes 1', 'yes 2']);
});

test('groups and streams are made once, found or not, and gone with what they held', async () => {
  await using bench = await openBench();
  await using logs = bench.open();
  logs.createGroup('group');
  assert.throws(() => logs.createGroup('group'), { code: 'CONFLICT' });
  logs.createStream('group', 'stream');
  assert.throws(() => logs.createStream('group', 'stream'), { code: 'CONFLICT' });
  assert.throws(() => logs.createStream('other', 'stream'), { code: 'NOT_FOUND', message: /log group does not exist/ });
  logs.put('group', 'stream', [{ at: 1, message: 'here' }]);
  assert.throws(() => logs.put('group', 'other', []), { code: 'NOT_FOUND', message: /log stream does not exist/ });
  const sink = logs.sink('group', 'stream');
  sink.write({ at: 2, message: 'before' });
  logs.deleteGroup('group');
  assert.throws(() => logs.read('group', 'stream', { limit: 1 }), { code: 'NOT_FOUND' });
  sink.write({ at: 3, message: 'after' });
  assert.deepEqual(texts(logs.read('group', 'stream', { limit: 9 })), ['after'], 'what goes on logging begins anew');
});

test('streams are listed by name or by their last event', async () => {
  await using bench = await openBench();
  await using logs = bench.open();
  for (const [stream, at] of [
    ['a', 2],
    ['b', 3],
    ['c', 1],
  ] as const)
    logs.sink('group', stream).write({ at, message: 'x' });
  const names = (query: object) =>
    logs
      .streams('group', { orderBy: 'name', descending: false, offset: 0, limit: 9, ...query })
      .map(({ name }) => name);
  assert.deepEqual(names({}), ['a', 'b', 'c']);
  assert.deepEqual(names({ orderBy: 'lastEvent', descending: true }), ['b', 'a', 'c']);
  assert.deepEqual(names({ offset: 1, limit: 1 }), ['b']);
  assert.deepEqual(names({ prefix: 'b' }), ['b']);
});

test('a burst is written in pieces, none of which holds others up for long', async () => {
  await using bench = await openBench();
  await using logs = bench.open();
  logs.createGroup('group');
  const stop = new AbortController();
  const sizes: number[] = [];
  const following = (async () => {
    for await (const events of logs.tail(['group'], { signal: stop.signal })) sizes.push(events.length);
  })();
  await new Promise(setImmediate);
  for (let turn = 0; turn < 5; turn++) {
    fill(logs, bench.clock, 700);
    await new Promise(setImmediate);
  }
  stop.abort();
  await following;
  assert.deepEqual(sizes, [1000, 1000, 1000]);
});

test('how far a source got is kept with what it wrote, for each source of a stream', async () => {
  await using bench = await openBench();
  {
    await using logs = bench.open();
    const [one, two] = [logs.resumableSink('group', 'stream', 'one'), logs.resumableSink('group', 'stream', 'two')];
    assert.equal(one.next(), undefined);
    for (const n of [4, 5, 6]) one.write({ at: 1, message: `one ${n}` }, n + 1);
    two.write({ at: 1, message: 'two 0' }, 1);
    assert.deepEqual([one.next(), two.next()], [7, 1]);
  }
  await using logs = bench.open();
  assert.equal(logs.resumableSink('group', 'stream', 'one').next(), 7);
  logs.deleteStream('group', 'stream');
  assert.equal(logs.resumableSink('group', 'stream', 'one').next(), undefined);
});

test('a file of the generation before is taken over with what it holds', async () => {
  await using bench = await openBench();
  {
    await using logs = bench.open();
    fill(logs, bench.clock, 1);
  }
  const old = new DatabaseSync(bench.file);
  old.exec('DROP TABLE sources; PRAGMA user_version = 1');
  old.close();
  await using logs = bench.open();
  assert.deepEqual(texts(logs.read('group', 'stream', { limit: 1 })), ['line 0']);
  assert.equal(logs.resumableSink('group', 'stream', 'one').next(), undefined);
});

test('a file that cannot be read is put aside', async () => {
  await using bench = await openBench();
  await writeFile(bench.file, 'not a database at all, but long enough to be taken for one '.repeat(100));
  await using logs = bench.open();
  fill(logs, bench.clock, 1);
  assert.equal(logs.read('group', 'stream', { limit: 1 }).length, 1);
  assert.ok(existsSync(`${bench.file}.unreadable`));
});
