/**
 * Images, versions and builds as rows, and the one write that moves all that belong to a build.
 *
 * Invariant: image, version and builds never disagree about a build's outcome, because they are written together.
 */
import type { Claim, Records, Row, Store, Write } from '../store/index.ts';
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
import type { NewVersion } from './new-records.ts';
import type { Condition } from './quotas.ts';

/** What is to be written, if its conditions hold, and what the caller gets then. */
export interface Change<T> {
  readonly answer: T;
  readonly writes: readonly Write[];
  readonly conditions?: readonly Condition[];
  readonly claim?: Claim | undefined;
}

/** `claimed`: the client token was used before and nothing was written. */
export type Changed<T> =
  | { readonly kind: 'done'; readonly answer: T }
  | { readonly kind: 'claimed'; readonly claim: Claim };

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

  /** Every version of an image, newest first. */
  async versionsOf(arn: string): Promise<readonly Row<VersionRecord>[]> {
    return all((query) => this.versions.list({ ...query, group: arn }));
  }

  async allBuildsOf(arn: string): Promise<readonly Row<BuildRecord>[]> {
    return all((query) => this.builds.list({ ...query, group: arn }));
  }

  newImage(image: ImageRecord): Write {
    return this.images.insert(imageRow(image));
  }

  newVersion({ version, builds }: NewVersion): Write[] {
    return [this.versions.insert(versionRow(version)), ...builds.map((build) => this.builds.insert(buildRow(build)))];
  }

  /** The image as it was seen, with another body. */
  saveImage(seen: Row<ImageRecord>, body: ImageRecord): Write {
    return this.images.save({ ...imageRow(body), revision: seen.revision });
  }

  saveVersion(seen: Row<VersionRecord>, body: VersionRecord): Write {
    return this.versions.save({ ...versionRow(body), revision: seen.revision });
  }

  saveBuild(seen: Row<BuildRecord>, body: BuildRecord): Write {
    return this.builds.save({ ...buildRow(body), revision: seen.revision });
  }

  /**
   * Reads, decides and writes as one: `decide` is asked again when what it saw has changed meanwhile. Whatever it bases
   * its decision on must be among its writes or conditions; every change of an image or its versions writes the image.
   * @throws DomainError of the condition that does not hold; whatever `decide` throws
   */
  async change<T>(decide: () => Promise<Change<T>>): Promise<Changed<T>> {
    for (let attempt = 0; attempt < MAX_CONFLICTS; attempt++) {
      const { answer, writes, conditions = [], claim } = await decide();
      const result = await this.#store.write([...conditions.map(({ write }) => write), ...writes], claim);
      if (result.kind === 'written') return { kind: 'done', answer };
      if (result.kind === 'claimed') return result;
      const failed = conditions[result.index];
      if (failed !== undefined) throw failed.refusal();
    }
    throw new Error('images or versions kept changing under a command');
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
    const found = await allInStates(this.versions, states);
    return found.sort((a, b) => a.createdAt - b.createdAt);
  }

  /** Of any state, by name. */
  async everyImage(): Promise<ImageRecord[]> {
    const rows = await all<ImageRecord>((query) => this.images.list(query));
    return rows.map(({ body }) => body).sort((a, b) => a.name.localeCompare(b.name));
  }

  /** Whether a version still waits for, or is made of, what was imported under this id. */
  async importing(importId: string): Promise<boolean> {
    return (await this.versionsIn(['PENDING', 'IN_PROGRESS'])).some((version) => version.importId === importId);
  }

  async imagesIn(states: readonly ImageRecord['state'][]): Promise<ImageRecord[]> {
    return allInStates(this.images, states);
  }
}

const PAGE = 200;

async function allInStates<Body>(records: Records<Body>, states: readonly string[]): Promise<Body[]> {
  const found: Body[] = [];
  for (let afterId = ''; ; ) {
    const page = await records.inStates(states, { afterId, limit: PAGE });
    found.push(...page.map((row) => row.body));
    const last = page.at(-1);
    if (last === undefined || page.length < PAGE) return found;
    afterId = last.id;
  }
}

async function all<Body>(
  list: (query: { after?: Row<Body>; limit: number }) => Promise<readonly Row<Body>[]>,
): Promise<Row<Body>[]> {
  const found: Row<Body>[] = [];
  for (let after: { after?: Row<Body> } = {}; ; ) {
    const page = await list({ ...after, limit: PAGE });
    found.push(...page);
    const last = page.at(-1);
    if (last === undefined || page.length < PAGE) return found;
    after = { after: last };
  }
}

export function versionId(arn: string, version: string): string {
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
