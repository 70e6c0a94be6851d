/**
 * Signature Version 4, the server's side: what was signed is rebuilt from the request and compared.
 *
 * Invariant: nothing of a request counts as its signer's unless the signature covers it; a refusal says which check
 * failed, never what the right signature would have been. Each wire gives the refusals its own names.
 */
import { createHmac, hash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Credentials, Identity, Principal } from '../identity/index.ts';
import { canonicalRequest, queryPairs, splitTarget } from './canonical-request.ts';
import type { SigningKeys } from './signing-keys.ts';

export { encodeStrict, queryPairs, splitTarget } from './canonical-request.ts';

export type SignatureRefusal =
  | { readonly kind: 'missing' }
  /** The parts cannot be read; `detail` says which. */
  | { readonly kind: 'malformed'; readonly detail: string }
  /** Signed for another region or service. */
  | { readonly kind: 'scope'; readonly part: 'region' | 'service'; readonly detail: string }
  | { readonly kind: 'unknown-key' }
  | { readonly kind: 'bad-token' }
  | { readonly kind: 'expired-token' }
  /** Clocks differ, or the request is stale. */
  | { readonly kind: 'skewed'; readonly detail: string }
  /** A presigned URL past its time. */
  | { readonly kind: 'expired-url' }
  | { readonly kind: 'mismatch' };

export class SignatureError extends Error {
  override readonly name = 'SignatureError';
  readonly refusal: SignatureRefusal;

  constructor(refusal: SignatureRefusal) {
    super(`signature refused: ${refusal.kind}`);
    this.refusal = refusal;
  }
}

/** How a service differs from the others. */
export interface SigningRules {
  readonly service: string;
  readonly region: string;
  /** The sent path is encoded once more in what is signed: every service but S3. */
  readonly encodesPathTwice: boolean;
  /** Query form (presigned URLs): whether it must say how long it lasts. Without, it lasts as long as a header does. */
  readonly needsExpires: boolean;
  readonly maxSkewMs: number;
  readonly keys: SigningKeys;
}

/** A request whose signature parts were read and whose key is known; the signature itself is not yet checked. */
export interface SignedRequest {
  readonly credentials: Credentials;
  readonly signature: string;
  /** `<date>/<region>/<service>/aws4_request`. */
  readonly scope: string;
  /** `YYYYMMDDTHHMMSSZ`. */
  readonly timestamp: string;
  readonly signingKey: Buffer;
  readonly form: 'header' | 'query';
  readonly signedHeaders: readonly string[];
}

interface Parts {
  readonly form: 'header' | 'query';
  readonly credential: string;
  readonly signedHeaders: string;
  readonly signature: string;
  readonly timestamp: string;
  readonly sessionToken: string | undefined;
  readonly expiresSeconds: number | undefined;
}

const ALGORITHM = 'AWS4-HMAC-SHA256';
/** Of no bytes: most requests have no body. */
const EMPTY_SHA256 = hash('sha256', '', 'hex');
const MAX_EXPIRES_SECONDS = 7 * 24 * 3600;

/**
 * Reads a request's signature parts and checks everything but the signature.
 * @throws SignatureError
 */
