/**
 * What becomes of a version whose sealed snapshot is found damaged: FAILED, with the reason on its builds (where reasons
 * stand), and the image's latest version is another one. Nothing on disk is touched: the root disk it was made of may be whole.
 */
import path from 'node:path';
import type { SnapshotDamage } from '../engine/index.ts';
import { type Clock, DomainError, type Logger, messageOf } from '../lib/index.ts';
import type { Row } from '../store/index.ts';
import { type Catalog, versionId } from './catalog.ts';
import { imageArn, type Owner } from './image-arn.ts';
import { buildAfter, latestOf, type VersionRecord, versionAfter } from './lifecycle.ts';
import { newestSnapshot, snapshotNumber } from './upkeep/snapshots.ts';

const CODE = 'SNAPSHOT_DAMAGED';

export interface DamageOptions {
  readonly catalog: Catalog;
  readonly owner: Owner;
  readonly stateDir: string;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Never rejects: the finder has its own error to report. */
export async function takeDamage({ snapshotDir, part }: SnapshotDamage, options: DamageOptions): Promise<void> {
  const found = ownerOf(path.join(options.stateDir, 'images'), snapshotDir);
  if (found === undefined) return;
  const arn = imageArn(options.owner, found.name);
  const log = options.log.child({ imageArn: arn, imageVersion: found.version });
  try {
    const isNew = await markDamaged(options.catalog, arn, found, part, options.clock.now());
    if (isNew) log.error({ part }, 'version marked FAILED: its snapshot is damaged');
  } catch (error) {
    log.error({ error: messageOf(error) }, 'a damaged version could not be marked');
  }
}

/** Image and version that a snapshot's folder belongs to, below the folder of all images. */
function ownerOf(
  imagesDir: string,
  snapshotDir: string,
): { name: string; version: string; snapshot: number } | undefined {
  const [name, version, leaf = '', more] = path.relative(imagesDir, snapshotDir).split(path.sep);
  const snapshot = snapshotNumber(leaf);
  if (name === undefined || version === undefined || snapshot === undefined || more !== undefined) return undefined;
  return name === '..' ? undefined : { name, version, snapshot };
}

/** False when the version is not one that could be launched, or is gone. */
async function markDamaged(
  catalog: Catalog,
  arn: string,
  { version, snapshot }: { readonly version: string; readonly snapshot: number },
  part: SnapshotDamage['part'],
  at: number,
): Promise<boolean> {
  const event = { type: 'damaged', reason: `${CODE}: Its sealed snapshot is damaged (${part}). ${ADVICE}` } as const;
  const result = await catalog.change(async () => {
    const row = await catalog.versions.get(versionId(arn, version));
    // An earlier one is for the microVMs that were launched from it: they are told when they resume.
    const isLaunched = row !== undefined && newestSnapshot(row.body) === snapshot;
    const damaged = isLaunched ? versionAfter(row.body, event, at) : undefined;
    if (row === undefined || damaged === undefined) return { answer: false, writes: [] };
    const image = await catalog.image(arn);
    const versions = (await catalog.versionsOf(arn)).map(({ body }) => (body.version === version ? damaged : body));
    const builds = (await catalog.buildsOf(arn, version)).flatMap((seen) => {
      const build = buildAfter(seen.body, event);
      return build === undefined ? [] : [catalog.saveBuild(seen, build)];
    });
    const writes = [
      catalog.saveImage(image, { ...image.body, ...latestOf(versions), updatedAt: at }),
      catalog.saveVersion(row, damaged),
      ...builds,
    ];
    return { answer: true, writes };
  });
  return result.kind === 'done' && result.answer;
}

/** Whoever asks for a damaged version by name is told what to do. */
export async function refuseDamaged(catalog: Catalog, row: Row<VersionRecord> | undefined): Promise<void> {
  if (row?.body.state !== 'FAILED') return;
  const { imageArn, version } = row.body;
  for (const { body } of await catalog.buildsOf(imageArn, version)) {
    if (body.state !== 'FAILED' || !body.reason.startsWith(CODE)) continue;
    throw new DomainError(
      'NOT_FOUND',
      `Version ${version} of ${imageArn} cannot be launched: its snapshot is damaged. ${ADVICE}`,
    );
  }
}

const ADVICE =
  'Make its next version from what is left of it: rekindle images rebuild <image> --image-version <version>';
