/**
 * What other rooms see of images: inputs, views and the door's interface. Wire spelling of members is kept; instants are
 * milliseconds since the epoch (the wire layer turns them into seconds); what is null here is null on the wire.
 */
import type { MemoryMiB } from '../engine/index.ts';
import type { Tags } from '../lib/index.ts';
import type { Page, Write } from '../store/index.ts';
import type { Upkeep } from './upkeep/upkeep.ts';

export type * from './upkeep/disk-use.ts';
export type { Garbage, GarbageRequest } from './upkeep/garbage.ts';
export type { ImportRequest } from './upkeep/import.ts';
export type { Upkeep } from './upkeep/upkeep.ts';

export type ImageState =
  | 'CREATING'
  | 'CREATED'
  | 'CREATE_FAILED'
  | 'UPDATING'
  | 'UPDATED'
  | 'UPDATE_FAILED'
  | 'DELETING'
  | 'DELETE_FAILED'
  | 'DELETED';
export type VersionState =
  | 'PENDING'
  | 'IN_PROGRESS'
  | 'SUCCESSFUL'
  | 'FAILED'
  | 'DELETING'
  | 'DELETED'
  | 'DELETE_FAILED';
export type VersionStatus = 'ACTIVE' | 'INACTIVE';
export type BuildState = 'PENDING' | 'IN_PROGRESS' | 'SUCCESSFUL' | 'FAILED';
export type HookSwitch = 'ENABLED' | 'DISABLED';

export interface MicrovmHooks {
  readonly run?: HookSwitch;
  readonly runTimeoutInSeconds?: number;
  readonly resume?: HookSwitch;
  readonly resumeTimeoutInSeconds?: number;
  readonly suspend?: HookSwitch;
  readonly suspendTimeoutInSeconds?: number;
  readonly terminate?: HookSwitch;
  readonly terminateTimeoutInSeconds?: number;
}

export interface MicrovmImageHooks {
  readonly ready?: HookSwitch;
  readonly readyTimeoutInSeconds?: number;
  readonly validate?: HookSwitch;
  readonly validateTimeoutInSeconds?: number;
}

export interface Hooks {
  readonly port?: number;
  readonly microvmHooks?: MicrovmHooks;
  readonly microvmImageHooks?: MicrovmImageHooks;
}

export type Logging =
  | { readonly disabled: Readonly<Record<string, never>> }
  | { readonly cloudWatch: { readonly logGroup?: string; readonly logStream?: string } };

/** CreateMicrovmImage as the wire layer passes it on, constraint layer already applied. */
export interface CreateImageInput {
  readonly name: string;
  readonly baseImageArn: string;
  readonly baseImageVersion?: string;
  readonly buildRoleArn: string;
  readonly description?: string;
  readonly codeArtifact: { readonly uri: string };
  readonly logging?: Logging;
  readonly egressNetworkConnectors?: readonly string[];
  readonly cpuConfigurations?: readonly { readonly architecture: 'ARM_64' }[];
  readonly resources?: readonly { readonly minimumMemoryInMiB: number }[];
  readonly additionalOsCapabilities?: readonly 'ALL'[];
  readonly hooks?: Hooks;
  readonly environmentVariables?: Readonly<Record<string, string>>;
  readonly tags?: Readonly<Record<string, string>>;
  readonly clientToken?: string;
  /** ARN of the caller, kept with the version; no part of what a repeated call must match. */
  readonly principal?: string;
}

/** UpdateMicrovmImage: the next version in full; what is absent falls back to its default, not to the last version's. */
export interface UpdateImageInput extends Omit<CreateImageInput, 'name' | 'tags'> {
  readonly imageIdentifier: string;
}

