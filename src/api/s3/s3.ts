/**
 * The S3 wire over the embedded object store: as much of it as the official clients need to bring artifacts in.
 *
 * Path style, one region, no versions. What is not implemented answers 501 instead of being ignored. Every answer carries
 * a request id; nothing thrown leaves the handler.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { ArtifactError, type ObjectStore } from '../../artifacts/index.ts';
import type { Identity, Principal } from '../../identity/index.ts';
import { type Clock, type Ids, type Logger, randomIds, systemClock } from '../../lib/index.ts';
import { callerOf } from '../access.ts';
import { isLocalProgram } from '../loopback.ts';
import { SigningKeys } from '../signing-keys.ts';
import { checkSignature, readSignature, SignatureError, type SignedRequest, type SigningRules } from '../sigv4.ts';
import { WireError } from '../wire-error.ts';
import { createBucket, deleteBucket, getBucketLocation, headBucket, listBuckets } from './buckets.ts';
import type { S3Call } from './call.ts';
import { completeMultipartUpload } from './complete-upload.ts';
import { copyObject } from './copy.ts';
import { deleteObjects } from './delete-objects.ts';
import { listObjects, listObjectsV2 } from './list-objects.ts';
import { listMultipartUploads, listParts } from './list-uploads.ts';
import { deleteObject, getObject, headObject, putObject } from './objects.ts';
import { signedBodyHash } from './payload.ts';
import { artifactS3Error, S3Error, signatureS3Error } from './s3-error.ts';
import { checkSigV2, isSigV2 } from './sigv2.ts';
import { detectOperation, readTarget, type S3Operation, targetArn } from './target.ts';
import { abortMultipartUpload, createMultipartUpload, uploadPart } from './uploads.ts';

export interface S3Options {
  readonly store: ObjectStore;
  readonly identity: Identity;
  readonly region: string;
  /** As for `createApi`. */
  readonly auth: 'sigv4' | 'off';
  readonly logger: Logger;
  readonly clock?: Clock;
  readonly ids?: Ids;
}

const OPERATIONS: Readonly<Record<S3Operation, (call: S3Call) => Promise<void>>> = {
  ListBuckets: listBuckets,
  CreateBucket: createBucket,
  HeadBucket: headBucket,
  DeleteBucket: deleteBucket,
  GetBucketLocation: getBucketLocation,
  ListObjects: listObjects,
  ListObjectsV2: listObjectsV2,
  ListMultipartUploads: listMultipartUploads,
  DeleteObjects: deleteObjects,
  PutObject: putObject,
  CopyObject: copyObject,
  GetObject: getObject,
  HeadObject: headObject,
  DeleteObject: deleteObject,
  CreateMultipartUpload: createMultipartUpload,
  UploadPart: uploadPart,
  ListParts: listParts,
  CompleteMultipartUpload: completeMultipartUpload,
  AbortMultipartUpload: abortMultipartUpload,
};

/** IAM's names where they differ from the operation's. */
const ACTIONS: Readonly<Partial<Record<S3Operation, string>>> = {
  ListBuckets: 'ListAllMyBuckets',
  HeadBucket: 'ListBucket',
  ListObjects: 'ListBucket',
  ListObjectsV2: 'ListBucket',
  ListMultipartUploads: 'ListBucketMultipartUploads',
  HeadObject: 'GetObject',
  CopyObject: 'PutObject',
  CreateMultipartUpload: 'PutObject',
  UploadPart: 'PutObject',
  CompleteMultipartUpload: 'PutObject',
  ListParts: 'ListMultipartUploadParts',
};

/** S3 allows fifteen minutes between the clocks. */
const MAX_SKEW_MS = 15 * 60_000;

export function createS3(options: S3Options): (request: IncomingMessage, response: ServerResponse) => void {
  const s3 = new S3(options);
  return (request, response) => void s3.handle(request, response);
}

class S3 {
  readonly #options: S3Options;
  readonly #clock: Clock;
  readonly #ids: Ids;
  readonly #rules: SigningRules;

