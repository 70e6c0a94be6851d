/**
 * A request's body as S3 defines it: plain or `aws-chunked`, with the hash, lengths and checksums the client announced.
 *
 * Invariant: when the body ends without throwing, everything announced about it was true.
 */
import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { SignedRequest } from '../sigv4.ts';
import { decodeAwsChunked } from './aws-chunked.ts';
import { BodySums, CHECKSUM_ALGORITHMS, CHECKSUM_HEADER, type ChecksumAlgorithm, readAlgorithm } from './checksums.ts';
import { S3Error } from './s3-error.ts';

/** Headers that begin like checksums and are none. */
const NO_SUMS = ['algorithm', 'mode', 'type'];
const UNSIGNED = 'UNSIGNED-PAYLOAD';
const STREAMING_UNSIGNED = 'STREAMING-UNSIGNED-PAYLOAD-TRAILER';
const STREAMING_SIGNED = ['STREAMING-AWS4-HMAC-SHA256-PAYLOAD', 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER'];

/** The body hash that the signature covers. @throws S3Error `InvalidRequest`, `InvalidArgument` */
export function signedBodyHash(request: IncomingMessage, form: 'header' | 'query'): string {
  const hash = headerOf(request, 'x-amz-content-sha256');
  if (hash === undefined) {
    if (form === 'query') return UNSIGNED;
    throw new S3Error('InvalidRequest', 'Missing required header for this request: x-amz-content-sha256');
  }
  if (/^[0-9a-f]{64}$/.test(hash) || [UNSIGNED, STREAMING_UNSIGNED, ...STREAMING_SIGNED].includes(hash)) return hash;
  throw new S3Error(
    'InvalidArgument',
    'x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a supported STREAMING value or a valid sha256 value.',
  );
}

export interface Payload {
  readonly body: AsyncIterable<Buffer>;
  /** Verified checksums by algorithm; complete once the body has ended. */
  readonly checksums: () => Readonly<Record<string, string>>;
}

/**
 * The decoded body. Iterating throws S3Error (`BadDigest`, `IncompleteBody`, `XAmzContentSHA256Mismatch`, …) when it is
 * not what the headers announced.
 */
export function readPayload(
  request: IncomingMessage,
  signed: SignedRequest | undefined,
  options: { computed?: ChecksumAlgorithm | undefined; sumsAreOfBody?: boolean } = {},
): Payload {
  const { computed, sumsAreOfBody = true } = options;
  const checksums = sumsAreOfBody ? announcedChecksums(request) : new Map();
  const sums = new BodySums({ md5: contentMd5(request), checksums, computed });
  return { body: verified(request, signed, sums), checksums: () => sums.verified };
}

async function* verified(
  request: IncomingMessage,
  signed: SignedRequest | undefined,
  sums: BodySums,
): AsyncGenerator<Buffer> {
  const mode = headerOf(request, 'x-amz-content-sha256') ?? UNSIGNED;
  const expectedHash = /^[0-9a-f]{64}$/.test(mode) ? mode : undefined;
  const isChunked = mode.startsWith('STREAMING-');
  const trailers = new Map<string, string>();
  // Leaving early must not destroy the connection: the refusal still has to go out on it.
  const raw: AsyncIterable<Buffer> = request.iterator({ destroyOnReturn: false });
  const signing =
    signed !== undefined && STREAMING_SIGNED.includes(mode)
      ? { key: signed.signingKey, timestamp: signed.timestamp, scope: signed.scope, seed: signed.signature }
      : undefined;
  const source = isChunked ? decodeAwsChunked(raw, { signing, trailers }) : raw;

  const hash = createHash('sha256');
  let size = 0;
  for await (const chunk of source) {
    size += chunk.length;
    if (expectedHash !== undefined) hash.update(chunk);
    sums.update(chunk);
    yield chunk;
  }
  const announced = headerOf(request, isChunked ? 'x-amz-decoded-content-length' : 'content-length');
  if (announced !== undefined && Number(announced) !== size) {
    throw new S3Error('IncompleteBody', 'The body does not have the announced length.');
  }
  if (expectedHash !== undefined && hash.digest('hex') !== expectedHash) {
    throw new S3Error(
      'XAmzContentSHA256Mismatch',
      "The provided 'x-amz-content-sha256' header does not match what was computed.",
    );
  }
  sums.finish(trailers);
}

/** The whole of a short body; `sumsAreOfBody` false where the checksum headers speak of an object. @throws S3Error `EntityTooLarge`; what `readPayload` throws */
export async function readShortPayload(
  request: IncomingMessage,
  signed: SignedRequest | undefined,
  options: { maxBytes: number; sumsAreOfBody?: boolean },
): Promise<string> {
  const { maxBytes } = options;
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of readPayload(request, signed, options).body) {
    size += chunk.length;
    if (size > maxBytes) throw new S3Error('EntityTooLarge', `The request body has more than ${maxBytes} bytes.`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

function contentMd5(request: IncomingMessage): string | undefined {
  const md5 = headerOf(request, 'content-md5');
  if (md5 !== undefined && Buffer.from(md5, 'base64').length !== 16) {
    throw new S3Error('InvalidDigest', 'The Content-MD5 you specified was invalid.');
  }
  return md5;
}

export function announcedChecksums(request: IncomingMessage): Map<ChecksumAlgorithm, string | undefined> {
  const inTrailer = (headerOf(request, 'x-amz-trailer') ?? '').split(',').map((name) => name.trim().toLowerCase());
  const found = new Map<ChecksumAlgorithm, string | undefined>();
  for (const algorithm of CHECKSUM_ALGORITHMS) {
    const header = headerOf(request, `${CHECKSUM_HEADER}${algorithm}`);
    if (header !== undefined || inTrailer.includes(`${CHECKSUM_HEADER}${algorithm}`)) found.set(algorithm, header);
  }
  // Accepting one that cannot be verified would be worse than refusing.
  const named = [...Object.keys(request.headers), ...inTrailer].filter((name) => name.startsWith(CHECKSUM_HEADER));
  const unknown = named.map((name) => name.slice(CHECKSUM_HEADER.length)).filter((name) => !NO_SUMS.includes(name));
  for (const name of unknown) readAlgorithm(name);
  return found;
}

export function headerOf(request: IncomingMessage, name: string): string | undefined {
  return request.headersDistinct[name]?.[0];
}
