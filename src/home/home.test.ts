import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { DomainError, randomIds } from '../lib/index.ts';
import { ensureAccessKey, isLocked, lockHome, makeHome, readServerRecord, writeServerRecord } from './index.ts';

function folder(): Disposable & { dir: string } {
  const root = mkdtempSync(join(tmpdir(), 'rekindle-home-'));
  const dir = join(root, 'state');
  makeHome(dir);
  return { dir, [Symbol.dispose]: () => rmSync(root, { recursive: true }) };
}

test('one server per state folder: the second is refused with the pid of the first, and may come once that is gone', () => {
  using home = folder();
  const first = lockHome(home.dir, () => undefined);
  assert.equal(isLocked(home.dir), true);
  assert.throws(
    () => lockHome(home.dir, () => 4711),
    (error: unknown) => error instanceof DomainError && /Process 4711 already serves .* --state/.test(error.message),
  );
  first[Symbol.dispose]();
  assert.equal(isLocked(home.dir), false);
  lockHome(home.dir, () => undefined)[Symbol.dispose]();
});

test('the access key is made once, looks like one of AWS, and only its owner can read it', () => {
  using home = folder();
  const key = ensureAccessKey(home.dir, randomIds);
  assert.match(key.accessKeyId, /^AKIA[A-Z2-7]{16}$/);
  assert.equal(key.secretAccessKey.length, 40);
  assert.deepEqual(ensureAccessKey(home.dir, randomIds), key);
  assert.equal(statSync(join(home.dir, 'credentials.json')).mode & 0o777, 0o600);
  assert.equal(statSync(home.dir).mode & 0o777, 0o700);
});

test('the server record comes back as written; a damaged or foreign one is refused with what to do', () => {
  using home = folder();
  assert.equal(readServerRecord(home.dir), undefined);
  const record = {
    generation: 1,
    pid: 1,
    startedAt: '2026-01-01T00:00:00Z',
    apiPort: 2,
    s3Port: 3,
    region: 'us-east-1',
    account: '000000000000',
  } as const;
  writeServerRecord(home.dir, record);
  assert.deepEqual(readServerRecord(home.dir), record);
  writeFileSync(join(home.dir, 'server.json'), '{"generation":1}');
  assert.throws(() => readServerRecord(home.dir), /damaged. Move it away/);
  writeFileSync(join(home.dir, 'server.json'), '{"generation":2}');
  assert.throws(() => readServerRecord(home.dir), /another version of Rekindle/);
});
