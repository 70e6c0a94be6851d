import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { silentLogger, TestClock } from '../lib/index.ts';
import { DueClock } from './due-clock.ts';
import { openStore } from './sqlite/sqlite-store.ts';
import type { Records, Row, Store } from './store.ts';

const MANY = 100_000;
const DAY_MS = 86_400_000;

interface Asked {
  queries: number;
  rows: number;
}

/** The same records, with what is asked of them counted. */
function counted(records: Records<object>, asked: Asked): Pick<Records<object>, 'due' | 'nextDueAt'> {
  return {
    due: async (at, limit) => {
      const rows = await records.due(at, limit);
      asked.queries += 1;
      asked.rows += rows.length;
      return rows;
    },
    nextDueAt: () => {
      asked.queries += 1;
      return records.nextDueAt();
    },
  };
}

async function storeWith(count: number, dueAt: (index: number) => number): Promise<Store & { dir: string }> {
  const dir = await mkdtemp(join(tmpdir(), 'rk-due-'));
  const store = await openStore(join(dir, 'store.sqlite'));
  const records = store.records<object>('microvms');
  for (let from = 0; from < count; from += 10_000) {
    const rows = Array.from({ length: Math.min(10_000, count - from) }, (_, i) => rowOf(from + i, dueAt(from + i)));
    await store.write(rows.map((row) => records.insert(row)));
  }
  return Object.assign(store, { dir });
}

function rowOf(index: number, dueAt: number): Omit<Row<object>, 'revision'> {
  return { id: `m-${index}`, state: 'SUSPENDED', group: 'g', subgroup: '1', createdAt: index, dueAt, body: {} };
}

test('100,000 records cost nothing until one is due, and then only the rows that are', async () => {
  const clock = new TestClock();
  const start = clock.now();
  const store = await storeWith(MANY, (index) => start + DAY_MS + index);
  const records = store.records<object>('microvms');
  const asked: Asked = { queries: 0, rows: 0 };
  const handled: string[] = [];
  const due = new DueClock({
    clock,
    log: silentLogger,
    source: counted(records, asked),
    onDue: async (row) => {
      handled.push(row.id);
      await store.write([records.save({ ...row, dueAt: null })]);
    },
  });
  try {
    await due.start();
    assert.deepEqual(asked, { queries: 1, rows: 0 });
    await clock.advance(DAY_MS - 1);
    assert.deepEqual(asked, { queries: 1, rows: 0 });
    for (let i = 0; i < 3; i++) await clock.advance(1);
    assert.deepEqual(handled, ['m-0', 'm-1', 'm-2']);
    assert.deepEqual(asked, { queries: 7, rows: 3 });
  } finally {
    due[Symbol.dispose]();
    await store[Symbol.asyncDispose]();
    await rm(store.dir, { recursive: true });
  }
});

test('a record that cannot be handled holds up no other and is tried again', async () => {
  const clock = new TestClock();
  const start = clock.now();
  const store = await storeWith(3, () => start + 1000);
  const records = store.records<object>('microvms');
  let broken = true;
  const due = new DueClock({
    clock,
    log: silentLogger,
    source: records,
    onDue: async (row) => {
      if (row.id === 'm-0' && broken) throw new Error('no space');
      await store.write([records.save({ ...row, dueAt: null })]);
    },
  });
  try {
    await due.start();
    await clock.advance(1000);
    assert.deepEqual(
      (await records.due(clock.now(), 10)).map((row) => row.id),
      ['m-0'],
    );
    broken = false;
    await clock.advance(1000);
    assert.deepEqual(await records.due(clock.now(), 10), []);
  } finally {
    due[Symbol.dispose]();
    await store[Symbol.asyncDispose]();
    await rm(store.dir, { recursive: true });
  }
});

test('what came due while the host slept is seen within a minute', async () => {
  const clock = new TestClock();
  const store = await storeWith(1, () => clock.now() + 3_600_000);
  const handled: string[] = [];
  const due = new DueClock({
    clock,
    log: silentLogger,
    source: store.records<object>('microvms'),
    onDue: async (row) => void handled.push(row.id),
  });
  try {
    await due.start();
    await clock.advance(1000);
    clock.sleepHost(8 * 3_600_000);
    await clock.advance(60_000);
    assert.deepEqual(handled.slice(0, 1), ['m-0']);
  } finally {
    due[Symbol.dispose]();
    await store[Symbol.asyncDispose]();
    await rm(store.dir, { recursive: true });
  }
});
