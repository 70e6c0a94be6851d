/**
 * `rekindle du`: what the state folder takes on disk, by who it belongs to: each image version with the parts of its
 * snapshot, each microVM with what it changed, builds under way, build caches, logs, objects, and what nothing owns.
 */
import { statfs } from 'node:fs/promises';
import path from 'node:path';
import type { Store } from '../../store/index.ts';
import type { Catalog } from '../catalog.ts';
import { HOLDING_STATES } from '../in-use.ts';
import { statusOf, type VersionRecord } from '../lifecycle.ts';
import type { VersionState, VersionStatus } from '../types.ts';
import type { Holds } from './holds.ts';
import { snapshotName, snapshotsOf } from './snapshots.ts';
import { forEachOf, NOTHING, namesIn, type Space, spaceOf, sum } from './space.ts';
import { BUILD_LOGS_DIR, BUILDS_DIR, IMAGES_DIR, IMPORTS_DIR, type Places, unowned } from './unowned.ts';

export type SnapshotPart = 'ram' | 'state' | 'disk' | 'changes';
const PARTS: readonly SnapshotPart[] = ['ram', 'state', 'disk', 'changes'];

export interface VersionUse extends Space {
  readonly imageVersion: string;
  readonly state: VersionState;
  readonly status: VersionStatus;
  /** Of the snapshot that is launched. `disk` of a FAILED version is what `images rebuild` starts from. */
  readonly parts: Readonly<Record<SnapshotPart, Space>>;
  /** Earlier snapshots that suspended microVMs still need. */
  readonly earlier: Space;
  readonly buildLog: Space;
  /** Of the microVMs launched from it; not part of `bytes`. */
  readonly microvms: Space & { readonly count: number };
}

export interface ImageUse extends Space {
  readonly imageArn: string;
  readonly name: string;
  readonly versions: readonly VersionUse[];
}

export interface MicrovmUse extends Space {
  readonly microvmId: string;
  readonly imageArn: string;
  readonly imageVersion: string;
  readonly state: string;
  /** What it wrote to its disk. */
  readonly overlay: Space;
  /** Memory and devices of a suspended one. */
  readonly suspended: Space;
  readonly checkpoints: Space;
}

export interface NamedUse extends Space {
  readonly name: string;
}

export interface UnownedUse extends Space {
  readonly path: string;
  readonly why: string;
}

export interface DiskUse {
  /** Of the whole state folder, or of one image and its microVMs. */
  readonly total: Space;
  readonly images: readonly ImageUse[];
  readonly microvms: readonly MicrovmUse[];
  /** The rest is told of the whole folder only. */
  readonly builds?: readonly NamedUse[];
  readonly imports?: readonly NamedUse[];
  readonly caches?: readonly NamedUse[];
  readonly logs?: readonly NamedUse[];
  readonly buckets?: readonly NamedUse[];
  readonly others?: readonly NamedUse[];
  readonly unowned?: readonly UnownedUse[];
  readonly fileSystem: { readonly bytes: number; readonly freeBytes: number };
}

export interface DiskUseOptions extends Places {
  readonly store: Store;
  readonly catalog: Catalog;
  readonly holds: Holds;
}

/** Folders that are told item by item; everything else in the state folder is one of the others. */
const TOLD = new Set([IMAGES_DIR, 'microvms', BUILDS_DIR, IMPORTS_DIR, 'builder-cache', 'logs', 'objects']);
const PAGE = 500;

/** @param arn of one image */
export async function diskUse(o: DiskUseOptions, arn: string | undefined, signal: AbortSignal): Promise<DiskUse> {
  const microvms = await microvmUse(o, arn, signal);
  const images: ImageUse[] = [];
  const seen = arn === undefined ? await o.catalog.everyImage() : [(await o.catalog.image(arn)).body];
  for (const { arn: imageArn, name } of seen) {
    const versions: VersionUse[] = [];
    for (const { body } of await o.catalog.versionsOf(imageArn)) {
      const own = microvms.filter((vm) => vm.imageArn === imageArn && vm.imageVersion === body.version);
      versions.push(await versionUse(o, body, own, signal));
    }
    images.push({ imageArn, name, ...sum(versions), versions });
  }
  const { bsize, blocks, bavail } = await statfs(o.stateDir);
  const fileSystem = { bytes: bsize * blocks, freeBytes: bsize * bavail };
  if (arn !== undefined) return { total: sum([...images, ...microvms]), images, microvms, fileSystem };
  const children = (name: string) => childrenOf(path.join(o.stateDir, name), signal);
  const others = await childrenOf(o.stateDir, signal, (name) => !TOLD.has(name));
  return {
    total: await spaceOf(o.stateDir, signal),
    images,
    microvms,
    builds: await children(BUILDS_DIR),
    imports: await children(IMPORTS_DIR),
    caches: await children('builder-cache'),
    logs: await children('logs'),
    buckets: await children('objects'),
    others: others.sort((a, b) => b.bytes - a.bytes),
    unowned: await unownedUse(o, microvms, signal),
    fileSystem,
  };
}