/** A version's configuration, defaults filled in. */
export interface VersionConfig {
  readonly baseImageArn: string;
  readonly baseImageVersion: string;
  readonly buildRoleArn: string;
  readonly description: string | null;
  readonly codeArtifact: { readonly uri: string };
  readonly logging: Logging | null;
  readonly egressNetworkConnectors: readonly string[];
  readonly cpuConfigurations: readonly { readonly architecture: 'ARM_64' }[] | null;
  readonly resources: readonly { readonly minimumMemoryInMiB: MemoryMiB }[];
  readonly additionalOsCapabilities: readonly 'ALL'[] | null;
  readonly hooks: Hooks | null;
  readonly environmentVariables: Readonly<Record<string, string>> | null;
}

/** Item of ListMicrovmImages. */
export interface ImageSummary {
  readonly id: string;
  readonly imageArn: string;
  readonly name: string;
  readonly state: ImageState;
  readonly latestActiveImageVersion: string | null;
  readonly latestFailedImageVersion: string | null;
  readonly createdAt: number;
}

/** GetMicrovmImage. */
export interface ImageView extends ImageSummary {
  readonly updatedAt: number | null;
  readonly tags: Readonly<Record<string, string>>;
}

/** Answer of CreateMicrovmImage: the image with the configuration of its first version. */
export interface CreatedImageView extends VersionConfig, ImageSummary {
  readonly imageVersion: string;
  readonly updatedAt: number | null;
  readonly tags: Readonly<Record<string, string>> | null;
}

/** Answer of UpdateMicrovmImage: as that of a create, without tags. */
export interface UpdatedImageView extends VersionConfig, ImageSummary {
  readonly imageVersion: string;
  readonly updatedAt: number;
}

/** GetMicrovmImageVersion and item of ListMicrovmImageVersions. */
export interface VersionView extends VersionConfig {
  readonly imageArn: string;
  readonly imageVersion: string;
  readonly state: VersionState;
  readonly status: VersionStatus;
  readonly stateReason: string | null;
  readonly createdAt: number;
  readonly updatedAt: number | null;
  readonly tags: null;
}

/** Item of ListMicrovmImageBuilds. */
export interface BuildSummary {
  readonly imageArn: string;
  readonly imageVersion: string;
  readonly buildId: string;
  readonly buildState: BuildState;
  readonly architecture: 'ARM_64';
  readonly chipset: 'GRAVITON';
  readonly chipsetGeneration: string;
  readonly stateReason: string | null;
  readonly createdAt: number;
}

/** GetMicrovmImageBuild. */
export interface BuildView extends BuildSummary {
  readonly snapshotBuild: {
    readonly codeInstallSizeInBytes: number | null;
    readonly memorySnapshotSizeInBytes: number | null;
    readonly diskSnapshotSizeInBytes: number | null;
  } | null;
}

export interface ManagedImageView {
  readonly imageArn: string;
  readonly createdAt: number;
  readonly updatedAt: number | null;
}

export interface ManagedImageVersionView extends ManagedImageView {
  readonly imageVersion: string;
  readonly status: 'AVAILABLE' | 'DEPRECATED';
}

export interface PageRequest {
  /** 1..50; default 50. */
  readonly maxResults?: number;
  readonly nextToken?: string;
}

/** What a launch needs of a version. */
export interface LaunchableVersion {
  readonly imageArn: string;
  readonly imageVersion: string;
  readonly snapshotDir: string;
  /** Which of the version's snapshots that is; absent: the first. To be kept with what is launched from it. */
  readonly snapshot?: number;
  readonly memoryMiB: MemoryMiB;
  readonly hooks: Hooks | null;
  readonly egressNetworkConnectors: readonly string[];
  /** Holds while the version is as it was resolved; goes into the write of what is launched from it. */
  readonly unchanged: Write;
}

