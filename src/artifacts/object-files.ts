/**
 * How the object store lies on disk. Per bucket: `bucket.json`, `data/<uuid>` (bytes), `keys/<sha256 of key>.json` (what a
 * key points at), `uploads/` (see upload-files.ts). Keys are hostile, so none is ever part of a path.
 *
 * Invariant: a key file appears and changes only by rename, after the bytes it names are on disk. What no key names is
 * garbage of a crash and goes at start.
 */
import { createHash } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';

/** What the store keeps about an object besides its bytes. */
export interface ObjectInfo {
  readonly key: string;
  readonly size: number;
  /** Without its quotes: the MD5 of the bytes in hexadecimal, or S3's `<MD5 of the parts' MD5s>-<parts>`. */
  readonly etag: string;
  /** ms since the epoch. */
  readonly modifiedAt: number;
  readonly contentType: string;
  /** Headers kept for the reader: `cache-control`, `content-encoding` and the like, and `x-amz-meta-*`. */
  readonly headers: Readonly<Record<string, string>>;
  /** Algorithm in lower case to base64 value; `<base64>-<parts>` for one over the parts' checksums. */
  readonly checksums: Readonly<Record<string, string>>;
}

export interface KeyFile extends ObjectInfo {
  readonly dataFile: string;
}

export interface BucketFile {
  readonly name: string;
  readonly createdAt: number;
}

export class ObjectFiles {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  /** The folder of a bucket's uploads, which may not be there yet. */
  uploadsDir(bucket: string): string {
    return join(this.#root, bucket, 'uploads');
  }

  dataPath(bucket: string, dataFile: string): string {
    return join(this.#root, bucket, 'data', dataFile);
  }

  #keyPath(bucket: string, key: string): string {
    return join(this.#root, bucket, 'keys', `${createHash('sha256').update(key).digest('hex')}.json`);
  }

  /** False when the bucket was there already. */
  async createBucket(bucket: BucketFile): Promise<boolean> {
    if ((await this.readBucket(bucket.name)) !== undefined) return false;
    const folder = join(this.#root, bucket.name);
    await mkdir(join(folder, 'data'), { recursive: true });
    await mkdir(join(folder, 'keys'), { recursive: true });
    await writeJson(join(folder, 'bucket.json'), bucket);
    await syncFolder(this.#root);
    return true;
  }

  async readBucket(name: string): Promise<BucketFile | undefined> {
    return await readJson<BucketFile>(join(this.#root, name, 'bucket.json'));
  }

  async buckets(): Promise<BucketFile[]> {
    const names = await readdir(this.#root);
    const found = await Promise.all(names.sort().map((name) => this.readBucket(name)));
    return found.filter((bucket) => bucket !== undefined);
  }

  /** False when a key is left in it; `rmdir` decides, so a key written meanwhile is never lost. */
  async deleteBucket(name: string): Promise<boolean> {
    const folder = join(this.#root, name);
    try {
      await rmdir(join(folder, 'keys'));
    } catch (error) {
      if (isErrno(error, 'ENOTEMPTY')) return false;
      if (!isErrno(error, 'ENOENT')) throw error;
    }
    await rm(folder, { recursive: true, force: true });
    return true;
  }

  async readKey(bucket: string, key: string): Promise<KeyFile | undefined> {
    return await readJson<KeyFile>(this.#keyPath(bucket, key));
  }

  async writeKey(bucket: string, file: KeyFile): Promise<void> {
    await syncFolder(join(this.#root, bucket, 'data'));
    await writeJson(this.#keyPath(bucket, file.key), file);
  }

  async deleteKey(bucket: string, key: string): Promise<void> {
    await rm(this.#keyPath(bucket, key), { force: true });
  }

  /** Every key of a bucket, in no order. */
  async *keys(bucket: string): AsyncGenerator<KeyFile> {
    const folder = join(this.#root, bucket, 'keys');
    const names = (await readdir(folder)).filter((name) => name.endsWith('.json'));
    const batchSize = 32;
    for (let at = 0; at < names.length; at += batchSize) {
      const batch = names.slice(at, at + batchSize).map((name) => readJson<KeyFile>(join(folder, name)));
      for (const file of await Promise.all(batch)) if (file !== undefined) yield file;
    }
  }

  /** Removes what a crash left: bytes no key names and half-made key files. Only while nothing is written. */
  async sweep(): Promise<void> {
    await mkdir(this.#root, { recursive: true });
    for (const name of await readdir(this.#root)) {
      const folder = join(this.#root, name);
      if ((await this.readBucket(name)) === undefined) continue;
      // A deletion of the bucket stopped half way: it had no key left.
      await mkdir(join(folder, 'keys'), { recursive: true });
      const named = new Set<string>();
      for await (const file of this.keys(name)) named.add(file.dataFile);
      for (const file of await readdir(join(folder, 'data'))) {
        if (!named.has(file)) await rm(join(folder, 'data', file), { force: true });
      }
      for (const file of await readdir(join(folder, 'keys'))) {
        if (!file.endsWith('.json')) await rm(join(folder, 'keys', file), { force: true });
      }
    }
  }
}

/** Atomic and durable: temporary name, fsync, rename, fsync of the folder. */
export async function writeJson(path: string, value: object): Promise<void> {
  const temporary = `${path}.new`;
  {
    await using handle = await open(temporary, 'w');
    await handle.writeFile(JSON.stringify(value));
    await handle.sync();
  }
  await rename(temporary, path);
  await syncFolder(join(path, '..'));
}

export async function readJson<T>(path: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as T;
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return undefined;
    throw error;
  }
}

export async function syncFolder(path: string): Promise<void> {
  await using handle = await open(path, 'r');
  await handle.sync();
}

export function isErrno(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
