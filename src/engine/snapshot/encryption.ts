/**
 * Keys for what lies on disk. Each machine and each sealed snapshot has a random key of its own, kept beside its files under
 * the operator's key; each file's key is derived from that and from a number that is new for every file written.
 *
 * Invariant: a key never encrypts two files. Whoever deletes the wrapped key has erased all it was for.
 */
import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { DomainError, MachineError, messageOf } from '../../lib/index.ts';

const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const CIPHER = 'aes-256-gcm';

/** Base64. */
export interface WrappedKey {
  /** Which of the operator's keys opens it. */
  readonly keyId: string;
  readonly sealed: string;
}

/** The operator's key. */
export class Keyring {
  readonly keyId: string;
  readonly #key: Buffer;

  constructor(key: Buffer) {
    if (key.length !== KEY_BYTES) throw new RangeError('a key of another length');
    this.#key = key;
    this.keyId = createHash('sha256').update('rekindle key id\0').update(key).digest('hex').slice(0, 16);
  }

  /** A new key. @param owner what it is for: wrapped for one thing it does not open as another's */
  make(owner: string): { key: DataKey; wrapped: WrappedKey } {
    const key = randomBytes(KEY_BYTES);
    return {
      key: new DataKey(key),
      wrapped: { keyId: this.keyId, sealed: seal(this.#key, key, owner).toString('base64') },
    };
  }

  /** @throws MachineError `unsupported` when it was wrapped under another key, `corrupt` when it is damaged */
  open(wrapped: WrappedKey, owner: string): DataKey {
    if (wrapped.keyId !== this.keyId) throw otherKey(wrapped.keyId);
    const key = unseal(this.#key, Buffer.from(wrapped.sealed, 'base64'), owner);
    if (key?.length !== KEY_BYTES) throw new MachineError('corrupt', 'an encryption key on disk is damaged');
    return new DataKey(key);
  }
}

/** The key of one machine or sealed snapshot. */
export class DataKey {
  readonly #key: Buffer;

  constructor(key: Buffer) {
    this.#key = key;
  }

  /** The key of one file. @param purpose its name @param number random, kept beside it, never used twice */
  forFile(purpose: string, number: Buffer): Buffer {
    return Buffer.from(hkdfSync('sha256', this.#key, number, `rekindle ${purpose}`, KEY_BYTES));
  }

  sealText(text: string, purpose: string): string {
    return seal(this.forFile(purpose, Buffer.alloc(0)), Buffer.from(text), purpose).toString('base64');
  }

  /** Undefined when it is not what was sealed. */
  openText(sealed: string, purpose: string): string | undefined {
    return unseal(this.forFile(purpose, Buffer.alloc(0)), Buffer.from(sealed, 'base64'), purpose)?.toString();
  }
}

/** Without the key that was used nothing of it can be read: it is none the less there. */
export function otherKey(keyId: string): MachineError {
  return new MachineError(
    'unsupported',
    `it is encrypted under the key ${keyId}: start the server with that key in --encryption-key-file`,
  );
}

/** @throws DomainError `INVALID` saying what the file must hold; the content is never repeated */
export function readKeyFile(file: string): Keyring {
  let text: string;
  try {
    text = readFileSync(file, 'utf8').trim();
  } catch (error) {
    throw new DomainError('INVALID', `The encryption key file cannot be read: ${messageOf(error)}`, { cause: error });
  }
  const key = /^[A-Za-z0-9+/]{43}=$/.test(text) ? Buffer.from(text, 'base64') : Buffer.alloc(0);
  if (key.length !== KEY_BYTES) {
    throw new DomainError(
      'INVALID',
      'The encryption key file must hold 32 random bytes in base64, as `openssl rand -base64 32` prints them.',
    );
  }
  return new Keyring(key);
}

/** Nonces are random: such keys encrypt a handful of texts in their life. */
function seal(key: Buffer, plain: Buffer, context: string): Buffer {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES });
  cipher.setAAD(Buffer.from(context));
  return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

function unseal(key: Buffer, sealed: Buffer, context: string): Buffer | undefined {
  if (sealed.length < NONCE_BYTES + TAG_BYTES) return undefined;
  const decipher = createDecipheriv(CIPHER, key, sealed.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES });
  decipher.setAAD(Buffer.from(context));
  decipher.setAuthTag(sealed.subarray(-TAG_BYTES));
  const plain = decipher.update(sealed.subarray(NONCE_BYTES, -TAG_BYTES));
  try {
    return Buffer.concat([plain, decipher.final()]);
  } catch {
    return undefined;
  }
}
