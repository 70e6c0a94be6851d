/** From records to what the wire shows; one projection per resource. Members as recorded. */
import { type BuildRecord, type ImageRecord, statusOf, type VersionRecord } from './lifecycle.ts';
import type {
  BuildSummary,
  BuildView,
  CreatedImageView,
  ImageSummary,
  ImageView,
  UpdatedImageView,
  VersionView,
} from './types.ts';

export function imageSummaryOf(image: ImageRecord): ImageSummary {
  return {
    id: image.id,
    imageArn: image.arn,
    name: image.name,
    state: image.state,
    latestActiveImageVersion: image.latestActiveVersion,
    latestFailedImageVersion: image.latestFailedVersion,
    createdAt: image.createdAt,
  };
}

export function imageViewOf(image: ImageRecord): ImageView {
  return { ...imageSummaryOf(image), updatedAt: image.updatedAt, tags: image.tags };
}

export function createdViewOf(image: ImageRecord, version: VersionRecord): CreatedImageView {
  return { ...updatedViewOf(image, version), tags: Object.keys(image.tags).length > 0 ? image.tags : null };
}

export function updatedViewOf(image: ImageRecord, version: VersionRecord): UpdatedImageView {
  return {
    ...version.config,
    ...imageSummaryOf(image),
    imageVersion: version.version,
    updatedAt: image.updatedAt,
  };
}

/** `stateReason` is null even for FAILED versions (recorded): the reason stands on the builds. */
export function versionViewOf(version: VersionRecord): VersionView {
  return {
    ...version.config,
    imageArn: version.imageArn,
    imageVersion: version.version,
    state: version.state,
    status: statusOf(version),
    stateReason: null,
    createdAt: version.createdAt,
    updatedAt: version.updatedAt,
    tags: null,
  };
}

export function buildSummaryOf(build: BuildRecord): BuildSummary {
  return {
    imageArn: build.imageArn,
    imageVersion: build.version,
    buildId: build.buildId,
    buildState: build.state,
    architecture: 'ARM_64',
    chipset: 'GRAVITON',
    chipsetGeneration: build.chipsetGeneration,
    stateReason: build.state === 'FAILED' ? build.reason : null,
    createdAt: build.createdAt,
  };
}

/** After a failure only what was finished has a size (recorded). */
export function buildViewOf(build: BuildRecord): BuildView {
  return { ...buildSummaryOf(build), snapshotBuild: snapshotBuildOf(build) };
}

function snapshotBuildOf(build: BuildRecord): BuildView['snapshotBuild'] {
  if (build.state === 'SUCCESSFUL') {
    return {
      codeInstallSizeInBytes: build.sizes.codeBytes,
      memorySnapshotSizeInBytes: build.sizes.memoryBytes,
      diskSnapshotSizeInBytes: build.sizes.diskBytes,
    };
  }
  if (build.state !== 'FAILED' || build.codeBytes === null) return null;
  return {
    codeInstallSizeInBytes: build.codeBytes,
    memorySnapshotSizeInBytes: null,
    diskSnapshotSizeInBytes: null,
  };
}
