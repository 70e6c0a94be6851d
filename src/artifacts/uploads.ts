/**
 * Multipart uploads: parts come in any order and again, `complete` makes one object of those it is told to.
 *
 * Invariant: until `complete` has published the object nobody sees any of it; afterwards the parts are gone. An upload that
 * nobody ends goes after a week.
 */
import { open, rm } from 'node:fs/promises';
import { type Clock, type Ids, KeyedLock } from '../lib/index.ts';
import { ArtifactError } from './errors.ts';
import { checkKey, MAX_PIECE_BYTES, writeBody } from './object-body.ts';
import { isErrno, type ObjectFiles, type ObjectInfo, syncFolder } from './object-files.ts';
import type { ObjectStore } from './object-store.ts';
import { type PartFile, type PartInfo, UploadFiles, type UploadInfo } from './upload-files.ts';

export type { PartInfo, UploadInfo } from './upload-files.ts';

export interface CompleteOptions {
  readonly etag: string;
  /** Sees every byte of the object on its way; what it throws keeps the object from being made. */
  readonly through?: (body: AsyncIterable<Buffer>) => AsyncIterable<Buffer>;
  /** Asked once the body has ended. */
  readonly checksums: () => Readonly<Record<string, string>>;
  readonly onlyIfAbsent: boolean;
}

/** S3's limit of one object. */
const MAX_WHOLE_BYTES = 5 * 1024 ** 4;
const STALE_MS = 7 * 24 * 3_600_000;
const READ_BYTES = 1024 * 1024;

export class Uploads {
  readonly #files: ObjectFiles;
  readonly #clock: Clock;
  readonly #ids: Ids;
  readonly #store: ObjectStore;
  readonly #lock = new KeyedLock();

  constructor(options: { files: ObjectFiles; clock: Clock; ids: Ids; store: ObjectStore }) {
    this.#files = options.files;
    this.#clock = options.clock;
    this.#ids = options.ids;
    this.#store = options.store;
  }

  /** @throws ArtifactError `no-such-bucket`, `key-invalid` */
  async create(bucket: string, upload: Omit<UploadInfo, 'uploadId' | 'startedAt'>): Promise<UploadInfo> {
    await this.#store.bucket(bucket);
    checkKey(upload.key);
    const made = { ...upload, uploadId: this.#ids.uuid().replaceAll('-', ''), startedAt: this.#clock.now() };
    await this.#in(bucket).create(made);
    return made;
  }

  /** @throws ArtifactError `no-such-bucket`, `no-such-upload` */
  async find(bucket: string, key: string, uploadId: string): Promise<UploadInfo> {
    await this.#store.bucket(bucket);
    const found = await this.#in(bucket).read(uploadId);
    if (found?.key !== key) throw noSuchUpload();
    return found;
  }

  /** By key, then by age. @throws ArtifactError `no-such-bucket` */
  async list(bucket: string): Promise<readonly UploadInfo[]> {
    await this.#store.bucket(bucket);
    const all = await this.#in(bucket).all();
    return all.sort((a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)) || a.startedAt - b.startedAt);
  }

  /**
   * Stores a part durably, in place of the one with its number.
   * @throws ArtifactError `no-such-bucket`, `no-such-upload`, `object-too-large`; whatever the body throws
   */
  async putPart(
    where: { readonly bucket: string; readonly key: string; readonly uploadId: string; readonly partNumber: number },
    body: AsyncIterable<Buffer>,
    checksums: () => Readonly<Record<string, string>>,
  ): Promise<PartInfo> {
    const { bucket, key, uploadId, partNumber } = where;
    await this.find(bucket, key, uploadId);
    const files = this.#in(bucket);
    const dataFile = this.#ids.uuid();
    const path = files.dataPath(uploadId, dataFile);
    try {
      const { size, md5 } = await writeBody(path, body, MAX_PIECE_BYTES);
      const modifiedAt = this.#clock.now();
      const part: PartFile = { partNumber, size, etag: md5, modifiedAt, checksums: checksums(), dataFile };
      await this.#lock.run(`${bucket}/${uploadId}`, async () => {
        const old = await files.readPart(uploadId, partNumber);
        await syncFolder(files.dataPath(uploadId, '.'));
        await files.writePart(uploadId, part);
        if (old !== undefined) await rm(files.dataPath(uploadId, old.dataFile), { force: true });
      });
      return part;
    } catch (error) {
      await rm(path, { force: true });
      if (isErrno(error, 'ENOENT')) throw noSuchUpload();
      throw error;
    }
  }

  /** In the order of their numbers. @throws ArtifactError `no-such-bucket`, `no-such-upload` */
  async parts(bucket: string, key: string, uploadId: string): Promise<readonly PartInfo[]> {
    await this.find(bucket, key, uploadId);
    return await this.#in(bucket).parts(uploadId);
  }

  /** @throws ArtifactError `no-such-bucket`, `no-such-upload` */
  async abort(bucket: string, key: string, uploadId: string): Promise<void> {
    await this.#lock.run(`${bucket}/${uploadId}`, async () => {
      await this.find(bucket, key, uploadId);
      await this.#in(bucket).delete(uploadId);
    });
  }

  /**
   * Makes the object of the parts that `choose` picks, in that order, and ends the upload.
   * @throws ArtifactError `no-such-bucket`, `no-such-upload`, `key-exists`; whatever `choose` or the options throw
   */
  async complete(
    where: { readonly bucket: string; readonly key: string; readonly uploadId: string },
    choose: (upload: UploadInfo, parts: readonly PartInfo[]) => { parts: readonly PartInfo[] } & CompleteOptions,
  ): Promise<ObjectInfo> {
    const { bucket, key, uploadId } = where;
    return await this.#lock.run(`${bucket}/${uploadId}`, async () => {
      const upload = await this.find(bucket, key, uploadId);
      const files = this.#in(bucket);
      const present = await files.parts(uploadId);
      const { parts, through = (body) => body, ...options } = choose(upload, present);
      const chosen = parts.map(({ partNumber }) => present.find((part) => part.partNumber === partNumber));
      const paths = chosen.map((part) => files.dataPath(uploadId, part?.dataFile ?? ''));
      const info = await this.#store.put(bucket, key, through(bytesOf(paths)), {
        contentType: upload.contentType,
        headers: upload.headers,
        maxBytes: MAX_WHOLE_BYTES,
        ...options,
      });
      await files.delete(uploadId);
      return info;
    });
  }

  /** Removes what nobody ended, and what a crash left. Only while nothing is written. */
  async sweep(bucket: string): Promise<void> {
    await this.#in(bucket).sweep(this.#clock.now() - STALE_MS);
  }

  #in(bucket: string): UploadFiles {
    return new UploadFiles(this.#files.uploadsDir(bucket));
  }
}

async function* bytesOf(paths: readonly string[]): AsyncGenerator<Buffer> {
  for (const path of paths) {
    await using handle = await open(path, 'r');
    const stream: AsyncIterable<Buffer> = handle.createReadStream({ autoClose: false, highWaterMark: READ_BYTES });
    yield* stream;
  }
}

function noSuchUpload(): ArtifactError {
  return new ArtifactError('no-such-upload', 'The upload does not exist: it was completed, aborted or never begun.');
}
