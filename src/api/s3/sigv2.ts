/**
 * The query form of Signature Version 2, which boto3 and the AWS CLI still presign S3 URLs with unless they are told
 * otherwise. For reading and writing objects by such a URL; nothing else is signed this way.
 */
import { createHmac } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Identity, Principal } from '../../identity/index.ts';
import { queryPairs, SignatureError, sameText, splitTarget } from '../sigv4.ts';
import { headerOf } from './payload.ts';
import { S3Error } from './s3-error.ts';

/** Query parameters that are part of what was signed, in the order they stand there. */
const SUBRESOURCES = [
  'partNumber',
  'response-cache-control',
  'response-content-disposition',
  'response-content-encoding',
  'response-content-language',
  'response-content-type',
  'response-expires',
  'uploadId',
  'uploads',
  'versionId',
];

/** Whether a request is presigned with version 2. */
export function isSigV2(request: IncomingMessage): boolean {
  const { query } = splitTarget(request.url ?? '/');
  return query.includes('AWSAccessKeyId=') && query.includes('Signature=') && query.includes('Expires=');
}

/** @throws SignatureError; S3Error `AccessDenied` once the URL has expired */
export function checkSigV2(request: IncomingMessage, options: { identity: Identity; now: number }): Principal {
  const { path, query } = splitTarget(request.url ?? '/');
  const pairs = new Map(queryPairs(query));
  const credentials = options.identity.authenticate(pairs.get('AWSAccessKeyId') ?? '');
  if (credentials === undefined) throw new SignatureError({ kind: 'unknown-key' });
  const expires = pairs.get('Expires') ?? '';
  if (!/^\d{1,12}$/.test(expires)) throw new S3Error('AccessDenied', 'Invalid date (should be seconds since epoch)');
  if (!sameText(credentials.sessionToken ?? '', pairs.get('x-amz-security-token') ?? '')) {
    throw new SignatureError({ kind: 'bad-token' });
  }
  if (credentials.expiresAt !== undefined && credentials.expiresAt <= options.now) {
    throw new SignatureError({ kind: 'expired-token' });
  }
  const amzHeaders = Object.keys(request.headers)
    .concat(pairs.has('x-amz-security-token') ? ['x-amz-security-token'] : [])
    .filter((name) => name.startsWith('x-amz-'))
    .sort()
    .map((name) => `${name}:${(headerOf(request, name) ?? pairs.get(name) ?? '').trim()}\n`);
  const signed = SUBRESOURCES.filter((name) => pairs.has(name)).map((name) => {
    const value = pairs.get(name);
    return value === '' ? name : `${name}=${value}`;
  });
  const toSign = [
    request.method,
    headerOf(request, 'content-md5') ?? '',
    headerOf(request, 'content-type') ?? '',
    expires,
    `${amzHeaders.join('')}${path}${signed.length === 0 ? '' : `?${signed.join('&')}`}`,
  ].join('\n');
  const signature = createHmac('sha1', credentials.secretAccessKey).update(toSign).digest('base64');
  if (!sameText(signature, pairs.get('Signature') ?? '')) throw new SignatureError({ kind: 'mismatch' });
  if (Number(expires) * 1000 < options.now) throw new SignatureError({ kind: 'expired-url' });
  return credentials.principal;
}
