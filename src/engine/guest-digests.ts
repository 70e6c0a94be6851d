/** Digests of what guests boot from, for who wants to know later what a snapshot was made by. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import type { Runtime } from './runtime.ts';

/** Set-up never changes a file under its name. */
const known = new Map<string, Promise<string>>();

/** Of the guest's kernel and of its initramfs, which holds the agent: SHA-256, in hexadecimal. */
export async function guestDigests({ guest }: Runtime): Promise<{ kernel: string; initramfs: string }> {
  const [kernel, initramfs] = await Promise.all([digestOf(guest.kernel), digestOf(guest.initramfs)]);
  return { kernel, initramfs };
}

function digestOf(file: string): Promise<string> {
  const found = known.get(file) ?? read(file);
  known.set(file, found);
  found.catch(() => known.delete(file));
  return found;
}

async function read(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
