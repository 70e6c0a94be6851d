/**
 * The embedded object store: buckets and objects in one folder, for `s3://` artifacts without a cloud.
 *
 * Invariant: an object is either wholly the old or wholly the new one, also after a crash; memory use does not grow with
 * the size of an object; one process owns the folder.
 */
import { type FileHandle, open, rm } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { type Clock, type Ids, KeyedLock, randomIds, systemClock } from '../lib/index.ts';
import { ArtifactError } from './errors.ts';
import { type ListRequest, type ListResult, listKeys } from './listing.ts';
import { checkKey, MAX_PIECE_BYTES, writeBody } from './object-body.ts';
import { type BucketFile, isErrno, type KeyFile, ObjectFiles, type ObjectInfo } from './object-files.ts';
import { Uploads } from './uploads.ts';
import { BUCKET_NAME } from './uri.ts';

export interface PutOptions {
  readonly contentType?: string | undefined;
  readonly headers?: Readonly<Record<string, string>>;
  /** Asked once the body has ended; throwing here or in the body leaves the old object in place. */
  readonly checksums?: () => Readonly<Record<string, string>>;
  /** Refuse when the key is taken. */
  readonly onlyIfAbsent?: boolean;
  /** In place of the MD5 of the bytes. */
  readonly etag?: string;
  /** Default: S3's limit of one PutObject. */
  readonly maxBytes?: number;
}

export interface ObjectStoreOptions {
  /** Folder of the store, made when absent. */
  readonly dir: string;
  readonly clock?: Clock;
  readonly ids?: Ids;
}

/** An object opened for reading: its bytes stay readable while it is replaced or deleted. Dispose it. */
export class OpenObject implements AsyncDisposable {
  readonly info: ObjectInfo;
  readonly #handle: FileHandle;

  constructor(info: ObjectInfo, handle: FileHandle) {
    this.info = info;
    this.#handle = handle;
  }

  get fd(): number {
    return this.#handle.fd;
  }

  /** The bytes from `start` to `end`, both inclusive. */
  stream(range?: { start: number; end: number }): Readable {
    return this.#handle.createReadStream({ ...range, autoClose: false, highWaterMark: 256 * 1024 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
  }
}

export class ObjectStore {
  readonly #files: ObjectFiles;
  readonly #clock: Clock;
  readonly #ids: Ids;
  readonly #lock = new KeyedLock();
  /** Multipart uploads under way. */
  readonly uploads: Uploads;

  constructor(files: ObjectFiles, clock: Clock, ids: Ids) {
    this.#files = files;
    this.#clock = clock;
    this.#ids = ids;
    this.uploads = new Uploads({ files, clock, ids, store: this });
  }

  /** @throws ArtifactError `bucket-name-invalid`, `bucket-exists` */
  async createBucket(name: string): Promise<void> {
    if (!BUCKET_NAME.test(name)) {
      throw new ArtifactError('bucket-name-invalid', `The specified bucket is not valid: ${name}`);
    }
    const made = await this.#lock.run(name, () => this.#files.createBucket({ name, createdAt: this.#clock.now() }));
    if (!made) throw new ArtifactError('bucket-exists', `The bucket ${name} exists already.`);
  }

  /** @throws ArtifactError `no-such-bucket` */
  async bucket(name: string): Promise<BucketFile> {
    const found = BUCKET_NAME.test(name) ? await this.#files.readBucket(name) : undefined;
    if (found === undefined) throw new ArtifactError('no-such-bucket', `The bucket ${name} does not exist.`);
    return found;
  }

  async buckets(): Promise<readonly BucketFile[]> {
    return await this.#files.buckets();
  }

  /** @throws ArtifactError `no-such-bucket`, `bucket-not-empty` */
  async deleteBucket(name: string): Promise<void> {
    await this.bucket(name);
    const gone = await this.#lock.run(name, () => this.#files.deleteBucket(name));
    if (!gone) throw new ArtifactError('bucket-not-empty', `The bucket ${name} still holds objects.`);
  }

