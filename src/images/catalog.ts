/**
 * Images, versions and builds as rows, and the one write that moves all that belong to a build.
 *
 * Invariant: image, version and builds never disagree about a build's outcome, because they are written together.
 */
import type { Claim, Records, Row, Store, Write, WriteResult } from '../store/index.ts';
import { imageNotFound, versionNotFound } from './image-arn.ts';
import {
  type BuildEvent,
  type BuildRecord,
  buildAfter,
  type ImageRecord,
  imageAfter,
  type VersionRecord,
  versionAfter,
} from './lifecycle.ts';

/** More conflicts than this in a row on one image mean a bug, not a race. */
const MAX_CONFLICTS = 20;

export class Catalog {
  readonly images: Records<ImageRecord>;
  readonly versions: Records<VersionRecord>;
  readonly builds: Records<BuildRecord>;
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
    this.images = store.records<ImageRecord>('images');
    this.versions = store.records<VersionRecord>('versions');
    this.builds = store.records<BuildRecord>('builds');
  }

  /** @throws DomainError `NOT_FOUND` */
  async image(arn: string): Promise<Row<ImageRecord>> {
    const row = await this.images.get(arn);
    if (row === undefined) throw imageNotFound(arn);
    return row;
  }

  /** @throws DomainError `NOT_FOUND` */
  async version(arn: string, version: string): Promise<Row<VersionRecord>> {
    const row = await this.versions.get(versionId(arn, version));
    if (row === undefined) throw versionNotFound(arn, version);
    return row;
  }

  async buildsOf(arn: string, version: string): Promise<readonly Row<BuildRecord>[]> {
    return this.builds.list({ group: arn, subgroup: version, limit: 50 });
  }

  create(
    image: ImageRecord,
    version: VersionRecord,
    builds: readonly BuildRecord[],
    claim: Claim | undefined,
  ): Promise<WriteResult> {
    const writes: Write[] = [
      this.images.insert(imageRow(image)),
      this.versions.insert(versionRow(version)),
      ...builds.map((build) => this.builds.insert(buildRow(build))),
    ];
    return this.#store.write(writes, claim);
  }

  /** Applies a build's event to everything it concerns. False when it came too late for the version. */
  async record(arn: string, version: string, event: BuildEvent, at: number): Promise<boolean> {
    for (let attempt = 0; attempt < MAX_CONFLICTS; attempt++) {
      const imageRowNow = await this.image(arn);
      const versionRowNow = await this.version(arn, version);
      const versionThen = versionAfter(versionRowNow.body, event, at);
      if (versionThen === undefined) return false;
      const imageThen = imageAfter(imageRowNow.body, version, event, at);
      const writes: Write[] = [this.versions.save({ ...versionRow(versionThen), revision: versionRowNow.revision })];
      if (imageThen !== undefined) {
        writes.push(this.images.save({ ...imageRow(imageThen), revision: imageRowNow.revision }));
      }
      for (const row of await this.buildsOf(arn, version)) {
        const build = buildAfter(row.body, event);
        if (build !== undefined) writes.push(this.builds.save({ ...buildRow(build), revision: row.revision }));
      }
      if ((await this.#store.write(writes)).kind === 'written') return true;
    }
    throw new Error(`the records of ${arn} ${version} kept changing under ${event.type}`);
  }

  /** Versions in one of `states`, oldest first. */
  async versionsIn(states: readonly VersionRecord['state'][]): Promise<VersionRecord[]> {
    const found: VersionRecord[] = [];
    const limit = 200;
    for (let afterId = ''; ; ) {
      const page = await this.versions.inStates(states, { afterId, limit });
      found.push(...page.map((row) => row.body));
      const last = page.at(-1);
      if (last === undefined || page.length < limit) break;
      afterId = last.id;
    }
    return found.sort((a, b) => a.createdAt - b.createdAt);
  }
}

function versionId(arn: string, version: string): string {
  return `${arn}#${version}`;
}

function imageRow(image: ImageRecord) {
  const { arn: id, state, createdAt } = image;
  return { id, state, group: '', subgroup: '', createdAt, dueAt: null, body: image };
}

function versionRow(version: VersionRecord) {
  const { imageArn, state, createdAt } = version;
  const id = versionId(imageArn, version.version);
  return { id, state, group: imageArn, subgroup: '', createdAt, dueAt: null, body: version };
}

/** Lists are newest first; the generation breaks the tie so that 4 stands before 3, as recorded. */
function buildRow(build: BuildRecord) {
  const { buildId: id, state, imageArn, version } = build;
  const createdAt = build.createdAt + Number(build.chipsetGeneration);
  return { id, state, group: imageArn, subgroup: version, createdAt, dueAt: null, body: build };
}
