/**
 * Removal of versions and images. A command only writes DELETING; here snapshots and logs go, and the records last, so
 * that a crash at any point leaves records that say what is still to be done (`resume` does it at the next start).
 *
 * Invariant: while a record is there its name and number are taken; once it is gone nothing of it is left on disk.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import type { Engine } from '../engine/index.ts';
import { type Clock, type Logger, messageOf, withDeadline } from '../lib/index.ts';
import { type Row, releaseClaims } from '../store/index.ts';
import type { BuildLogs } from './build-log.ts';
import { type Catalog, versionId } from './catalog.ts';
import {
  type BuildRecord,
  type ImageRecord,
  imageMoved,
  latestOf,
  type VersionRecord,
  versionMoved,
} from './lifecycle.ts';
import { snapshotName, snapshotsOf } from './upkeep/snapshots.ts';

export interface RemovalOptions {
  readonly catalog: Catalog;
  readonly engine: Pick<Engine, 'deleteSnapshot'>;
  readonly logs: BuildLogs;
  /** Resolves when nothing of the build goes on. */
  readonly cancelBuild: (buildId: string) => Promise<void>;
  readonly clock: Clock;
  readonly log: Logger;
  /** Folder of everything kept of an image. */
  readonly imageDir: (arn: string) => string;
  readonly snapshotDirOf: (version: VersionRecord) => string;
}

const STEP_TIMEOUT_MS = 60_000;
/** Pauses between attempts; when all failed the state says so and the caller may ask again. */
const PAUSES_MS = [1000, 2000, 4000, 8000];

export class Removals implements AsyncDisposable {
  readonly #o: RemovalOptions;
  readonly #running = new Set<Promise<void>>();
  readonly #stop = new AbortController();

  constructor(options: RemovalOptions) {
    this.#o = options;
  }

  /** Takes up what an earlier server left. */
  async resume(): Promise<void> {
    const images = await this.#o.catalog.imagesIn(['DELETING']);
    for (const image of images) this.removeImage(image.arn);
    const going = new Set(images.map((image) => image.arn));
    for (const version of await this.#o.catalog.versionsIn(['DELETING'])) {
      if (!going.has(version.imageArn)) void this.removeVersion(version);
    }
  }

