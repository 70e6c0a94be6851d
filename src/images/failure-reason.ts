/**
 * From what went wrong in a build to the text of its `stateReason`: the recorded sentence where there is one, else the
 * documented code with a sentence of ours. GUESS: build-failure-texts
 */
import { ArtifactError, type ArtifactErrorKind } from '../artifacts/index.ts';
import { BuildFailure } from '../engine/index.ts';
import { DomainError, isDiskFull } from '../lib/index.ts';
import type { VersionConfig } from './types.ts';
import { imageHookSeconds } from './version-config.ts';

/** Refusal of the validate hook; `reason` is the text. */
export class ValidateFailure extends Error {
  override readonly name = 'ValidateFailure';
}

/** The Dockerfile's run was ended when its time was over. */
export class BuildTimeout extends Error {
  override readonly name = 'BuildTimeout';
  readonly seconds: number;
  constructor(seconds: number) {
    super('the container image build took too long');
    this.seconds = seconds;
  }
}

const ARTIFACT_CODES: Partial<Record<ArtifactErrorKind, string>> = {
  'no-such-bucket': 'S3_NO_SUCH_BUCKET',
  'no-such-key': 'S3_NO_SUCH_KEY',
  'store-denied': 'S3_ACCESS_DENIED',
  'store-unreachable': 'INTERNAL_PLATFORM_ERROR',
  'archive-invalid': 'ARCHIVE_INVALID',
  'archive-too-large': 'ARCHIVE_INVALID',
  'dockerfile-missing': 'ARCHIVE_DOCKERFILE_NOT_FOUND',
};

export const INTERRUPTED =
  'INTERNAL_PLATFORM_ERROR: The build was interrupted because the server stopped. Start it again.';

const HOST_DISK_FULL =
  'DISK_STORAGE_FULL: The disk of this host ran full during the build. Free some space and build again.';

export function failureReason(error: unknown, config: VersionConfig): string {
  if (error instanceof ValidateFailure) return error.message;
  if (error instanceof BuildTimeout) {
    return `The container image build timed out after ${isoDuration(error.seconds)}`;
  }
  if (error instanceof ArtifactError) return `${ARTIFACT_CODES[error.kind] ?? 'ARCHIVE_INVALID'}: ${error.message}`;
  if (error instanceof BuildFailure) return buildFailureReason(error, config);
  if (error instanceof DomainError && error.code === 'CAPACITY') return `INTERNAL_PLATFORM_ERROR: ${error.message}`;
  // The build role's: the identity room's sentence, made for callers. GUESS: role-not-assumed
  if (error instanceof DomainError) return error.message;
  if (isDiskFull(error)) return HOST_DISK_FULL;
  return 'INTERNAL_PLATFORM_ERROR: The build failed because of the platform, not the image. Try again; the log of the server says more.';
}

function buildFailureReason(error: BuildFailure, config: VersionConfig): string {
  switch (error.kind) {
    case 'dockerfile-missing':
      return 'ARCHIVE_DOCKERFILE_NOT_FOUND: There is no Dockerfile at the root of the archive.';
    case 'dockerfile-failed':
      return 'The container image build failed.';
    case 'disk-full':
      return 'DISK_STORAGE_FULL: The disk ran full during the build.';
    case 'host-disk-full':
      return HOST_DISK_FULL;
    case 'app-not-startable':
      return 'The application could not be started: its command, user or folders are not what a container needs. The last lines of the build log say more.';
    case 'app-exited':
      return `The application exited with code ${error.exitCode ?? 'unknown'} before it was ready.`;
    case 'no-command':
      return 'The container image has neither ENTRYPOINT nor CMD, so there is no application to start.';
    case 'ready-timeout':
      return hookTimeout('Ready', imageHookSeconds(config.hooks, 'ready'));
    case 'ready-client-error':
      return 'Ready hook check failed: the application returned a client error (HTTP 4xx) response';
    case 'ready-server-error':
      return 'Ready hook check failed: the application returned a server error (HTTP 5xx) response';
    default:
      return error.kind satisfies never;
  }
}

export function hookTimeout(hook: 'Ready' | 'Validate', seconds: number): string {
  return `${hook} hook invocation timed out after ${isoDuration(seconds)}`;
}

/** As recorded: hours, minutes and seconds without zero parts, `PT5M`, `PT1M30S`. */
export function isoDuration(seconds: number): string {
  const parts = [
    [Math.floor(seconds / 3600), 'H'],
    [Math.floor((seconds % 3600) / 60), 'M'],
    [seconds % 60, 'S'],
  ] as const;
  const text = parts.map(([count, unit]) => (count > 0 ? `${count}${unit}` : '')).join('');
  return `PT${text === '' ? '0S' : text}`;
}
