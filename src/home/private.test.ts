import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { makePrivate } from './index.ts';

interface Folder extends Disposable {
  readonly dir: string;
  mode(name: string): number;
  put(name: string, mode: number): void;
}

function folder(): Folder {
  const dir = mkdtempSync(join(tmpdir(), 'rk-private-'));
  const put = (name: string, mode: number) => {
    mkdirSync(join(dir, name, '..'), { recursive: true, mode: 0o700 });
    writeFileSync(join(dir, name), 'secret');
    chmodSync(join(dir, name), mode);
  };
  const mode = (name: string) => statSync(join(dir, name)).mode & 0o777;
  return { dir, mode, put, [Symbol.dispose]: () => rmSync(dir, { recursive: true }) };
}

test('a private state folder is left as it is', () => {
  using at = folder();
  at.put('credentials.json', 0o600);
  at.put('tls/ca.key', 0o400);
  assert.deepEqual(makePrivate(at.dir), []);
  assert.equal(at.mode('tls/ca.key'), 0o400);
});

test('what is open to others is closed and told', () => {
  using at = folder();
  chmodSync(at.dir, 0o755);
  at.put('credentials.json', 0o644);
  at.put('tls/ca.key', 0o640);
  at.put('store.sqlite', 0o666);
  const remarks = makePrivate(at.dir);
  assert.match(remarks[0] ?? '', /may have read its keys/);
  assert.equal(remarks[1], 'closed with it: credentials.json, store.sqlite, tls/ca.key');
  assert.deepEqual([at.mode(''), at.mode('credentials.json'), at.mode('tls/ca.key')], [0o700, 0o600, 0o600]);
  assert.deepEqual(makePrivate(at.dir), []);
});

test('in a closed folder open files are closed without a word', () => {
  using at = folder();
  at.put('store.sqlite', 0o644);
  assert.deepEqual(makePrivate(at.dir), []);
  assert.equal(at.mode('store.sqlite'), 0o600);
});

test("another user's folder is refused with what to do", () => {
  using at = folder();
  assert.throws(() => makePrivate(at.dir, 4711), { code: 'DENIED', message: /runs as 4711.*chown.*--state/ });
});

test('where a link leads is not touched', () => {
  using at = folder();
  using other = folder();
  other.put('shared', 0o644);
  symlinkSync(join(other.dir, 'shared'), join(at.dir, 'credentials.json'));
  assert.deepEqual(makePrivate(at.dir), []);
  assert.equal(other.mode('shared'), 0o644);
});
