/** Small files as encrypted chunk files and back; the plain ones are in memory-backed folders. */
import { open, readFile } from 'node:fs/promises';
import { cipherGuard, createChunkFile, readChunkFile } from './chunk-file.ts';

const CHUNK_BYTES = 1024 * 1024;

/** Synced when it resolves. @param key of this file alone */
export async function encryptFile(plain: string, to: string, key: Buffer): Promise<void> {
  const bytes = await readFile(plain);
  await using writer = await createChunkFile(to, cipherGuard(key));
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) await writer.write(bytes.subarray(at, at + CHUNK_BYTES));
  await writer.finish();
}

/** @throws MachineError `corrupt` saying that `what` is damaged */
export async function decryptFile(from: string, plain: string, key: Buffer, what: string): Promise<void> {
  await using file = await open(plain, 'wx', 0o600);
  for await (const chunk of readChunkFile(from, cipherGuard(key), what)) await file.writeFile(chunk);
}
