/**
 * A sparse file as an encrypted chunk file and back: each chunk is a place and the data from there on. What is all zero is
 * left out, so the plain file has its holes again.
 */
import { open } from 'node:fs/promises';
import { MachineError } from '../../lib/index.ts';
import { cipherGuard, createChunkFile, readChunkFile } from './chunk-file.ts';
import { type DigestOptions, forEachChunk } from './digest.ts';

const BLOCK_BYTES = 65_536;
const PLACE_BYTES = 8;
const ZERO_BLOCK = Buffer.alloc(BLOCK_BYTES);

/** Synced when it resolves. @param key of this file alone */
export async function encryptSparse(plain: string, to: string, key: Buffer, options: DigestOptions): Promise<void> {
  await using writer = await createChunkFile(to, cipherGuard(key));
  await forEachChunk(plain, { ...options, pace: async () => {} }, async (at, chunk) => {
    for (const { from, to } of dataRuns(chunk)) {
      const place = Buffer.alloc(PLACE_BYTES);
      place.writeUIntBE(at + from, 2, 6);
      await writer.write(place, chunk.subarray(from, to));
    }
  });
  await writer.finish();
}

/** @param bytes of the plain file @throws MachineError `corrupt` saying that `what` is damaged */
export async function decryptSparse(
  from: string,
  plain: string,
  key: Buffer,
  { bytes, what }: { bytes: number; what: string },
): Promise<void> {
  await using file = await open(plain, 'wx', 0o600);
  await file.truncate(bytes);
  for await (const chunk of readChunkFile(from, cipherGuard(key), what)) {
    if (chunk.length < PLACE_BYTES) throw new MachineError('corrupt', `${what} is damaged`);
    const at = chunk.readUIntBE(2, 6);
    const data = chunk.subarray(PLACE_BYTES);
    if (at + data.length > bytes) throw new MachineError('corrupt', `${what} is damaged`);
    await file.write(data, 0, data.length, at);
  }
}

/** Runs of blocks that are not all zero. */
function* dataRuns(chunk: Buffer): Generator<{ from: number; to: number }> {
  let from: number | undefined;
  for (let at = 0; at < chunk.length; at += BLOCK_BYTES) {
    const block = chunk.subarray(at, at + BLOCK_BYTES);
    const isZero = block.compare(ZERO_BLOCK, 0, block.length) === 0;
    if (!isZero) from ??= at;
    else if (from !== undefined) {
      yield { from, to: at };
      from = undefined;
    }
  }
  if (from !== undefined) yield { from, to: chunk.length };
}
