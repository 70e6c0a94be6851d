/**
 * A folder that is in memory alone, for what an encrypting server must not write to a disk: device state on its way, secrets
 * for VMMs, decrypted RAM. It outlives the server, as its machines do, and ends with the host.
 */
import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync, readFileSync, statfsSync } from 'node:fs';
import path from 'node:path';
import { DomainError } from '../lib/index.ts';

const SHARED_MEMORY = '/dev/shm';
/** Source: linux/magic.h. */
const TMPFS_MAGIC = 0x01021994;

/** One per state folder and user. @throws DomainError `INVALID` when this host has no such place, or somebody else took it */
export function memoryFolder(stateDir: string, root = SHARED_MEMORY): string {
  const isMemory = lstatSync(root, { throwIfNoEntry: false }) !== undefined && statfsSync(root).type === TMPFS_MAGIC;
  if (!isMemory) {
    throw new DomainError('INVALID', `Encryption needs ${root} to be a tmpfs: mount one there, or leave out the key.`);
  }
  const uid = process.geteuid?.() ?? 0;
  const digest = createHash('sha256').update(path.resolve(stateDir)).digest('hex').slice(0, 16);
  const folder = path.join(root, `rekindle-${uid}-${digest}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const found = lstatSync(folder);
  if (!found.isDirectory() || found.uid !== uid || (found.mode & 0o077) !== 0) {
    throw new DomainError('INVALID', `${folder} is not a folder of this user's alone: remove it and start again.`);
  }
  return folder;
}

/** Whether what is in memory may reach a disk after all. */
export function hasSwap(): boolean {
  return readFileSync('/proc/swaps', 'utf8').trim().split('\n').length > 1;
}