  /** Resolves when it is gone, or could not be removed. */
  removeVersion(version: VersionRecord): Promise<void> {
    const { catalog, clock } = this.#o;
    const { imageArn: arn } = version;
    return this.#begin({ imageArn: arn, imageVersion: version.version }, async () => this.#clearVersion(version), {
      done: () => this.#forgetVersion(version),
      failed: async () => {
        await catalog.change(async () => {
          const image = await catalog.image(arn);
          const seen = await catalog.version(arn, version.version);
          return {
            answer: undefined,
            writes: [
              ...saveIf(catalog.saveImage.bind(catalog), image, imageMoved(image.body, 'delete-failed', clock.now())),
              ...saveIf(catalog.saveVersion.bind(catalog), seen, versionMoved(seen.body, 'delete-failed', clock.now())),
            ],
          };
        });
      },
    });
  }

  removeImage(arn: string): void {
    const { catalog, clock } = this.#o;
    const clear = async () => {
      for (const { body } of await catalog.versionsOf(arn)) await this.#clearVersion(body);
      await rm(this.#o.imageDir(arn), { recursive: true, force: true });
    };
    void this.#begin({ imageArn: arn }, clear, {
      done: () => this.#forgetImage(arn),
      failed: async () => {
        await catalog.change(async () => {
          const image = await catalog.image(arn);
          const versions = await catalog.versionsOf(arn);
          return {
            answer: undefined,
            writes: [
              ...saveIf(catalog.saveImage.bind(catalog), image, imageMoved(image.body, 'delete-failed', clock.now())),
              ...versions.flatMap((row) =>
                saveIf(catalog.saveVersion.bind(catalog), row, versionMoved(row.body, 'delete-failed', clock.now())),
              ),
            ],
          };
        });
      },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error('the server is stopping'));
    await Promise.allSettled([...this.#running]);
  }

  #begin(
    what: Readonly<Record<string, string>>,
    clear: () => Promise<void>,
    outcome: { done: () => Promise<void>; failed: () => Promise<void> },
  ): Promise<void> {
    const log = this.#o.log.child(what);
    const work = this.#attempt(log, clear, outcome).catch((error: unknown) => {
      if (this.#stop.signal.aborted) return;
      log.error({ error: messageOf(error) }, 'a removal could not be carried out; the next start takes it up');
    });
    this.#running.add(work);
    void work.finally(() => this.#running.delete(work));
    return work;
  }

  async #attempt(
    log: Logger,
    clear: () => Promise<void>,
    outcome: { done: () => Promise<void>; failed: () => Promise<void> },
  ): Promise<void> {
    const { signal } = this.#stop;
    for (const pauseMs of [...PAUSES_MS, null]) {
      try {
        await withDeadline('removing a snapshot', STEP_TIMEOUT_MS, clear, { signal });
        await outcome.done();
        log.info({}, 'removed');
        return;
      } catch (error) {
        signal.throwIfAborted();
        log.warn({ error: messageOf(error), pauseMs }, 'a removal failed');
      }
      if (pauseMs !== null) await this.#pause(pauseMs);
    }
    await outcome.failed();
  }

  async #clearVersion(version: VersionRecord): Promise<void> {
    await this.#o.cancelBuild(version.buildId);
    const snapshotDir = this.#o.snapshotDirOf(version);
    const dir = path.dirname(snapshotDir);
    for (const number of snapshotsOf(version))
      await this.#o.engine.deleteSnapshot(path.join(dir, snapshotName(number)));
    await rm(dir, { recursive: true, force: true });
    await this.#o.logs.remove(version.buildId);
  }

  async #forgetVersion({ imageArn: arn, version }: VersionRecord): Promise<void> {
    const { catalog, clock } = this.#o;
    await catalog.change(async () => {
      const image = await catalog.image(arn);
      const versions = await catalog.versionsOf(arn);
      const left = versions.map((row) => row.body).filter((body) => body.version !== version);
      const moved = imageMoved(image.body, 'deleted', clock.now());
      return {
        answer: undefined,
        writes: [
          ...saveIf(catalog.saveImage.bind(catalog), image, moved && { ...moved, ...latestOf(left) }),
          ...versions.filter((row) => row.body.version === version).map((row) => catalog.versions.delete(row)),
          ...(await catalog.buildsOf(arn, version)).map((row) => catalog.builds.delete(row)),
          releaseClaims(versionId(arn, version)),
        ],
      };
    });
  }

  async #forgetImage(arn: string): Promise<void> {
    const { catalog } = this.#o;
    await catalog.change(async () => {
      const image: Row<ImageRecord> = await catalog.image(arn);
      const versions = await catalog.versionsOf(arn);
      const builds: readonly Row<BuildRecord>[] = await catalog.allBuildsOf(arn);
      return {
        answer: undefined,
        writes: [
          catalog.images.delete(image),
          ...versions.flatMap((row) => [catalog.versions.delete(row), releaseClaims(row.id)]),
          ...builds.map((row) => catalog.builds.delete(row)),
        ],
      };
    });
  }

  async #pause(delayMs: number): Promise<void> {
    const { signal } = this.#stop;
    const over = Promise.withResolvers<void>();
    const stop = () => over.reject(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
    using _timer = this.#o.clock.after(delayMs, () => over.resolve());
    try {
      await over.promise;
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }
}

function saveIf<Body, W>(save: (seen: Row<Body>, body: Body) => W, seen: Row<Body>, body: Body | undefined): W[] {
  return body === undefined ? [] : [save(seen, body)];
}
