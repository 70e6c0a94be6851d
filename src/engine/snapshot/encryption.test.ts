import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { Keyring, readKeyFile } from './encryption.ts';

test('a wrapped key opens for what it was made for, under the key it was wrapped with, and whole', () => {
  const ring = new Keyring(randomBytes(32));
  const { key, wrapped } = ring.make('machine vm-1');
  const number = randomBytes(16);
  const opened = ring.open(wrapped, 'machine vm-1');
  assert.ok(opened.forFile('memory', number).equals(key.forFile('memory', number)));
  assert.throws(() => ring.open(wrapped, 'machine vm-2'), { kind: 'corrupt' });
  const other = new Keyring(randomBytes(32));
  assert.throws(() => other.open(wrapped, 'machine vm-1'), {
    kind: 'unsupported',
    message: new RegExp(`under the key ${ring.keyId}: .*--encryption-key-file`),
  });
  const damaged = Buffer.from(wrapped.sealed, 'base64');
  damaged[20] = (damaged[20] ?? 0) ^ 1;
  assert.throws(() => ring.open({ ...wrapped, sealed: damaged.toString('base64') }, 'machine vm-1'), {
    kind: 'corrupt',
  });
  assert.throws(() => ring.open({ ...wrapped, sealed: '' }, 'machine vm-1'), { kind: 'corrupt' });
});

test('each file has a key of its own', () => {
  const { key } = new Keyring(randomBytes(32)).make('x');
  const number = randomBytes(16);
  const keys = [
    key.forFile('memory', number),
    key.forFile('state', number),
    key.forFile('memory', randomBytes(16)),
    new Keyring(randomBytes(32)).make('x').key.forFile('memory', number),
  ];
  assert.equal(new Set(keys.map((bytes) => bytes.toString('hex'))).size, keys.length);
});

test('a sealed text is read with its key and for its purpose alone', () => {
  const { key } = new Keyring(randomBytes(32)).make('x');
  const sealed = key.sealText('the secret', 'link');
  assert.ok(!Buffer.from(sealed, 'base64').includes('secret'));
  assert.equal(key.openText(sealed, 'link'), 'the secret');
  assert.equal(key.openText(sealed, 'other'), undefined);
  assert.equal(key.openText('', 'link'), undefined);
});

test('the key file holds 32 bytes in base64; anything else is refused without repeating it', () => {
  const dir = mkdtempSync(path.join(tmpdir(), 'rk-key-'));
  try {
    const file = path.join(dir, 'key');
    const key = randomBytes(32);
    writeFileSync(file, `${key.toString('base64')}\n`);
    assert.equal(readKeyFile(file).keyId, new Keyring(key).keyId);
    assert.match(readKeyFile(file).keyId, /^[0-9a-f]{16}$/);
    for (const text of ['', 'hunter2', randomBytes(31).toString('base64'), key.toString('hex')]) {
      writeFileSync(file, text);
      assert.throws(
        () => readKeyFile(file),
        (error: Error) =>
          /openssl rand -base64 32/.test(error.message) && (text === '' || !error.message.includes(text)),
      );
    }
    assert.throws(() => readKeyFile(path.join(dir, 'none')), { code: 'INVALID', message: /cannot be read/ });
  } finally {
    rmSync(dir, { recursive: true });
  }
});
