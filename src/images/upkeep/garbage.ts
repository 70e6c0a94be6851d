/**
 * `rekindle images gc`: takes away what no record owns and, when asked to, inactive and failed versions beyond the newest
 * few. Whether something is garbage is decided by records and holds alone, never by its age on disk, so it may run beside
 * builds and launches; run again it finds nothing more to do.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { DomainError } from '../../lib/index.ts';
import type { Store } from '../../store/index.ts';
import type { Catalog } from '../catalog.ts';
import { imageArn } from '../image-arn.ts';
import { HOLDING_STATES } from '../in-use.ts';
import { IMAGE_TRANSITIONS, type ImageRecord, type VersionRecord } from '../lifecycle.ts';
import type { Holds } from './holds.ts';
import { type Space, spaceOf, sum } from './space.ts';
import { IMAGES_DIR, inImage, type Places, type Unowned, unowned } from './unowned.ts';

export interface GarbageRequest {
  /** Only say what would go. */
  readonly dryRun: boolean;
  /** Of each image so many inactive or failed versions stay, the newest. Absent, and no `olderThanDays`: all stay. */
  readonly keep?: number | undefined;
  /** Only versions that last changed so many days ago or earlier. */
  readonly olderThanDays?: number | undefined;
}

export interface GarbageFile extends Space {
  /** Below the state folder. */
  readonly path: string;
  readonly why: string;
}

export interface GarbageVersion extends Space {
  readonly imageArn: string;
  readonly imageVersion: string;
  readonly why: string;
}

export interface Garbage {
  readonly dryRun: boolean;
  readonly files: readonly GarbageFile[];
  readonly versions: readonly GarbageVersion[];
  /** Versions that are old enough to go and stay none the less. */
  readonly left: readonly GarbageVersion[];
  /** Of `files` and `versions`. */
  readonly total: Space;
}

export interface GarbageOptions extends Places {
  readonly store: Store;
  readonly catalog: Catalog;
  readonly holds: Holds;
  readonly now: () => number;
  /** Resolves when it is gone. @throws DomainError when it may not go */
  readonly deleteVersion: (arn: string, version: string) => Promise<void>;
}

const DAY_MS = 86_400_000;

export async function collectGarbage(
  o: GarbageOptions,
  request: GarbageRequest,
  signal: AbortSignal,
): Promise<Garbage> {
  const { dryRun } = request;
  const files: GarbageFile[] = [];
  for await (const found of unowned(o, o.catalog, o.holds)) {
    signal.throwIfAborted();
    const space = await spaceOf(path.join(o.stateDir, found.path), signal);
    if (!dryRun && !(await clear(o, found))) continue;
    files.push({ path: found.path, why: found.why, ...space });
  }
  const { versions, left } = await oldVersions(o, request, signal);
  return { dryRun, files, versions, left, total: sum([...files, ...versions]) };
}

/** Looked at once more where a record may have come meanwhile. False when it has an owner after all. */
async function clear(o: GarbageOptions, { path: below, image }: Unowned): Promise<boolean> {
  const remove = async () => {
    await rm(path.join(o.stateDir, below), { recursive: true, force: true });
    return true;
  };
  if (image === undefined) return remove();
  return o.holds.withImage(imageArn(o.owner, image), async () => {
    for await (const again of inImage(o, o.catalog, o.holds, image)) if (again.path === below) return remove();
    return false;
  });
}

async function oldVersions(
  o: GarbageOptions,
  { dryRun, keep, olderThanDays = 0 }: GarbageRequest,
  signal: AbortSignal,
): Promise<Pick<Garbage, 'versions' | 'left'>> {
  const versions: GarbageVersion[] = [];
  const left: GarbageVersion[] = [];
  if (keep === undefined && olderThanDays === 0) return { versions, left };
  const before = o.now() - olderThanDays * DAY_MS;
  for (const { arn } of await o.catalog.everyImage()) {
    const all = (await o.catalog.versionsOf(arn)).map(({ body }) => body);
    let count = all.length;
    for (const version of all.filter(isSpent).slice(keep ?? 0)) {
      signal.throwIfAborted();
      if (version.updatedAt > before) continue;
      const dir = path.join(o.stateDir, IMAGES_DIR, version.imageName, version.version);
      const about = { imageArn: arn, imageVersion: version.version, ...(await spaceOf(dir, signal)) };
      try {
        if (dryRun) await demandFree(o, version, count);
        else await o.deleteVersion(arn, version.version);
        count -= 1;
        versions.push({ ...about, why: version.state === 'SUCCESSFUL' ? 'INACTIVE' : version.state });
      } catch (error) {
        if (!(error instanceof DomainError)) throw error;
        // Gone meanwhile.
        if (error.code !== 'NOT_FOUND') left.push({ ...about, why: error.message });
      }
    }
  }
  return { versions, left };
}

/** A launch that names no version takes an active one, and so may one that names it. */
function isSpent(version: VersionRecord): boolean {
  if (version.state === 'SUCCESSFUL') return version.status === 'INACTIVE';
  return version.state === 'FAILED' || version.state === 'DELETE_FAILED';
}

/** What a removal would be refused for. */
async function demandFree({ store, catalog }: GarbageOptions, version: VersionRecord, count: number): Promise<void> {
  const { imageArn: group, version: subgroup } = version;
  const { body: image } = await catalog.image(group);
  if (isBusy(image)) throw new DomainError('CONFLICT', `MicroVM Image is already in state: ${image.state}`);
  if (count < 2) throw new DomainError('INVALID', 'It is the last version of its image.');
  const microvms = await store.records<unknown>('microvms').list({ group, subgroup, limit: IN_USE_LIMIT });
  if (microvms.length === IN_USE_LIMIT || microvms.some(({ state }) => HOLDING_STATES.includes(state))) {
    throw new DomainError('INVALID', 'Cannot delete microvm image version with running microvms.');
  }
}

/** More records than this are not looked through to say what would happen. */
const IN_USE_LIMIT = 10_000;

function isBusy(image: ImageRecord): boolean {
  return IMAGE_TRANSITIONS[image.state].update === null;
}
