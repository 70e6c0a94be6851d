/**
 * A file written once, front to back, in chunks that are proven whole before anybody uses them: with a digest, or encrypted
 * and authenticated when there is a key.
 *
 *     chunk:  u32 length  body  16 bytes tag        the last one has no body
 *
 * Invariant: a chunk counts only in the file and at the place it was written for, and a file without its last chunk is damaged.
 */
import { createCipheriv, createDecipheriv, createHash, timingSafeEqual } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { MachineError } from '../../lib/index.ts';

export const MAX_CHUNK_BYTES = 1024 * 1024 + 128 * 1024;
const LENGTH_BYTES = 4;
const TAG_BYTES = 16;
const CIPHER = 'aes-256-gcm';

/** How the chunks of one file are closed. */
export interface Guard {
  /** What stands in the file for a chunk, and its tag. */
  close(index: number, parts: readonly Buffer[]): { readonly body: readonly Buffer[]; readonly tag: Buffer };
  /** The chunk; undefined when it is not what was written. */
  open(index: number, body: Buffer, tag: Buffer): Buffer | undefined;
}

/** Finds damage. @param fileId different for every file */
export function digestGuard(fileId: Buffer): Guard {
  const tagOf = (index: number, parts: readonly Buffer[]) => {
    const hash = createHash('sha256')
      .update(fileId)
      .update(numbers(index, lengthOf(parts)));
    for (const part of parts) hash.update(part);
    return hash.digest().subarray(0, TAG_BYTES);
  };
  return {
    close: (index, parts) => ({ body: parts, tag: tagOf(index, parts) }),
    open: (index, body, tag) => (timingSafeEqual(tagOf(index, [body]), tag) ? body : undefined),
  };
}

/** Keeps the content secret, and finds forgery too. @param key of this one file: the chunk's number is the whole nonce */
export function cipherGuard(key: Buffer): Guard {
  const nonceOf = (index: number) => Buffer.concat([Buffer.alloc(8), numbers(index)]);
  return {
    close(index, parts) {
      const cipher = createCipheriv(CIPHER, key, nonceOf(index), { authTagLength: TAG_BYTES });
      const body = parts.map((part) => cipher.update(part));
      cipher.final();
      return { body, tag: cipher.getAuthTag() };
    },
    open(index, body, tag) {
      const decipher = createDecipheriv(CIPHER, key, nonceOf(index), { authTagLength: TAG_BYTES });
      decipher.setAuthTag(tag);
      const plain = decipher.update(body);
      try {
        decipher.final();
      } catch {
        return undefined;
      }
      return plain;
    },
  };
}

export class ChunkWriter implements AsyncDisposable {
  readonly #file: FileHandle;
  readonly #guard: Guard;
  #index = 0;
  #bytes = 0;

  constructor(file: FileHandle, guard: Guard) {
    this.#file = file;
    this.#guard = guard;
  }

  /** One chunk, at most `MAX_CHUNK_BYTES` and not empty. The buffers may be used again once it resolved. */
  async write(...parts: readonly Buffer[]): Promise<void> {
    const length = lengthOf(parts);
    if (length === 0 || length > MAX_CHUNK_BYTES) throw new RangeError(`a chunk of ${length} bytes`);
    await this.#put(parts, length);
  }

  /** Ends the file and brings it to the disk. Returns its length. */
  async finish(): Promise<number> {
    await this.#put([], 0);
    await this.#file.datasync();
    return this.#bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  async #put(parts: readonly Buffer[], length: number): Promise<void> {
    const { body, tag } = this.#guard.close(this.#index++, parts);
    const whole = [numbers(length), ...body, tag];
    const { bytesWritten } = await this.#file.writev(whole, this.#bytes);
    if (bytesWritten !== LENGTH_BYTES + length + TAG_BYTES) {
      throw new MachineError('failed', 'a file could not be written whole', {
        cause: Object.assign(new Error('no space left on the host'), { code: 'ENOSPC' }),
      });
    }
    this.#bytes += bytesWritten;
  }
}

/** Makes the file anew. */
export async function createChunkFile(path: string, guard: Guard): Promise<ChunkWriter> {
  return new ChunkWriter(await open(path, 'wx', 0o600), guard);
}

/**
 * The chunks in order; a chunk's buffer is valid until the next is asked for.
 * @throws MachineError `corrupt` saying that `what` is damaged
 */
export async function* readChunkFile(path: string, guard: Guard, what: string): AsyncGenerator<Buffer> {
  await using file = await open(path, 'r');
  const damaged = () => new MachineError('corrupt', `${what} is damaged`);
  const buffer = Buffer.allocUnsafeSlow(MAX_CHUNK_BYTES + TAG_BYTES + LENGTH_BYTES);
  let length = (await file.read(buffer, 0, LENGTH_BYTES, 0)).bytesRead === LENGTH_BYTES ? buffer.readUInt32BE(0) : -1;
  let position = LENGTH_BYTES;
  for (let index = 0; ; index++) {
    if (length < 0 || length > MAX_CHUNK_BYTES) throw damaged();
    // The next chunk's length comes along.
    const wanted = length + TAG_BYTES + LENGTH_BYTES;
    const { bytesRead } = await file.read(buffer, 0, wanted, position);
    if (bytesRead < length + TAG_BYTES) throw damaged();
    const next = bytesRead === wanted ? buffer.readUInt32BE(length + TAG_BYTES) : -1;
    const tag = buffer.subarray(length, length + TAG_BYTES);
    const chunk = guard.open(index, buffer.subarray(0, length), tag);
    if (chunk === undefined) throw damaged();
    if (length === 0) return;
    yield chunk;
    position += wanted;
    length = next;
  }
}

function lengthOf(parts: readonly Buffer[]): number {
  return parts.reduce((sum, part) => sum + part.length, 0);
}

function numbers(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) bytes.writeUInt32BE(value, 4 * i);
  return bytes;
}