async function versionUse(
  { stateDir }: DiskUseOptions,
  record: VersionRecord,
  microvms: readonly MicrovmUse[],
  signal: AbortSignal,
): Promise<VersionUse> {
  const dir = path.join(stateDir, IMAGES_DIR, record.imageName, record.version);
  const [newest = 1, ...earlier] = snapshotsOf(record);
  const snapshot = path.join(dir, snapshotName(newest));
  const part = async (name: SnapshotPart) => [name, await spaceOf(path.join(snapshot, name), signal)] as const;
  const parts = Object.fromEntries(await Promise.all(PARTS.map(part))) as Record<SnapshotPart, Space>;
  const buildLog = await spaceOf(path.join(stateDir, BUILD_LOGS_DIR, `${record.buildId}.log`), signal);
  return {
    imageVersion: record.version,
    state: record.state,
    status: statusOf(record),
    ...sum([await spaceOf(dir, signal), buildLog]),
    parts,
    earlier: sum(await Promise.all(earlier.map((n) => spaceOf(path.join(dir, snapshotName(n)), signal)))),
    buildLog,
    microvms: { count: microvms.length, ...sum(microvms) },
  };
}

async function microvmUse(
  { stateDir, store }: DiskUseOptions,
  arn: string | undefined,
  signal: AbortSignal,
): Promise<MicrovmUse[]> {
  const records = store.records<unknown>('microvms');
  const found: MicrovmUse[] = [];
  for (let afterId = ''; ; ) {
    const rows = await records.inStates(HOLDING_STATES, { afterId, limit: PAGE });
    await forEachOf(
      rows.filter(({ group }) => arn === undefined || group === arn),
      async ({ id, group, subgroup, state }) => {
        const dir = path.join(stateDir, 'microvms', id);
        const below = (name: string) => spaceOf(path.join(dir, name), signal);
        found.push({
          microvmId: id,
          imageArn: group,
          imageVersion: subgroup,
          state,
          ...(await spaceOf(dir, signal)),
          overlay: await below('overlay.qcow2'),
          suspended: await below('delta'),
          checkpoints: await below('checkpoints'),
        });
      },
    );
    const last = rows.at(-1);
    if (last === undefined || rows.length < PAGE) break;
    afterId = last.id;
  }
  return found.sort((a, b) => b.bytes - a.bytes || a.microvmId.localeCompare(b.microvmId));
}

async function unownedUse(
  o: DiskUseOptions,
  microvms: readonly MicrovmUse[],
  signal: AbortSignal,
): Promise<UnownedUse[]> {
  const found: UnownedUse[] = [];
  for await (const { path: below, why } of unowned(o, o.catalog, o.holds)) {
    found.push({ path: below, why, ...(await spaceOf(path.join(o.stateDir, below), signal)) });
  }
  const known = new Set(microvms.map(({ microvmId }) => microvmId));
  for (const id of await namesIn(path.join(o.stateDir, 'microvms'))) {
    if (!/^microvm-/.test(id) || known.has(id)) continue;
    const row = await o.store.records<unknown>('microvms').get(id);
    // It was launched, or ended, since the records were read.
    if (row !== undefined) continue;
    const why = "no microVM of this id is on record: the server's next start removes it";
    found.push({
      path: path.join('microvms', id),
      why,
      ...(await spaceOf(path.join(o.stateDir, 'microvms', id), signal)),
    });
  }
  return found;
}

async function childrenOf(
  dir: string,
  signal: AbortSignal,
  isWanted: (name: string) => boolean = () => true,
): Promise<NamedUse[]> {
  const found: NamedUse[] = [];
  for (const name of await namesIn(dir)) {
    if (!isWanted(name)) continue;
    const space = await spaceOf(path.join(dir, name), signal);
    if (space !== NOTHING) found.push({ name, ...space });
  }
  return found;
}