export interface Images extends AsyncDisposable {
  /** Fails what a crashed server left in progress, takes up pending builds and removals. Once, before the first call. */
  start(): Promise<void>;
  /** Reads in advance what launches will most likely want; what it is at ends with the engine. Never rejects. */
  proveAhead(): Promise<void>;
  /** Writes image, version 1.0 and its builds and begins building. @throws DomainError INVALID, CONFLICT, QUOTA */
  create(input: CreateImageInput): Promise<CreatedImageView>;
  /** @throws DomainError INVALID (not an ARN), DENIED (foreign account, slash form), NOT_FOUND */
  get(imageIdentifier: string): Promise<ImageView>;
  list(request: PageRequest & { readonly nameFilter?: string }): Promise<Page<ImageSummary>>;
  /** Writes the next version and begins building it. @throws DomainError INVALID, DENIED, NOT_FOUND, CONFLICT, QUOTA */
  update(input: UpdateImageInput): Promise<UpdatedImageView>;
  /** Makes it DELETING, and gone with all its versions a while later. @throws DomainError INVALID, DENIED, NOT_FOUND */
  delete(imageIdentifier: string): Promise<{ readonly imageIdentifier: string; readonly state: ImageState }>;
  /** @throws DomainError INVALID, DENIED, NOT_FOUND, CONFLICT (the image is being built or changed) */
  updateVersion(imageIdentifier: string, imageVersion: string, status: VersionStatus): Promise<VersionView>;
  /** @throws DomainError INVALID (last one, in use), DENIED, NOT_FOUND, CONFLICT */
  deleteVersion(
    imageIdentifier: string,
    imageVersion: string,
  ): Promise<{ readonly imageIdentifier: string; readonly imageVersion: string; readonly state: VersionState }>;
  /**
   * Mints the image's next version with the configuration of this one, from the root disk it kept when that is whole, else
   * from its artifact. @throws DomainError INVALID, DENIED, NOT_FOUND, CONFLICT
   */
  rebuild(imageIdentifier: string, imageVersion: string): Promise<UpdatedImageView>;
  /** @throws DomainError INVALID, DENIED, NOT_FOUND */
  tags(imageIdentifier: string): Promise<Tags>;
  /** Adds to the tags there are. @throws DomainError INVALID, DENIED, NOT_FOUND */
  tag(imageIdentifier: string, tags: Tags): Promise<void>;
  /** @throws DomainError INVALID, DENIED, NOT_FOUND */
  untag(imageIdentifier: string, keys: readonly string[]): Promise<void>;
  getVersion(imageIdentifier: string, imageVersion: string): Promise<VersionView>;
  listVersions(imageIdentifier: string, request: PageRequest): Promise<Page<VersionView>>;
  getBuild(imageIdentifier: string, imageVersion: string, buildId: string): Promise<BuildView>;
  listBuilds(
    imageIdentifier: string,
    imageVersion: string,
    request: PageRequest & {
      readonly architecture?: string;
      readonly chipset?: string;
      readonly chipsetGeneration?: string;
    },
  ): Promise<Page<BuildSummary>>;
  readonly managed: {
    list(request: PageRequest): Promise<Page<ManagedImageView>>;
    listVersions(imageIdentifier: string, request: PageRequest): Promise<Page<ManagedImageVersionView>>;
  };
  /** What takes disk, and what of it may go. */
  readonly upkeep: Upkeep;
  /**
   * The version's build log from the beginning: bytes as BuildKit and the app printed them. With `follow` it goes on
   * until the build ended. @throws DomainError NOT_FOUND
   */
  buildLog(
    imageIdentifier: string,
    imageVersion: string,
    options: { follow?: boolean; signal?: AbortSignal },
  ): AsyncIterable<Buffer>;
  /** The named version, or the latest active one. @throws DomainError INVALID, DENIED, NOT_FOUND ("No active version found …") */
  resolve(imageIdentifier: string, imageVersion?: string): Promise<LaunchableVersion>;
  /** Where a version's sealed snapshot lies, whatever its state; for resuming what was launched from it. */
  snapshotDir(imageArn: string, imageVersion: string, snapshot?: number): string;
}
