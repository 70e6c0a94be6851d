/** S3's refusals: code, status, and the XML they travel in. */
import type { ArtifactErrorKind } from '../../artifacts/index.ts';
import type { SignatureRefusal } from '../sigv4.ts';
import { element, xmlDocument } from './xml.ts';

const STATUS = {
  AccessDenied: 403,
  AuthorizationHeaderMalformed: 400,
  AuthorizationQueryParametersError: 400,
  BadDigest: 400,
  BucketAlreadyOwnedByYou: 409,
  BucketNotEmpty: 409,
  EntityTooLarge: 400,
  EntityTooSmall: 400,
  ExpiredToken: 400,
  IncompleteBody: 400,
  InternalError: 500,
  InvalidAccessKeyId: 403,
  InvalidArgument: 400,
  InvalidBucketName: 400,
  InvalidDigest: 400,
  InvalidPart: 400,
  InvalidPartOrder: 400,
  InvalidRange: 416,
  InvalidRequest: 400,
  InvalidToken: 400,
  InvalidURI: 400,
  KeyTooLongError: 400,
  MalformedTrailerError: 400,
  MalformedXML: 400,
  MethodNotAllowed: 405,
  NoSuchBucket: 404,
  NoSuchKey: 404,
  NoSuchUpload: 404,
  NotImplemented: 501,
  NotModified: 304,
  PreconditionFailed: 412,
  RequestTimeTooSkewed: 403,
  SignatureDoesNotMatch: 403,
  XAmzContentSHA256Mismatch: 400,
} as const;

export type S3ErrorCode = keyof typeof STATUS;

export class S3Error extends Error {
  override readonly name = 'S3Error';
  readonly code: S3ErrorCode;
  /** Further elements of the XML. */
  readonly details: Readonly<Record<string, string>>;

  constructor(code: S3ErrorCode, message: string, details: Readonly<Record<string, string>> = {}) {
    super(message);
    this.code = code;
    this.details = details;
  }

  get status(): number {
    return STATUS[this.code];
  }

  toXml(requestId: string): string {
    const parts = { Code: this.code, Message: this.message, ...this.details, RequestId: requestId, HostId: 'rekindle' };
    return xmlDocument(
      'Error',
      Object.entries(parts).map(([name, value]) => element(name, value)),
    );
  }
}

const ARTIFACT_CODES: Readonly<Partial<Record<ArtifactErrorKind, S3ErrorCode>>> = {
  'bucket-name-invalid': 'InvalidBucketName',
  'bucket-exists': 'BucketAlreadyOwnedByYou',
  'bucket-not-empty': 'BucketNotEmpty',
  'no-such-bucket': 'NoSuchBucket',
  'no-such-key': 'NoSuchKey',
  'key-invalid': 'KeyTooLongError',
  'key-exists': 'PreconditionFailed',
  'object-too-large': 'EntityTooLarge',
  'no-such-upload': 'NoSuchUpload',
};

const ARTIFACT_MESSAGES: Readonly<Partial<Record<S3ErrorCode, string>>> = {
  NoSuchBucket: 'The specified bucket does not exist',
  NoSuchKey: 'The specified key does not exist.',
  NoSuchUpload:
    'The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.',
  BucketNotEmpty: 'The bucket you tried to delete is not empty',
  PreconditionFailed: 'At least one of the pre-conditions you specified did not hold',
};

/** The store's refusal in S3's words; undefined for kinds the store does not throw. */
export function artifactS3Error(kind: ArtifactErrorKind, message: string): S3Error | undefined {
  const code = ARTIFACT_CODES[kind];
  return code === undefined ? undefined : new S3Error(code, ARTIFACT_MESSAGES[code] ?? message);
}

export function signatureS3Error(refusal: SignatureRefusal, region: string): S3Error {
  switch (refusal.kind) {
    case 'missing':
      return new S3Error('AccessDenied', 'Access Denied');
    case 'malformed':
      return new S3Error('AuthorizationHeaderMalformed', `The authorization is malformed: ${refusal.detail}`);
    case 'scope':
      return new S3Error('AuthorizationHeaderMalformed', `The authorization header is malformed; ${refusal.detail}`, {
        Region: region,
      });
    case 'unknown-key':
      return new S3Error('InvalidAccessKeyId', 'The AWS Access Key Id you provided does not exist in our records.');
    case 'bad-token':
      return new S3Error('InvalidToken', 'The provided token is malformed or otherwise invalid.');
    case 'expired-token':
      return new S3Error('ExpiredToken', 'The provided token has expired.');
    case 'skewed':
      return new S3Error(
        'RequestTimeTooSkewed',
        'The difference between the request time and the current time is too large.',
      );
    case 'expired-url':
      return new S3Error('AccessDenied', 'Request has expired');
    case 'mismatch':
      return new S3Error(
        'SignatureDoesNotMatch',
        'The request signature we calculated does not match the signature you provided. Check your key and signing method.',
      );
    default:
      return refusal satisfies never;
  }
}
