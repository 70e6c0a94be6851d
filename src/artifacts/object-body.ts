/** The bytes of an object on their way to disk, and what a key may be. */
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { ArtifactError } from './errors.ts';

/** S3's limit of one PutObject, and of one part. */
export const MAX_PIECE_BYTES = 5 * 1024 ** 3;
const MAX_KEY_BYTES = 1024;

/** @throws ArtifactError `key-invalid` */
export function checkKey(key: string): void {
  const bytes = Buffer.byteLength(key);
  if (bytes === 0 || bytes > MAX_KEY_BYTES) {
    throw new ArtifactError('key-invalid', `A key has 1 to ${MAX_KEY_BYTES} bytes; this one has ${bytes}.`);
  }
}

/** Writes a new file durably, never holding more than a chunk of it. @throws ArtifactError `object-too-large` */
export async function writeBody(
  path: string,
  body: AsyncIterable<Buffer>,
  maxBytes: number,
): Promise<{ size: number; md5: string }> {
  const md5 = createHash('md5');
  let size = 0;
  await using handle = await open(path, 'wx');
  for await (const chunk of body) {
    size += chunk.length;
    if (size > maxBytes) {
      throw new ArtifactError('object-too-large', `More than ${maxBytes} bytes in one piece are not stored.`);
    }
    md5.update(chunk);
    await handle.appendFile(chunk);
  }
  await handle.sync();
  return { size, md5: md5.digest('hex') };
}
