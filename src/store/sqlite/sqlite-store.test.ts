import assert from 'node:assert/strict';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { MIGRATIONS } from '../migrations/index.ts';
import { type StoreFixture, storeContract } from '../store.contract.ts';
import { RECORD_KINDS } from '../store.ts';
import { openStore } from './sqlite-store.ts';

async function fixture(): Promise<StoreFixture & { path: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'rk-store-'));
  const path = join(folder, 'store.sqlite');
  return {
    path,
    open: () => openStore(path),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  };
}

storeContract('sqlite', fixture);

test('a second server on the same file is refused with what to do', async () => {
  await using files = await fixture();
  await using _store = await files.open();
  await assert.rejects(files.open(), { name: 'StoreError', message: /in use by another server/ });
});

test('a layout newer than this program is refused', async () => {
  await using files = await fixture();
  const db = new DatabaseSync(files.path);
  db.exec('PRAGMA user_version=999');
  db.close();
  await assert.rejects(files.open(), { name: 'StoreError', message: /layout 999.*newer Rekindle/ });
});

test('a file that is no database is refused', async () => {
  await using files = await fixture();
  const { writeFile } = await import('node:fs/promises');
  await writeFile(files.path, 'not a database, whatever its name says; long enough to be looked at as a header page');
  await assert.rejects(files.open(), { name: 'StoreError', message: /cannot be opened/ });
});

test('the file can be read by its owner only, because it holds secrets', async () => {
  await using files = await fixture();
  await using _store = await files.open();
  assert.equal((await stat(files.path)).mode & 0o777, 0o600);
});

test('no list, state scan or timer query reads a whole table', async () => {
  await using files = await fixture();
  await (await files.open())[Symbol.asyncDispose]();
  const db = new DatabaseSync(files.path);
  const plan = (sql: string) =>
    db
      .prepare(`EXPLAIN QUERY PLAN ${sql}`)
      .all()
      .map((row) => String(row.detail))
      .join('; ');
  for (const kind of RECORD_KINDS) {
    for (const rest of [
      'ORDER BY created_at DESC, id DESC LIMIT 5',
      'WHERE (created_at, id) < (1, 2) ORDER BY created_at DESC, id DESC LIMIT 5',
      `WHERE "group" = 'a' AND (created_at, id) < (1, 2) ORDER BY created_at DESC, id DESC LIMIT 5`,
      `WHERE "group" = 'a' AND subgroup = 'b' AND (created_at, id) < (1, 2) ORDER BY created_at DESC, id DESC LIMIT 5`,
      `WHERE state = 'a' AND id > 'b' ORDER BY id LIMIT 5`,
      'WHERE due_at <= 5 ORDER BY due_at, id LIMIT 5',
    ]) {
      const steps = plan(`SELECT * FROM ${kind} ${rest}`);
      assert.match(steps, /USING INDEX/, rest);
      assert.doesNotMatch(steps, /TEMP B-TREE/, rest);
    }
    assert.match(plan(`SELECT min(due_at) FROM ${kind} WHERE due_at IS NOT NULL`), /USING COVERING INDEX/);
  }
  for (const kind of ['microvms', 'versions']) {
    const use = plan(`SELECT 1 FROM ${kind} WHERE "group" = 'a' AND state IN ('b', 'c') AND subgroup = 'd' LIMIT 1`);
    assert.match(use, new RegExp(`USING COVERING INDEX ${kind}_by_use`));
    assert.match(plan(`SELECT 1 FROM ${kind} WHERE state IN ('b', 'c') LIMIT 1`), /USING (COVERING )?INDEX/);
  }
  assert.match(plan("DELETE FROM claims WHERE resource = 'a'"), /USING (COVERING )?INDEX/);
  db.close();
});

test('microVMs of the third layout count their life from their start and mean their first machine', async () => {
  await using files = await fixture();
  const db = new DatabaseSync(files.path);
  for (const step of MIGRATIONS.slice(0, 3).flat()) db.exec(step);
  const insert = `INSERT INTO microvms VALUES ('m', 1, 'SUSPENDED', 'g', '1', 5, 9, '{"state":"SUSPENDED","startedAt":5}')`;
  db.exec(`${insert}; PRAGMA user_version=3`);
  db.close();
  await using store = await files.open();
  const row = await store.records('microvms').get('m');
  assert.deepEqual(row?.body, { state: 'SUSPENDED', startedAt: 5, epoch: 1, bornAt: 5 });
});