  /**
   * Stores the body under the key, durably, in place of what was there.
   * @throws ArtifactError `no-such-bucket`, `key-invalid`, `key-exists`, `object-too-large`; whatever the body throws
   */
  async put(bucket: string, key: string, body: AsyncIterable<Buffer>, options: PutOptions = {}): Promise<ObjectInfo> {
    await this.bucket(bucket);
    checkKey(key);
    const dataFile = this.#ids.uuid();
    const path = this.#files.dataPath(bucket, dataFile);
    try {
      const { size, md5 } = await writeBody(path, body, options.maxBytes ?? MAX_PIECE_BYTES);
      const file: KeyFile = {
        key,
        size,
        etag: options.etag ?? md5,
        modifiedAt: this.#clock.now(),
        contentType: options.contentType ?? 'binary/octet-stream',
        headers: options.headers ?? {},
        checksums: options.checksums?.() ?? {},
        dataFile,
      };
      await this.#lock.run(`${bucket}/${key}`, () => this.#publish(bucket, file, options.onlyIfAbsent ?? false));
      return file;
    } catch (error) {
      await rm(path, { force: true });
      if (isErrno(error, 'ENOENT')) await this.bucket(bucket);
      throw error;
    }
  }

  async #publish(bucket: string, file: KeyFile, onlyIfAbsent: boolean): Promise<void> {
    const old = await this.#files.readKey(bucket, file.key);
    if (onlyIfAbsent && old !== undefined) throw new ArtifactError('key-exists', `The key ${file.key} exists already.`);
    await this.#files.writeKey(bucket, file);
    if (old !== undefined) await rm(this.#files.dataPath(bucket, old.dataFile), { force: true });
  }

  /** @throws ArtifactError `no-such-bucket`, `no-such-key` */
  async head(bucket: string, key: string): Promise<ObjectInfo> {
    return await this.#find(bucket, key);
  }

  /** Opens an object for reading. @throws ArtifactError `no-such-bucket`, `no-such-key` */
  async open(bucket: string, key: string): Promise<OpenObject> {
    // Under the key's lock no replacement can delete the bytes between the two steps.
    return await this.#lock.run(`${bucket}/${key}`, async () => {
      const file = await this.#find(bucket, key);
      return new OpenObject(file, await open(this.#files.dataPath(bucket, file.dataFile), 'r'));
    });
  }

  /** Deletes an object; one that is not there counts as deleted. @throws ArtifactError `no-such-bucket` */
  async delete(bucket: string, key: string): Promise<void> {
    await this.bucket(bucket);
    await this.#lock.run(`${bucket}/${key}`, async () => {
      const file = await this.#files.readKey(bucket, key);
      if (file === undefined) return;
      await this.#files.deleteKey(bucket, key);
      await rm(this.#files.dataPath(bucket, file.dataFile), { force: true });
    });
  }

  /** @throws ArtifactError `no-such-bucket` */
  async list(bucket: string, request: ListRequest): Promise<ListResult> {
    await this.bucket(bucket);
    return await listKeys(this.#files.keys(bucket), request);
  }

  async #find(bucket: string, key: string): Promise<KeyFile> {
    await this.bucket(bucket);
    const file = await this.#files.readKey(bucket, key);
    if (file === undefined) throw new ArtifactError('no-such-key', `The key ${key} does not exist in ${bucket}.`);
    return file;
  }
}

/** Opens the store of a folder and removes what a crash left in it. */
export async function createObjectStore(options: ObjectStoreOptions): Promise<ObjectStore> {
  const files = new ObjectFiles(options.dir);
  await files.sweep();
  const store = new ObjectStore(files, options.clock ?? systemClock, options.ids ?? randomIds);
  for (const { name } of await store.buckets()) await store.uploads.sweep(name);
  return store;
}
