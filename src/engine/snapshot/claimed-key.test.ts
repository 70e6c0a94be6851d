import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { memoryFolder } from '../memory-folder.ts';
import { claimKey } from './claimed-key.ts';
import { Keyring } from './encryption.ts';

interface Folder extends Disposable {
  readonly dir: string;
}

function folder(): Folder {
  const dir = mkdtempSync(path.join(tmpdir(), 'rk-claim-'));
  return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true }) };
}

test('a state folder keeps to the key it was first given', () => {
  using at = folder();
  claimKey(at.dir, undefined);
  const keyring = new Keyring(randomBytes(32));
  claimKey(at.dir, keyring);
  claimKey(at.dir, keyring);
  assert.equal(statSync(path.join(at.dir, 'encryption.json')).mode & 0o777, 0o600);
  const other = new Keyring(randomBytes(32));
  assert.throws(() => claimKey(at.dir, undefined), { message: new RegExp(`${keyring.keyId}.*--encryption-key-file`) });
  assert.throws(() => claimKey(at.dir, other), { message: new RegExp(`${keyring.keyId}.*holds ${other.keyId}`) });
  writeFileSync(path.join(at.dir, 'encryption.json'), '{}');
  assert.throws(() => claimKey(at.dir, keyring), { code: 'INVALID', message: /damaged/ });
});

test('a key is not taken up while microVMs run without it', () => {
  using at = folder();
  mkdirSync(path.join(at.dir, 'run/vm-1'), { recursive: true });
  assert.throws(() => claimKey(at.dir, new Keyring(randomBytes(32))), { message: /left running/ });
  rmSync(path.join(at.dir, 'run/vm-1'), { recursive: true });
  claimKey(at.dir, new Keyring(randomBytes(32)));
});

test('the folder in memory is private, and no other place will do', () => {
  using at = folder();
  const dir = memoryFolder(at.dir);
  try {
    assert.equal(statSync(dir).mode & 0o777, 0o700);
    assert.equal(memoryFolder(at.dir), dir);
    mkdirSync(path.join(at.dir, 'other'));
    assert.notEqual(path.dirname(dir), at.dir);
    assert.throws(() => memoryFolder(at.dir, path.join(at.dir, 'nowhere')), { code: 'INVALID', message: /tmpfs/ });
  } finally {
    rmSync(dir, { recursive: true });
  }
});