export function readSignature(
  request: IncomingMessage,
  options: { rules: SigningRules; identity: Identity; now: number },
): SignedRequest {
  const { rules, identity, now } = options;
  const parts = readParts(request, rules);
  const [accessKeyId = '', date = '', region = '', service = '', terminator = '', ...rest] =
    parts.credential.split('/');
  if (rest.length > 0 || terminator !== 'aws4_request') {
    throw malformed("Credential must have exactly 5 slash-delimited elements and end with 'aws4_request'");
  }
  if (service !== rules.service) {
    throw refuse({
      kind: 'scope',
      part: 'service',
      detail: `Credential should be scoped to correct service: '${rules.service}'.`,
    });
  }
  if (region !== rules.region) {
    throw refuse({
      kind: 'scope',
      part: 'region',
      detail: `Credential should be scoped to a valid region, not '${region}'; this server is ${rules.region}.`,
    });
  }
  checkTime(parts, date, now, rules.maxSkewMs);
  const credentials = identity.authenticate(accessKeyId);
  if (credentials === undefined) throw refuse({ kind: 'unknown-key' });
  if (!sameText(credentials.sessionToken ?? '', parts.sessionToken ?? '')) throw refuse({ kind: 'bad-token' });
  if (credentials.expiresAt !== undefined && credentials.expiresAt <= now) throw refuse({ kind: 'expired-token' });

  const signedHeaders = parts.signedHeaders.split(';');
  if (!signedHeaders.includes('host')) throw malformed("'Host' must be a 'SignedHeader' in the AWS Authorization");
  for (const name of Object.keys(request.headers)) {
    if (name.startsWith('x-amz-') && !signedHeaders.includes(name)) {
      throw malformed(`'${name}' must be a 'SignedHeader' in the AWS Authorization`);
    }
  }
  return {
    credentials,
    signature: parts.signature,
    scope: `${date}/${region}/${service}/${terminator}`,
    timestamp: parts.timestamp,
    signingKey: rules.keys.get(credentials.secretAccessKey, date, region, service),
    form: parts.form,
    signedHeaders,
  };
}

/**
 * Checks the signature over the request with this body hash (hex SHA-256, or S3's literal).
 * @throws SignatureError `mismatch`
 */
export function checkSignature(
  request: IncomingMessage,
  signed: SignedRequest,
  options: { rules: SigningRules; bodyHash: string },
): Principal {
  const { encodesPathTwice } = options.rules;
  const canonical = decoded(() =>
    canonicalRequest(request, { ...signed, encodesPathTwice, bodyHash: options.bodyHash }),
  );
  const toSign = [ALGORITHM, signed.timestamp, signed.scope, sha256(canonical)].join('\n');
  const expected = createHmac('sha256', signed.signingKey).update(toSign).digest('hex');
  if (!sameText(expected, signed.signature)) throw refuse({ kind: 'mismatch' });
  return signed.credentials.principal;
}

export function sha256(content: string | Buffer): string {
  return content.length === 0 ? EMPTY_SHA256 : hash('sha256', content, 'hex');
}

function readParts(request: IncomingMessage, rules: SigningRules): Parts {
  const [authorization, second] = request.headersDistinct.authorization ?? [];
  const { query } = splitTarget(request.url ?? '/');
  const isPresigned = query.includes('X-Amz-Signature=') || query.includes('X-Amz-Algorithm=');
  if (second !== undefined || (authorization !== undefined && isPresigned)) {
    throw malformed('only one signature, in one place, is allowed');
  }
  if (authorization !== undefined) return readHeaderForm(request, authorization);
  if (isPresigned) return readQueryForm(query, rules);
  throw refuse({ kind: 'missing' });
}

function readHeaderForm(request: IncomingMessage, authorization: string): Parts {
  const [algorithm = '', ...rest] = authorization.split(' ');
  if (algorithm !== ALGORITHM) throw malformed(`the Authorization header must begin with '${ALGORITHM}'`);
  const fields = new Map(
    rest
      .join(' ')
      .split(',')
      .map((field) => {
        const at = field.indexOf('=');
        return [field.slice(0, at).trim(), field.slice(at + 1).trim()];
      }),
  );
  const field = (name: string) => {
    const value = fields.get(name);
    if (value === undefined || value === '') throw malformed(`Authorization header requires '${name}' parameter.`);
    return value;
  };
  const timestamp = headerText(request, 'x-amz-date') ?? headerText(request, 'date');
  if (timestamp === undefined) {
    throw malformed("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.");
  }
  return {
    form: 'header',
    credential: field('Credential'),
    signedHeaders: field('SignedHeaders'),
    signature: field('Signature'),
    timestamp: toBasicIso(timestamp),
    sessionToken: headerText(request, 'x-amz-security-token'),
    expiresSeconds: undefined,
  };
}

