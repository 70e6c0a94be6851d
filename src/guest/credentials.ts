/**
 * Seals what is pushed to the guest's metadata service for a key the agent made for this one push, so that whoever reads the
 * guest's memory later finds a message and no key to it (spec/agent-protocol.md, section 4).
 */
import {
  createCipheriv,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
} from 'node:crypto';

const KEY_BYTES = 32;
const NONCE = Buffer.alloc(12);
const INFO = 'rekindle credentials 1';
/** X.509's frame around a bare X25519 key. */
const SPKI_HEAD = Buffer.from('302a300506032b656e032100', 'hex');

export interface Sealed {
  /** Ours, for the agent; 32 bytes. */
  readonly key: Buffer;
  readonly sealed: Buffer;
}

/** @throws Error when `guestKey` is no X25519 key */
export function sealFor(guestKey: Buffer, document: Buffer): Sealed {
  if (guestKey.length !== KEY_BYTES) throw new Error(`the agent's key has ${guestKey.length} bytes`);
  const ours = generateKeyPairSync('x25519');
  const key = rawKey(ours.publicKey);
  const theirs = createPublicKey({ key: Buffer.concat([SPKI_HEAD, guestKey]), format: 'der', type: 'spki' });
  // Refuses keys of small order, with which the secret would be known to everybody.
  const shared = diffieHellman({ privateKey: ours.privateKey, publicKey: theirs });
  const secret = Buffer.from(hkdfSync('sha256', shared, Buffer.concat([guestKey, key]), INFO, KEY_BYTES));
  // The key is used once, so its nonce need not vary.
  const cipher = createCipheriv('aes-256-gcm', secret, NONCE);
  const sealed = Buffer.concat([cipher.update(document), cipher.final(), cipher.getAuthTag()]);
  shared.fill(0);
  secret.fill(0);
  return { key, sealed };
}

function rawKey(key: KeyObject): Buffer {
  return key.export({ format: 'der', type: 'spki' }).subarray(SPKI_HEAD.length);
}
