/** Code artifacts by URI: what image builds start from. */
import type { ObjectStore, OpenObject } from './object-store.ts';
import { type UnzipOptions, unzip } from './unzip.ts';
import { parseArtifactUri } from './uri.ts';

/** An artifact held open: it stays the same while its key is replaced or deleted. Dispose it. */
export class Artifact implements AsyncDisposable {
  readonly #object: OpenObject;

  constructor(object: OpenObject) {
    this.#object = object;
  }

  get sizeBytes(): number {
    return this.#object.info.size;
  }

  /**
   * Unpacks it into `toDir`, which must not exist yet and does not exist after a failure.
   * @throws ArtifactError `archive-invalid`, `archive-too-large`, `dockerfile-missing`; the signal's reason
   */
  async unpack(toDir: string, options: UnzipOptions = {}): Promise<void> {
    await unzip(this.#object.fd, toDir, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#object[Symbol.asyncDispose]();
  }
}

export class Artifacts {
  readonly #store: ObjectStore;

  constructor(store: ObjectStore) {
    this.#store = store;
  }

  /** @throws ArtifactError `uri-malformed`, `no-such-bucket`, `no-such-key` */
  async fetchZip(uri: string): Promise<Artifact> {
    const { bucket, key } = parseArtifactUri(uri);
    return new Artifact(await this.#store.open(bucket, key));
  }
}

export function createArtifacts(options: { store: ObjectStore }): Artifacts {
  return new Artifacts(options.store);
}
