import assert from 'node:assert/strict';
import { createDecipheriv, createPublicKey, diffieHellman, generateKeyPairSync, hkdfSync } from 'node:crypto';
import { test } from 'node:test';
import { sealFor } from './credentials.ts';

const HEAD = Buffer.from('302a300506032b656e032100', 'hex');

/** What the agent does with a push, by the words of spec/agent-protocol.md. */
function agent() {
  const pair = generateKeyPairSync('x25519');
  const key = pair.publicKey.export({ format: 'der', type: 'spki' }).subarray(-32);
  const open = (hostKey: Buffer, sealed: Buffer): Buffer => {
    const publicKey = createPublicKey({ key: Buffer.concat([HEAD, hostKey]), format: 'der', type: 'spki' });
    const shared = diffieHellman({ privateKey: pair.privateKey, publicKey });
    const secret = Buffer.from(hkdfSync('sha256', shared, Buffer.concat([key, hostKey]), 'rekindle credentials 1', 32));
    const decipher = createDecipheriv('aes-256-gcm', secret, Buffer.alloc(12));
    decipher.setAuthTag(sealed.subarray(-16));
    return Buffer.concat([decipher.update(sealed.subarray(0, -16)), decipher.final()]);
  };
  return { key, open };
}

test('only the agent that made the key can open what was sealed for it', () => {
  const [one, other] = [agent(), agent()];
  const document = Buffer.from('{"SecretAccessKey":"secret"}');
  const { key, sealed } = sealFor(one.key, document);
  assert.ok(!sealed.includes('secret'));
  assert.deepEqual(one.open(key, sealed), document);
  assert.throws(() => other.open(key, sealed));
});

test('each push is sealed with a key of its own', () => {
  const { key } = agent();
  const document = Buffer.from('the same');
  const [first, second] = [sealFor(key, document), sealFor(key, document)];
  assert.ok(!first.key.equals(second.key) && !first.sealed.equals(second.sealed));
});

test('a key that is none is refused', () => {
  for (const key of [Buffer.alloc(0), Buffer.alloc(31, 1), Buffer.alloc(33, 1), Buffer.alloc(32)]) {
    assert.throws(() => sealFor(key, Buffer.from('x')), `${key.length} bytes`);
  }
});
