/**
 * What lies in the folders of images and builds that no record owns: left by a crash between two steps, by hand, or by a
 * removal that could not be finished.
 *
 * Invariant: folders are listed before records are asked. Records are written before anything of theirs is made, so what was
 * there before and has no record afterwards belongs to nobody, unless a new record takes the name: `Holds` keeps that off.
 */
import path from 'node:path';
import type { Catalog } from '../catalog.ts';
import { versionId } from '../catalog.ts';
import { imageArn, type Owner } from '../image-arn.ts';
import type { VersionRecord } from '../lifecycle.ts';
import { PROVENANCE_NAME } from '../provenance/facts.ts';
import type { Holds } from './holds.ts';
import { snapshotName, snapshotsOf } from './snapshots.ts';
import { namesIn } from './space.ts';

export interface Places {
  readonly stateDir: string;
  readonly owner: Owner;
}

export interface Unowned {
  /** Below the state folder. */
  readonly path: string;
  readonly why: string;
  /** Name of the image whose records decide; undefined where ids are never used twice. */
  readonly image: string | undefined;
}

/** Folder of all images, of the builds under way, of what is being imported, of build logs. */
export const IMAGES_DIR = 'images';
export const BUILDS_DIR = 'builds';
export const IMPORTS_DIR = 'imports';
export const BUILD_LOGS_DIR = path.join('logs', 'builds');

export async function* unowned(places: Places, catalog: Catalog, holds: Holds): AsyncGenerator<Unowned> {
  const { stateDir } = places;
  for (const image of await namesIn(path.join(stateDir, IMAGES_DIR))) yield* inImage(places, catalog, holds, image);
  for (const id of await namesIn(path.join(stateDir, BUILDS_DIR))) {
    if (holds.has(id) || (await isBuilding(catalog, id))) continue;
    yield { path: path.join(BUILDS_DIR, id), why: 'no build of this id is under way', image: undefined };
  }
  for (const id of await namesIn(path.join(stateDir, IMPORTS_DIR))) {
    if (holds.has(id) || (await catalog.importing(id))) continue;
    yield { path: path.join(IMPORTS_DIR, id), why: 'no import of this id is under way', image: undefined };
  }
  for (const name of await namesIn(path.join(stateDir, BUILD_LOGS_DIR))) {
    const build = await catalog.builds.get(name.replace(/\.log$/, ''));
    if (build !== undefined) continue;
    yield { path: path.join(BUILD_LOGS_DIR, name), why: 'its build is not on record', image: undefined };
  }
}

/** What of one image's folder nothing owns now. */
export async function* inImage(
  { stateDir, owner }: Places,
  catalog: Catalog,
  holds: Holds,
  image: string,
): AsyncGenerator<Unowned> {
  const dir = path.join(IMAGES_DIR, image);
  const versions = await namesIn(path.join(stateDir, dir));
  const arn = imageArn(owner, image);
  if ((await catalog.images.get(arn)) === undefined) {
    yield { path: dir, why: 'no image of this name is on record', image };
    return;
  }
  for (const version of versions) {
    const names = await namesIn(path.join(stateDir, dir, version));
    // Before the record is read: whoever lets go of it has written that.
    if (holds.has(versionId(arn, version))) continue;
    const record = (await catalog.versions.get(versionId(arn, version)))?.body;
    if (record === undefined) {
      yield { path: path.join(dir, version), why: 'no version of this number is on record', image };
      continue;
    }
    if (isChanging(record)) continue;
    const kept = new Set([PROVENANCE_NAME, ...snapshotsOf(record).map(snapshotName)]);
    for (const name of names) {
      if (kept.has(name)) continue;
      const why = name.includes('.draft-') ? 'nobody is writing it any more' : 'its version has no such part';
      yield { path: path.join(dir, version, name), why, image };
    }
  }
}

/** Somebody may be making or removing parts of it. */
function isChanging({ state }: VersionRecord): boolean {
  return state === 'PENDING' || state === 'IN_PROGRESS' || state === 'DELETING';
}

async function isBuilding(catalog: Catalog, buildId: string): Promise<boolean> {
  const build = (await catalog.builds.get(buildId))?.body;
  return build?.state === 'PENDING' || build?.state === 'IN_PROGRESS';
}
