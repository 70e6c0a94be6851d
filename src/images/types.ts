/**
 * What other rooms see of images: inputs, views and the door's interface. Wire spelling of members is kept; instants are
 * milliseconds since the epoch (the wire layer turns them into seconds); what is null here is null on the wire.
 */
import type { MemoryMiB } from '../engine/index.ts';
import type { Page } from '../store/index.ts';

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
  readonly memoryMiB: MemoryMiB;
  readonly hooks: Hooks | null;
  readonly egressNetworkConnectors: readonly string[];
}

export interface Images extends AsyncDisposable {
  /** Fails what a crashed server left in progress and takes up pending builds. Once, before the first call. */
  start(): Promise<void>;
  /** Writes image, version 1.0 and its builds and begins building. @throws DomainError INVALID, CONFLICT, QUOTA */
  create(input: CreateImageInput): Promise<CreatedImageView>;
  /** @throws DomainError INVALID (not an ARN), DENIED (foreign account, slash form), NOT_FOUND */
  get(imageIdentifier: string): Promise<ImageView>;
  list(request: PageRequest & { readonly nameFilter?: string }): Promise<Page<ImageSummary>>;
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
  snapshotDir(imageArn: string, imageVersion: string): string;
}
