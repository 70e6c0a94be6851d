/**
 * Writes the header of a LUKS 1 volume, as QEMU reads it: cipher aes-xts-plain64, one key slot.
 *
 * The passphrase is a random key, so nothing is to be gained by making it slow to try: the least number of rounds that counts
 * as LUKS. That is why the header is made here: QEMU's own tools measure the host for a second to make it slow.
 * Source: LUKS On-Disk Format Specification 1.2.3.
 */
import { createCipheriv, hash, pbkdf2Sync, randomBytes } from 'node:crypto';

const SECTOR_BYTES = 512;
const KEY_BYTES = 64;
const STRIPES = 4000;
const SLOTS = 8;
const ROUNDS = 1000;
const DIGEST_BYTES = 20;
const SALT_BYTES = 32;
const HASH_BYTES = 32;
const SLOT_ENABLED = 0x00ac71f3;
const SLOT_DISABLED = 0x0000dead;
const FIRST_SLOT_SECTOR = 8;
/** A slot's material in whole 4 KiB. */
const SLOT_SECTORS = Math.ceil((KEY_BYTES * STRIPES) / 4096) * 8;
const PAYLOAD_SECTOR = FIRST_SLOT_SECTOR + SLOTS * SLOT_SECTORS;

/** Where the data of a volume begins. Only the first part of that is ever written. */
export const LUKS_HEADER_BYTES = PAYLOAD_SECTOR * SECTOR_BYTES;

/** What is to be written at the volume's start. @param passphrase what QEMU is given as its secret */
export function luksHeader(passphrase: string, uuid: string): Buffer {
  const master = randomBytes(KEY_BYTES);
  const header = Buffer.alloc((FIRST_SLOT_SECTOR + SLOT_SECTORS) * SECTOR_BYTES);
  header.write('LUKS\xba\xbe', 0, 'latin1');
  header.writeUInt16BE(1, 6);
  header.write('aes', 8);
  header.write('xts-plain64', 40);
  header.write('sha256', 72);
  header.writeUInt32BE(PAYLOAD_SECTOR, 104);
  header.writeUInt32BE(KEY_BYTES, 108);
  const masterSalt = randomBytes(SALT_BYTES);
  pbkdf2Sync(master, masterSalt, ROUNDS, DIGEST_BYTES, 'sha256').copy(header, 112);
  masterSalt.copy(header, 132);
  header.writeUInt32BE(ROUNDS, 164);
  header.write(uuid.slice(0, 36), 168);
  const slotSalt = randomBytes(SALT_BYTES);
  for (let slot = 0; slot < SLOTS; slot++) {
    const at = 208 + slot * 48;
    header.writeUInt32BE(slot === 0 ? SLOT_ENABLED : SLOT_DISABLED, at);
    if (slot === 0) {
      header.writeUInt32BE(ROUNDS, at + 4);
      slotSalt.copy(header, at + 8);
    }
    header.writeUInt32BE(FIRST_SLOT_SECTOR + slot * SLOT_SECTORS, at + 40);
    header.writeUInt32BE(STRIPES, at + 44);
  }
  const slotKey = pbkdf2Sync(passphrase, slotSalt, ROUNDS, KEY_BYTES, 'sha256');
  encryptSectors(slotKey, split(master)).copy(header, FIRST_SLOT_SECTOR * SECTOR_BYTES);
  return header;
}

/**
 * Spreads the key over stripes all of which are needed to have it back. That is for media that do not let go of a sector; here
 * the wrapped passphrase is what is deleted. So all headers of a process share all stripes but the last, which is most of the work.
 */
function split(key: Buffer): Buffer {
  shared ??= sharedStripes();
  const stripes = Buffer.alloc(KEY_BYTES * STRIPES);
  shared.stripes.copy(stripes);
  xor(shared.chain, key).copy(stripes, (STRIPES - 1) * KEY_BYTES);
  return stripes;
}

let shared: { stripes: Buffer; chain: Buffer } | undefined;

function sharedStripes(): { stripes: Buffer; chain: Buffer } {
  const stripes = randomBytes(KEY_BYTES * (STRIPES - 1));
  let chain: Buffer = Buffer.alloc(KEY_BYTES);
  for (let at = 0; at < stripes.length; at += KEY_BYTES) {
    chain = diffuse(xor(chain, stripes.subarray(at, at + KEY_BYTES)));
  }
  return { stripes, chain };
}

function diffuse(block: Buffer): Buffer {
  const numbered = Buffer.alloc(4 + HASH_BYTES);
  const result = Buffer.alloc(KEY_BYTES);
  for (let i = 0; i * HASH_BYTES < KEY_BYTES; i++) {
    numbered.writeUInt32BE(i);
    block.copy(numbered, 4, i * HASH_BYTES, (i + 1) * HASH_BYTES);
    hash('sha256', numbered, 'buffer').copy(result, i * HASH_BYTES);
  }
  return result;
}

function xor(a: Buffer, b: Buffer): Buffer {
  const result = Buffer.allocUnsafe(a.length);
  for (let i = 0; i < a.length; i++) result[i] = (a[i] ?? 0) ^ (b[i] ?? 0);
  return result;
}

function encryptSectors(key: Buffer, plain: Buffer): Buffer {
  const parts: Buffer[] = [];
  const tweak = Buffer.alloc(16);
  for (let at = 0; at < plain.length; at += SECTOR_BYTES) {
    tweak.writeUInt32LE(at / SECTOR_BYTES);
    parts.push(createCipheriv('aes-256-xts', key, tweak).update(plain.subarray(at, at + SECTOR_BYTES)));
  }
  return Buffer.concat(parts);
}
