/** Refusals of the artifacts room. `kind` is finer than `code`: the S3 wire and the image builds name each differently. */
import { DomainError, type DomainErrorCode } from '../lib/index.ts';

const CODES = {
  'uri-malformed': 'INVALID',
  'bucket-name-invalid': 'INVALID',
  'bucket-exists': 'CONFLICT',
  'bucket-not-empty': 'CONFLICT',
  'no-such-bucket': 'NOT_FOUND',
  'no-such-key': 'NOT_FOUND',
  'key-invalid': 'INVALID',
  'key-exists': 'CONFLICT',
  'object-too-large': 'INVALID',
  'no-such-upload': 'NOT_FOUND',
  /** The store that was asked does not answer, or not as an object store does. */
  'store-unreachable': 'INVALID',
  'store-denied': 'INVALID',
  /** Not a zip, damaged, or one that wants to write where it must not. */
  'archive-invalid': 'INVALID',
  /** Unpacks to more than this host lets an artifact take. */
  'archive-too-large': 'INVALID',
  'dockerfile-missing': 'INVALID',
} as const satisfies Record<string, DomainErrorCode>;

export type ArtifactErrorKind = keyof typeof CODES;

export class ArtifactError extends DomainError {
  readonly kind: ArtifactErrorKind;

  constructor(kind: ArtifactErrorKind, message: string, options: { cause?: unknown } = {}) {
    super(CODES[kind], message, options);
    this.kind = kind;
  }
}

const MAX_SHOWN_CHARACTERS = 300;

/** `what` may hold names out of the archive, which may hold what terminals obey. */
export function invalid(what: string, cause?: unknown): ArtifactError {
  const shown = what.slice(0, MAX_SHOWN_CHARACTERS).replace(/[\p{C}\u2028\u2029]/gu, '?');
  return new ArtifactError('archive-invalid', `The code artifact is not a usable zip archive: ${shown}.`, { cause });
}
