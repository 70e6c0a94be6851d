/**
 * The lives of image, version and build, as three transition tables and the pure functions over them. One build moves all
 * three; the caller writes them together.
 *
 * Source of states and of who moves whom: the model and the guide's images chapter. While one of its versions is being
 * deleted an image is UPDATING too (recorded).
 */
import type { BuildState, ImageState, VersionConfig, VersionState, VersionStatus } from './types.ts';

export interface ImageRecord {
  readonly arn: string;
  /** UUID, shown as the unmodelled `id`. */
  readonly id: string;
  readonly name: string;
  readonly state: ImageState;
  readonly latestActiveVersion: string | null;
  readonly latestFailedVersion: string | null;
  /** Major number of the newest version; never given out again. */
  readonly lastMajor: number;
  readonly tags: Readonly<Record<string, string>>;
  readonly createdAt: number;
  readonly updatedAt: number;
}

export interface BuildSizes {
  readonly codeBytes: number;
  readonly memoryBytes: number;
  readonly diskBytes: number;
}

interface VersionIdentity {
  readonly imageArn: string;
  readonly imageName: string;
  readonly version: string;
  readonly config: VersionConfig;
  /** The build that is really run; names its log and work folder. */
  readonly buildId: string;
  /** The version whose kept root disk it is made of; absent when it is built from its artifact. */
  readonly rebuildOf?: string;
  /** Folder below `imports/` with the root disk it is made of; absent when it was not imported. */
  readonly importId?: string;
  /** Numbers of the snapshots it has, that which is launched first; absent: only the first. */
  readonly snapshots?: readonly number[];
  /** SHA-256 of the file that says how it came to be; absent when that is not known. */
  readonly provenance?: string;
  /** ARN of who asked for it; absent in records from before it was kept. */
  readonly principal?: string;
  readonly createdAt: number;
  readonly updatedAt: number;
}

export type VersionRecord = VersionIdentity &
  (
    | { readonly state: Exclude<VersionState, 'SUCCESSFUL'> }
    | { readonly state: 'SUCCESSFUL'; readonly status: VersionStatus }
  );

interface BuildIdentity {
  readonly buildId: string;
  readonly imageArn: string;
  readonly version: string;
  readonly chipsetGeneration: string;
  readonly createdAt: number;
}

export type BuildRecord = BuildIdentity &
  (
    | { readonly state: 'PENDING' | 'IN_PROGRESS' }
    | { readonly state: 'SUCCESSFUL'; readonly sizes: BuildSizes }
    /** `codeBytes` once the container image was built. */
    | { readonly state: 'FAILED'; readonly reason: string; readonly codeBytes: number | null }
  );

export type BuildEvent =
  | { readonly type: 'started' }
  | { readonly type: 'succeeded'; readonly sizes: BuildSizes; readonly provenance?: string | undefined }
  | { readonly type: 'failed'; readonly reason: string; readonly codeBytes: number | null };
/** A sealed snapshot is not as it was written. */
export type DamageEvent = { readonly type: 'damaged'; readonly reason: string };
/** `deleted` and `delete-failed` tell the outcome for an image, or for one version of an image that stays. */
export type RemovalEvent = 'delete' | 'deleted' | 'delete-failed';
export type ImageEventType = BuildEvent['type'] | 'update' | RemovalEvent;