  constructor(options: S3Options) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#ids = options.ids ?? randomIds;
    this.#rules = {
      service: 's3',
      region: options.region,
      encodesPathTwice: false,
      needsExpires: true,
      maxSkewMs: MAX_SKEW_MS,
      keys: new SigningKeys(),
    };
  }

  /** Never rejects. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const requestId = this.#ids.uuid();
    response.setHeader('x-amz-request-id', requestId);
    response.setHeader('x-amz-id-2', requestId);
    const logger = this.#options.logger.child({ requestId });
    try {
      const operation = await this.#run(request, response);
      logger.debug({ operation, status: response.statusCode }, 'request answered');
    } catch (thrown) {
      const error = this.#toS3Error(thrown);
      if (error.code === 'InternalError' && !isHangUp(thrown)) logger.error({ err: thrown }, 'request failed');
      else logger.debug({ code: error.code, reason: error.message }, 'request refused');
      if (response.headersSent) response.destroy();
      else sendError(request, response, error, requestId);
    }
  }

  async #run(request: IncomingMessage, response: ServerResponse): Promise<S3Operation> {
    const { store, region, identity } = this.#options;
    const target = readTarget(request);
    const { principal, signed } = this.#authenticate(request);
    const operation = detectOperation(request, target);
    const { context } = callerOf(request, principal, region);
    const isAllowed: S3Call['isAllowed'] = (action, on) =>
      identity.authorize(principal, action, targetArn(on), context).allowed;
    // DeleteObjects asks for each key.
    if (operation !== 'DeleteObjects' && !isAllowed(`s3:${ACTIONS[operation] ?? operation}`, target)) {
      throw new S3Error('AccessDenied', 'Access Denied');
    }
    await OPERATIONS[operation]({
      request,
      response,
      store,
      region,
      bucket: target.bucket ?? '',
      key: target.key ?? '',
      query: target.query,
      signed,
      isAllowed,
      send: (status, headers, xml) => send(response, status, headers, xml),
    });
    return operation;
  }

  /** The signature covers the announced body hash; the body itself is compared with it while it is read. */
  #authenticate(request: IncomingMessage): { principal: Principal; signed: SignedRequest | undefined } {
    const { identity, auth } = this.#options;
    if (auth === 'off') {
      if (isLocalProgram(request)) return { principal: identity.root, signed: undefined };
      throw new S3Error('AccessDenied', 'This server checks no signatures and therefore answers local programs only.');
    }
    const now = this.#clock.now();
    if (request.headers.authorization === undefined && isSigV2(request)) {
      return { principal: checkSigV2(request, { identity, now }), signed: undefined };
    }
    const signed = readSignature(request, { rules: this.#rules, identity, now });
    const bodyHash = signedBodyHash(request, signed.form);
    return { principal: checkSignature(request, signed, { rules: this.#rules, bodyHash }), signed };
  }

  #toS3Error(thrown: unknown): S3Error {
    if (thrown instanceof S3Error) return thrown;
    if (thrown instanceof SignatureError) return signatureS3Error(thrown.refusal, this.#options.region);
    if (thrown instanceof WireError) return new S3Error('EntityTooLarge', 'The request body is too large.');
    const refusal = thrown instanceof ArtifactError ? artifactS3Error(thrown.kind, thrown.message) : undefined;
    return refusal ?? new S3Error('InternalError', 'We encountered an internal error. Please try again.');
  }
}

/** The client went away in the middle; nobody's fault here. */
function isHangUp(thrown: unknown): boolean {
  const codes = ['ECONNRESET', 'EPIPE', 'ERR_STREAM_PREMATURE_CLOSE', 'ABORT_ERR'];
  return thrown instanceof Error && 'code' in thrown && codes.includes(String(thrown.code));
}

function send(
  response: ServerResponse,
  status: number,
  headers: Readonly<Record<string, string | number>>,
  xml?: string,
): void {
  if (xml === undefined) {
    response.writeHead(status, status === 200 ? { 'Content-Length': 0, ...headers } : headers).end();
    return;
  }
  const length = Buffer.byteLength(xml);
  response.writeHead(status, { ...headers, 'Content-Type': 'application/xml', 'Content-Length': length }).end(xml);
}

function sendError(request: IncomingMessage, response: ServerResponse, error: S3Error, requestId: string): void {
  // Answers to HEAD and 304 have no body.
  if (request.method === 'HEAD' || error.status === 304) response.writeHead(error.status).end();
  else send(response, error.status, {}, error.toXml(requestId));
}