function readQueryForm(query: string, rules: SigningRules): Parts {
  const fields = new Map(decoded(() => queryPairs(query)));
  const field = (name: string) => {
    const value = fields.get(name);
    if (value === undefined || value === '') throw malformed(`the query parameter ${name} is missing`);
    return value;
  };
  if (field('X-Amz-Algorithm') !== ALGORITHM) throw malformed(`X-Amz-Algorithm must be ${ALGORITHM}`);
  const expires = rules.needsExpires ? field('X-Amz-Expires') : fields.get('X-Amz-Expires');
  const expiresSeconds = expires === undefined ? undefined : readExpires(expires);
  return {
    form: 'query',
    credential: field('X-Amz-Credential'),
    signedHeaders: field('X-Amz-SignedHeaders'),
    signature: field('X-Amz-Signature'),
    timestamp: field('X-Amz-Date'),
    sessionToken: fields.get('X-Amz-Security-Token'),
    expiresSeconds,
  };
}

function readExpires(text: string): number {
  const seconds = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (seconds <= MAX_EXPIRES_SECONDS) return seconds;
  throw malformed(`X-Amz-Expires must be a number of seconds up to ${MAX_EXPIRES_SECONDS}`);
}

function checkTime(parts: Parts, scopeDate: string, now: number, maxSkewMs: number): void {
  const signedAt = parseBasicIso(parts.timestamp);
  if (signedAt === undefined) throw malformed('the date must have the form YYYYMMDDTHHMMSSZ');
  if (!parts.timestamp.startsWith(`${scopeDate}T`)) {
    throw malformed(`the date of the credential scope, ${scopeDate}, is not that of ${parts.timestamp}`);
  }
  const minutes = Math.round(maxSkewMs / 60_000);
  if (parts.expiresSeconds !== undefined) {
    if (signedAt + parts.expiresSeconds * 1000 < now) throw refuse({ kind: 'expired-url' });
  } else if (signedAt < now - maxSkewMs) {
    const limit = formatBasicIso(now - maxSkewMs);
    throw skewed(
      `Signature expired: ${parts.timestamp} is now earlier than ${limit} (${formatBasicIso(now)} - ${minutes} min.)`,
    );
  }
  if (signedAt > now + maxSkewMs) {
    const limit = formatBasicIso(now + maxSkewMs);
    throw skewed(
      `Signature not yet current: ${parts.timestamp} is still later than ${limit} (${formatBasicIso(now)} + ${minutes} min.)`,
    );
  }
}

function headerText(request: IncomingMessage, name: string): string | undefined {
  return request.headersDistinct[name]?.[0];
}

/** The `Date` header form becomes the basic one; the basic one passes. */
function toBasicIso(text: string): string {
  if (/^\d{8}T\d{6}Z$/.test(text)) return text;
  const time = Date.parse(text);
  return Number.isNaN(time) ? text : formatBasicIso(time);
}

function parseBasicIso(text: string): number | undefined {
  const match = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(text);
  if (match === null) return undefined;
  const [, y, mo, d, h, mi, s] = match;
  const time = Date.parse(`${y}-${mo}-${d}T${h}:${mi}:${s}Z`);
  return Number.isNaN(time) ? undefined : time;
}

function formatBasicIso(ms: number): string {
  return new Date(ms).toISOString().replace(/[-:]|\.\d{3}/g, '');
}

/** Equal without telling by time where they differ. */
export function sameText(a: string, b: string): boolean {
  const [left, right] = [Buffer.from(a), Buffer.from(b)];
  return left.length === right.length && timingSafeEqual(left, right);
}

/** The work's result; a query that cannot be decoded is a refusal. */
function decoded<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof URIError) throw malformed('the query is not properly percent-encoded');
    throw error;
  }
}

function refuse(refusal: SignatureRefusal): SignatureError {
  return new SignatureError(refusal);
}

function malformed(detail: string): SignatureError {
  return refuse({ kind: 'malformed', detail });
}

function skewed(detail: string): SignatureError {
  return refuse({ kind: 'skewed', detail });
}