/** Null: cannot happen in this state. */
export const IMAGE_TRANSITIONS = {
  CREATING: {
    started: 'CREATING',
    succeeded: 'CREATED',
    failed: 'CREATE_FAILED',
    update: null,
    delete: 'DELETING',
    deleted: null,
    'delete-failed': null,
  },
  CREATED: {
    started: null,
    succeeded: null,
    failed: null,
    update: 'UPDATING',
    delete: 'DELETING',
    deleted: null,
    'delete-failed': null,
  },
  CREATE_FAILED: {
    started: null,
    succeeded: null,
    failed: null,
    update: 'UPDATING',
    delete: 'DELETING',
    deleted: null,
    'delete-failed': null,
  },
  UPDATING: {
    started: 'UPDATING',
    succeeded: 'UPDATED',
    failed: 'UPDATE_FAILED',
    update: null,
    delete: 'DELETING',
    deleted: 'UPDATED',
    'delete-failed': 'UPDATE_FAILED',
  },
  UPDATED: {
    started: null,
    succeeded: null,
    failed: null,
    update: 'UPDATING',
    delete: 'DELETING',
    deleted: null,
    'delete-failed': null,
  },
  UPDATE_FAILED: {
    started: null,
    succeeded: null,
    failed: null,
    update: 'UPDATING',
    delete: 'DELETING',
    deleted: null,
    'delete-failed': null,
  },
  DELETING: {
    started: null,
    succeeded: null,
    failed: null,
    update: null,
    delete: 'DELETING',
    deleted: 'DELETED',
    'delete-failed': 'DELETE_FAILED',
  },
  DELETE_FAILED: {
    started: null,
    succeeded: null,
    failed: null,
    update: null,
    delete: 'DELETING',
    deleted: null,
    'delete-failed': null,
  },
  DELETED: {
    started: null,
    succeeded: null,
    failed: null,
    update: null,
    delete: null,
    deleted: null,
    'delete-failed': null,
  },
} as const satisfies Record<ImageState, Record<ImageEventType, ImageState | null>>;

export const VERSION_TRANSITIONS = {
  PENDING: {
    started: 'IN_PROGRESS',
    succeeded: null,
    failed: 'FAILED',
    damaged: null,
    delete: 'DELETING',
    deleted: null,
    'delete-failed': null,
  },
  IN_PROGRESS: {
    started: null,
    succeeded: 'SUCCESSFUL',
    failed: 'FAILED',
    damaged: null,
    delete: 'DELETING',
    deleted: null,
    'delete-failed': null,
  },
  SUCCESSFUL: {
    started: null,
    succeeded: null,
    failed: null,
    damaged: 'FAILED',
    delete: 'DELETING',
    deleted: null,
    'delete-failed': null,
  },
  FAILED: {
    started: null,
    succeeded: null,
    failed: null,
    damaged: null,
    delete: 'DELETING',
    deleted: null,
    'delete-failed': null,
  },
  DELETING: {
    started: null,
    succeeded: null,
    failed: null,
    damaged: null,
    delete: 'DELETING',
    deleted: 'DELETED',
    'delete-failed': 'DELETE_FAILED',
  },
  DELETE_FAILED: {
    started: null,
    succeeded: null,
    failed: null,
    damaged: null,
    delete: 'DELETING',
    deleted: null,
    'delete-failed': null,
  },
  DELETED: {
    started: null,
    succeeded: null,
    failed: null,
    damaged: null,
    delete: null,
    deleted: null,
    'delete-failed': null,
  },
} as const satisfies Record<VersionState, Record<Exclude<ImageEventType, 'update'> | 'damaged', VersionState | null>>;

export const BUILD_TRANSITIONS = {
  PENDING: { started: 'IN_PROGRESS', succeeded: null, failed: 'FAILED', damaged: null },
  IN_PROGRESS: { started: null, succeeded: 'SUCCESSFUL', failed: 'FAILED', damaged: null },
  SUCCESSFUL: { started: null, succeeded: null, failed: null, damaged: 'FAILED' },
  FAILED: { started: null, succeeded: null, failed: null, damaged: null },
} as const satisfies Record<BuildState, Record<(BuildEvent | DamageEvent)['type'], BuildState | null>>;

/** The image after a build event on `version`; undefined when the event does not fit its state. */
export function imageAfter(
  image: ImageRecord,
  version: string,
  event: BuildEvent,
  at: number,
): ImageRecord | undefined {
  const state = IMAGE_TRANSITIONS[image.state][event.type];
  if (state === null) return undefined;
  const moved = { ...image, state, updatedAt: at };
  if (event.type === 'succeeded') return { ...moved, latestActiveVersion: version };
  if (event.type === 'failed') return { ...moved, latestFailedVersion: version };
  return moved;
}

