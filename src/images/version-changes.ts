/** Changes of a version's status, and its way to deletion. Nothing else may be under way on its image, but for its own build. */
import assert from 'node:assert/strict';
import { type Clock, DomainError, type Logger } from '../lib/index.ts';
import type { Row, Store } from '../store/index.ts';
import type { Catalog } from './catalog.ts';
import { versionUnused } from './in-use.ts';
import {
  IMAGE_TRANSITIONS,
  type ImageRecord,
  imageMoved,
  isBuilding,
  latestOf,
  type VersionRecord,
  versionMoved,
} from './lifecycle.ts';
import type { VersionStatus, VersionView } from './types.ts';
import { versionViewOf } from './views.ts';

export interface VersionChangesOptions {
  readonly catalog: Catalog;
  readonly store: Store;
  readonly clock: Clock;
  readonly log: Logger;
}

export class VersionChanges {
  readonly #o: VersionChangesOptions;

  constructor(options: VersionChangesOptions) {
    this.#o = options;
  }

  /** Decides over launches from now on; what runs, sleeps or was accepted before goes on. GUESS: deactivate-running */
  async setStatus(arn: string, imageVersion: string, status: VersionStatus): Promise<VersionView> {
    const result = await this.#o.catalog.change<VersionRecord>(async () => {
      const image = await changeable(this.#o.catalog, arn);
      const seen = await this.#o.catalog.version(arn, imageVersion);
      if (seen.body.state !== 'SUCCESSFUL') {
        if (status === 'INACTIVE') return { answer: seen.body, writes: [] };
        // GUESS: activate-unsuccessful
        const text = `The version ${imageVersion} of ${arn} cannot be activated: its build was not successful.`;
        throw new DomainError('INVALID', text);
      }
      if (seen.body.status === status) return { answer: seen.body, writes: [] };
      const at = this.#o.clock.now();
      const version = { ...seen.body, status, updatedAt: at };
      const versions = (await this.#o.catalog.versionsOf(arn)).map((row) => (row.id === seen.id ? version : row.body));
      const { latestActiveVersion } = latestOf(versions);
      return {
        answer: version,
        writes: [
          this.#o.catalog.saveImage(image, { ...image.body, latestActiveVersion, updatedAt: at }),
          this.#o.catalog.saveVersion(seen, version),
        ],
      };
    });
    assert(result.kind === 'done', 'there was no client token');
    this.#o.log.info({ imageArn: arn, imageVersion, status }, 'version status set');
    return versionViewOf(result.answer);
  }

  /** Makes it DELETING. */
  async deleting(arn: string, imageVersion: string): Promise<VersionRecord> {
    const result = await this.#o.catalog.change(async () => {
      const version = await this.#o.catalog.version(arn, imageVersion);
      // The image is UPDATING for its build already.
      const isCalledOff = isBuilding(version.body);
      const seen = isCalledOff ? await this.#o.catalog.image(arn) : await changeable(this.#o.catalog, arn);
      const at = this.#o.clock.now();
      const image = isCalledOff ? { ...seen.body, updatedAt: at } : imageMoved(seen.body, 'update', at);
      const going = versionMoved(version.body, 'delete', at);
      if (image === undefined || going === undefined) throw busy(seen.body);
      if ((await this.#o.catalog.versions.list({ group: arn, limit: 2 })).length < 2) {
        // GUESS: last-version-text
        const text = `Cannot delete the last version ${imageVersion} of a MicroVM image. Delete the image instead.`;
        throw new DomainError('INVALID', text);
      }
      return {
        answer: going,
        conditions: [versionUnused(this.#o.store, arn, imageVersion)],
        writes: [this.#o.catalog.saveImage(seen, image), this.#o.catalog.saveVersion(version, going)],
      };
    });
    assert(result.kind === 'done', 'there was no client token');
    this.#o.log.info({ imageArn: arn, imageVersion }, 'version being deleted');
    return result.answer;
  }
}

/** The image, if nothing is under way on it. @throws DomainError `NOT_FOUND`, `CONFLICT` */
export async function changeable(catalog: Catalog, arn: string): Promise<Row<ImageRecord>> {
  const row = await catalog.image(arn);
  if (IMAGE_TRANSITIONS[row.body.state].update === null) throw busy(row.body);
  return row;
}

/** Recorded for UPDATING; the same words for the other states in which nothing can be changed. GUESS: busy-image */
export function busy(image: ImageRecord): DomainError {
  return new DomainError('CONFLICT', `MicroVM Image is already in state: ${image.state}`);
}
