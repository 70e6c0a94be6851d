/**
 * How uploads under way lie on disk, below their bucket: `uploads/<id>/upload.json` (what the object will be),
 * `<n>.json` (part n) and `<uuid>` (a part's bytes).
 *
 * Invariant: a part's file appears and changes only by rename, after its bytes are on disk; an upload goes by a rename, so
 * it is there with all its parts or not at all.
 */
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno, readJson, syncFolder, writeJson } from './object-files.ts';

/** A multipart upload that was neither completed nor aborted. */
export interface UploadInfo {
  readonly uploadId: string;
  readonly key: string;
  /** ms since the epoch. */
  readonly startedAt: number;
  readonly contentType: string;
  readonly headers: Readonly<Record<string, string>>;
  /** What the client announced to send with each part. */
  readonly checksum: { readonly algorithm: string; readonly type: 'COMPOSITE' | 'FULL_OBJECT' } | undefined;
}

export interface PartInfo {
  readonly partNumber: number;
  readonly size: number;
  /** MD5 of the bytes, hexadecimal. */
  readonly etag: string;
  readonly modifiedAt: number;
  readonly checksums: Readonly<Record<string, string>>;
}

export interface PartFile extends PartInfo {
  readonly dataFile: string;
}

const UPLOAD_ID = /^[0-9a-f]{32}$/;
const GONE = '.gone';

/** The uploads of one bucket. */
export class UploadFiles {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  async create(upload: UploadInfo): Promise<void> {
    const folder = join(this.#dir, upload.uploadId);
    await mkdir(folder, { recursive: true });
    await writeJson(join(folder, 'upload.json'), upload);
    await syncFolder(this.#dir);
  }

  async read(uploadId: string): Promise<UploadInfo | undefined> {
    if (!UPLOAD_ID.test(uploadId)) return undefined;
    return await readJson<UploadInfo>(join(this.#dir, uploadId, 'upload.json'));
  }

  async all(): Promise<UploadInfo[]> {
    const found = await Promise.all((await namesIn(this.#dir)).map((name) => this.read(name)));
    return found.filter((upload) => upload !== undefined);
  }

  dataPath(uploadId: string, dataFile: string): string {
    return join(this.#dir, uploadId, dataFile);
  }

  async readPart(uploadId: string, partNumber: number): Promise<PartFile | undefined> {
    return await readJson<PartFile>(join(this.#dir, uploadId, `${partNumber}.json`));
  }

  async writePart(uploadId: string, part: PartFile): Promise<void> {
    await writeJson(join(this.#dir, uploadId, `${part.partNumber}.json`), part);
  }

  /** In the order of their numbers. */
  async parts(uploadId: string): Promise<PartFile[]> {
    const folder = join(this.#dir, uploadId);
    const files = (await namesIn(folder)).filter((name) => /^\d+\.json$/.test(name));
    const parts = await Promise.all(files.map((name) => readJson<PartFile>(join(folder, name))));
    return parts.filter((part) => part !== undefined).sort((a, b) => a.partNumber - b.partNumber);
  }

  async delete(uploadId: string): Promise<void> {
    const folder = join(this.#dir, uploadId);
    await rename(folder, `${folder}${GONE}`);
    await rm(`${folder}${GONE}`, { recursive: true, force: true });
  }

  /** Removes uploads begun before `startedBefore`, deletions a crash stopped, and bytes no part names. Only while none is written. */
  async sweep(startedBefore: number): Promise<void> {
    for (const name of await namesIn(this.#dir)) {
      const upload = await this.read(name);
      if (upload === undefined || upload.startedAt < startedBefore) {
        await rm(join(this.#dir, name), { recursive: true, force: true });
        continue;
      }
      const named = new Set((await this.parts(name)).flatMap((part) => [part.dataFile, `${part.partNumber}.json`]));
      for (const file of await namesIn(join(this.#dir, name))) {
        if (file !== 'upload.json' && !named.has(file)) await rm(join(this.#dir, name, file), { force: true });
      }
    }
  }
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}
