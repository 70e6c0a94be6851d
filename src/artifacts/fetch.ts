/**
 * Code artifacts by URI: what image builds start from. Buckets of the embedded store come first; all others are those of the
 * external store, where one is configured.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { type Ids, randomIds } from '../lib/index.ts';
import { ArtifactError } from './errors.ts';
import { type ExternalStoreOptions, fetchExternal } from './external-store.ts';
import type { ObjectStore } from './object-store.ts';
import { type UnzipOptions, unzip } from './unzip.ts';
import { parseArtifactUri } from './uri.ts';

/** An artifact held open: it stays the same while its key is replaced or deleted. Dispose it. */
export class Artifact implements AsyncDisposable {
  readonly sizeBytes: number;
  readonly #fd: number;
  readonly #owned: AsyncDisposable;

  constructor(file: { fd: number; size: number; owned: AsyncDisposable }) {
    this.sizeBytes = file.size;
    this.#fd = file.fd;
    this.#owned = file.owned;
  }

  /**
   * Unpacks it into `toDir`, which must not exist yet and does not exist after a failure.
   * @throws ArtifactError `archive-invalid`, `archive-too-large`, `dockerfile-missing`; the signal's reason
   */
  async unpack(toDir: string, options: UnzipOptions = {}): Promise<void> {
    await unzip(this.#fd, toDir, options);
  }

  /** SHA-256 of the archive, in hexadecimal. */
  async digest({ signal }: { signal?: AbortSignal } = {}): Promise<string> {
    const hash = createHash('sha256');
    await pipeline(createReadStream('', { fd: this.#fd, start: 0, autoClose: false }), hash, {
      ...(signal && { signal }),
    });
    return hash.digest('hex');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned[Symbol.asyncDispose]();
  }
}

export interface ArtifactsOptions {
  readonly store: ObjectStore;
  /** Asked for buckets that the embedded store does not have. */
  readonly external?: ExternalStoreOptions | undefined;
  readonly ids?: Ids;
}

export class Artifacts {
  readonly #options: ArtifactsOptions;

  constructor(options: ArtifactsOptions) {
    this.#options = options;
  }

  /** @throws ArtifactError `uri-malformed`, `no-such-bucket`, `no-such-key`; of an external store also what it throws */
  async fetchZip(uri: string): Promise<Artifact> {
    const { bucket, key } = parseArtifactUri(uri);
    const { store, external, ids = randomIds } = this.#options;
    try {
      const object = await store.open(bucket, key);
      return new Artifact({ fd: object.fd, size: object.info.size, owned: object });
    } catch (error) {
      const isElsewhere = error instanceof ArtifactError && error.kind === 'no-such-bucket';
      if (!isElsewhere || external === undefined) throw error;
      const { handle, size } = await fetchExternal({ bucket, key }, { ...external, ids });
      return new Artifact({ fd: handle.fd, size, owned: handle });
    }
  }
}

export function createArtifacts(options: ArtifactsOptions): Artifacts {
  return new Artifacts(options);
}