/** The image after an update or removal began or ended; undefined when that does not fit its state. */
export function imageMoved(image: ImageRecord, event: 'update' | RemovalEvent, at: number): ImageRecord | undefined {
  const state = IMAGE_TRANSITIONS[image.state][event];
  return state === null ? undefined : { ...image, state, updatedAt: at };
}

/** The image with its next version begun. */
export function imageUpdating(image: ImageRecord, at: number): ImageRecord | undefined {
  const moved = imageMoved(image, 'update', at);
  return moved && { ...moved, lastMajor: image.lastMajor + 1 };
}

/** The newest version that can be launched and the newest that failed, of those there are. GUESS: latest-versions */
export function latestOf(
  versions: readonly VersionRecord[],
): Pick<ImageRecord, 'latestActiveVersion' | 'latestFailedVersion'> {
  const newestFirst = versions.toSorted((a, b) => majorOf(b) - majorOf(a));
  const active = newestFirst.find((version) => version.state === 'SUCCESSFUL' && version.status === 'ACTIVE');
  const failed = newestFirst.find((version) => version.state === 'FAILED');
  return { latestActiveVersion: active?.version ?? null, latestFailedVersion: failed?.version ?? null };
}

function majorOf(version: VersionRecord): number {
  return Number.parseInt(version.version, 10);
}

/** A version becomes ACTIVE by succeeding (documented). */
export function versionAfter(
  version: VersionRecord,
  event: BuildEvent | DamageEvent,
  at: number,
): VersionRecord | undefined {
  const state = VERSION_TRANSITIONS[version.state][event.type];
  if (state === null) return undefined;
  const identity = identityOf(version, at);
  if (state !== 'SUCCESSFUL') return { ...identity, state };
  const provenance = event.type === 'succeeded' ? event.provenance : undefined;
  return { ...identity, ...(provenance !== undefined && { provenance }), state, status: 'ACTIVE' };
}

export function versionMoved(version: VersionRecord, event: RemovalEvent, at: number): VersionRecord | undefined {
  const state = VERSION_TRANSITIONS[version.state][event];
  return state === null ? undefined : { ...identityOf(version, at), state };
}

function identityOf(record: VersionRecord, updatedAt: number): VersionIdentity {
  const {
    imageArn,
    imageName,
    version,
    config,
    buildId,
    rebuildOf,
    importId,
    snapshots,
    provenance,
    principal,
    createdAt,
  } = record;
  const origin = {
    ...(rebuildOf !== undefined && { rebuildOf }),
    ...(importId !== undefined && { importId }),
    ...(snapshots !== undefined && { snapshots }),
    ...(provenance !== undefined && { provenance }),
    ...(principal !== undefined && { principal }),
  };
  return { imageArn, imageName, version, config, buildId, ...origin, createdAt, updatedAt };
}

export function buildAfter(build: BuildRecord, event: BuildEvent | DamageEvent): BuildRecord | undefined {
  if (BUILD_TRANSITIONS[build.state][event.type] === null) return undefined;
  const { buildId, imageArn, version, chipsetGeneration, createdAt } = build;
  const identity: BuildIdentity = { buildId, imageArn, version, chipsetGeneration, createdAt };
  switch (event.type) {
    case 'started':
      return { ...identity, state: 'IN_PROGRESS' };
    case 'succeeded':
      return { ...identity, state: 'SUCCESSFUL', sizes: event.sizes };
    case 'failed':
      return { ...identity, state: 'FAILED', reason: event.reason, codeBytes: event.codeBytes };
    case 'damaged':
      return { ...identity, state: 'FAILED', reason: event.reason, codeBytes: null };
    default:
      return event satisfies never;
  }
}

/** Its build is under way, or will be. */
export function isBuilding({ state }: VersionRecord): boolean {
  return state === 'PENDING' || state === 'IN_PROGRESS';
}

/** Only SUCCESSFUL versions have a say in it. What PENDING ones show is undocumented. GUESS: pending-version-status */
export function statusOf(version: VersionRecord): VersionStatus {
  return version.state === 'SUCCESSFUL' ? version.status : 'INACTIVE';
}
