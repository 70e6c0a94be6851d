/** Images, versions and their builds as they begin. */
import type { Ids } from '../lib/index.ts';
import type { BuildRecord, ImageRecord, VersionRecord } from './lifecycle.ts';
import type { VersionConfig } from './types.ts';

/** Listed in this order. Source: recorded. */
const GENERATIONS = ['4', '3'] as const;

export interface NewVersion {
  readonly version: VersionRecord;
  readonly builds: readonly BuildRecord[];
}

export function newImage(
  ids: Ids,
  given: { readonly arn: string; readonly name: string; readonly tags: ImageRecord['tags']; readonly at: number },
): ImageRecord {
  return {
    arn: given.arn,
    id: ids.uuid(),
    name: given.name,
    state: 'CREATING',
    latestActiveVersion: null,
    latestFailedVersion: null,
    lastMajor: 1,
    tags: given.tags,
    createdAt: given.at,
    updatedAt: given.at,
  };
}

/** The version with the image's `lastMajor`; nothing public says what would raise a minor number. */
export function newVersion(
  ids: Ids,
  image: ImageRecord,
  config: VersionConfig,
  at: number,
  origin: Pick<VersionRecord, 'principal' | 'rebuildOf' | 'importId'>,
): NewVersion {
  const version = `${image.lastMajor}.0`;
  const builds = GENERATIONS.map(
    (chipsetGeneration): BuildRecord => ({
      buildId: ids.uuid(),
      imageArn: image.arn,
      version,
      chipsetGeneration,
      state: 'PENDING',
      createdAt: at,
    }),
  );
  const [{ buildId } = { buildId: '' }] = builds;
  return {
    version: {
      imageArn: image.arn,
      imageName: image.name,
      version,
      config,
      buildId,
      ...origin,
      state: 'PENDING',
      createdAt: at,
      updatedAt: at,
    },
    builds,
  };
}
