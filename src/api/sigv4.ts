/**
 * Signature Version 4, the server's side: what was signed is rebuilt from the request and compared.
 *
 * Invariant: nothing of a request counts as its signer's unless the signature covers it; a refusal says which check
 * failed, never what the right signature would have been. Each wire gives the refusals its own names.
 */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Credentials, Identity, Principal } from '../identity/index.ts';

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
  /** Whether the query form (presigned URLs) is accepted. */
  readonly acceptsQueryForm: boolean;
  readonly maxSkewMs: number;
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
  if (!signedHeaders.includes('host')) throw malformed("'Host' must be a signed header");
  for (const name of Object.keys(request.headers)) {
    if (name.startsWith('x-amz-') && !signedHeaders.includes(name))
      throw malformed(`'${name}' must be a signed header`);
  }
  return {
    credentials,
    signature: parts.signature,
    scope: `${date}/${region}/${service}/${terminator}`,
    timestamp: parts.timestamp,
    signingKey: signingKey(credentials.secretAccessKey, date, region, service),
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
  const canonical = canonicalRequest(request, signed, options.rules, options.bodyHash);
  const toSign = [ALGORITHM, signed.timestamp, signed.scope, sha256(canonical)].join('\n');
  const expected = createHmac('sha256', signed.signingKey).update(toSign).digest('hex');
  if (!sameText(expected, signed.signature)) throw refuse({ kind: 'mismatch' });
  return signed.credentials.principal;
}

export function sha256(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

/** Splits a request target into its path and its query, both as sent. */
export function splitTarget(target: string): { path: string; query: string } {
  const at = target.indexOf('?');
  return at < 0 ? { path: target, query: '' } : { path: target.slice(0, at), query: target.slice(at + 1) };
}

/** The pairs of a query, decoded. @throws URIError on bad percent encoding */
export function queryPairs(query: string): [name: string, value: string][] {
  return query
    .split('&')
    .filter((pair) => pair !== '')
    .map((pair) => {
      const at = pair.indexOf('=');
      const [name, value] = at < 0 ? [pair, ''] : [pair.slice(0, at), pair.slice(at + 1)];
      return [decodeURIComponent(name.replaceAll('+', ' ')), decodeURIComponent(value.replaceAll('+', ' '))];
    });
}

/** Percent encoding as signatures want it: everything but letters, digits and `-._~`. */
export function encodeStrict(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

function readParts(request: IncomingMessage, rules: SigningRules): Parts {
  const authorization = request.headers.authorization;
  if (authorization !== undefined) return readHeaderForm(request, authorization);
  const { query } = splitTarget(request.url ?? '/');
  if (rules.acceptsQueryForm && query.includes('X-Amz-Signature=')) return readQueryForm(query);
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

function readQueryForm(query: string): Parts {
  const fields = new Map(decoded(() => queryPairs(query)));
  const field = (name: string) => {
    const value = fields.get(name);
    if (value === undefined || value === '') throw malformed(`the query parameter ${name} is missing`);
    return value;
  };
  if (field('X-Amz-Algorithm') !== ALGORITHM) throw malformed(`X-Amz-Algorithm must be ${ALGORITHM}`);
  const expiresSeconds = Number(field('X-Amz-Expires'));
  if (!Number.isInteger(expiresSeconds) || expiresSeconds < 0 || expiresSeconds > MAX_EXPIRES_SECONDS) {
    throw malformed(`X-Amz-Expires must be a number of seconds up to ${MAX_EXPIRES_SECONDS}`);
  }
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

function checkTime(parts: Parts, scopeDate: string, now: number, maxSkewMs: number): void {
  const signedAt = parseBasicIso(parts.timestamp);
  if (signedAt === undefined) throw malformed('the date must have the form YYYYMMDDTHHMMSSZ');
  if (!parts.timestamp.startsWith(`${scopeDate}T`)) {
    throw malformed(`the date of the credential scope, ${scopeDate}, is not that of ${parts.timestamp}`);
  }
  const nowText = formatBasicIso(now);
  const minutes = Math.round(maxSkewMs / 60_000);
  if (parts.expiresSeconds !== undefined) {
    if (signedAt + parts.expiresSeconds * 1000 < now) throw refuse({ kind: 'expired-url' });
  } else if (signedAt < now - maxSkewMs) {
    const limit = formatBasicIso(now - maxSkewMs);
    throw skewed(`Signature expired: ${parts.timestamp} is now earlier than ${limit} (${nowText} - ${minutes} min.)`);
  }
  if (signedAt > now + maxSkewMs) {
    const limit = formatBasicIso(now + maxSkewMs);
    throw skewed(
      `Signature not yet current: ${parts.timestamp} is still later than ${limit} (${nowText} + ${minutes} min.)`,
    );
  }
}

function canonicalRequest(
  request: IncomingMessage,
  signed: SignedRequest,
  rules: SigningRules,
  bodyHash: string,
): string {
  const { path, query } = splitTarget(request.url ?? '/');
  const headers = signed.signedHeaders.map((name) => {
    const values = request.headersDistinct[name] ?? [];
    return `${name}:${values.map((value) => value.trim().replace(/ +/g, ' ')).join(',')}\n`;
  });
  return [
    request.method,
    rules.encodesPathTwice ? encodeStrict(normalPath(path)).replaceAll('%2F', '/') : path,
    canonicalQuery(query, signed.form),
    headers.join(''),
    signed.signedHeaders.join(';'),
    bodyHash,
  ].join('\n');
}

function canonicalQuery(query: string, form: 'header' | 'query'): string {
  return decoded(() => queryPairs(query))
    .filter(([name]) => form === 'header' || name !== 'X-Amz-Signature')
    .map(([name, value]) => [encodeStrict(name), encodeStrict(value)] as const)
    .sort(([a, av], [b, bv]) => (a < b ? -1 : a > b ? 1 : av < bv ? -1 : av > bv ? 1 : 0))
    .map(([name, value]) => `${name}=${value}`)
    .join('&');
}

/** Dot segments and doubled slashes resolved, as signers do for every service but S3. */
function normalPath(path: string): string {
  const segments: string[] = [];
  for (const segment of path.split('/')) {
    if (segment === '..') segments.pop();
    else if (segment !== '' && segment !== '.') segments.push(segment);
  }
  const trailing = path.endsWith('/') && segments.length > 0 ? '/' : '';
  return `/${segments.join('/')}${trailing}`;
}

function signingKey(secret: string, date: string, region: string, service: string): Buffer {
  const step = (key: string | Buffer, text: string) => createHmac('sha256', key).update(text).digest();
  return step(step(step(step(`AWS4${secret}`, date), region), service), 'aws4_request');
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
  return timingSafeEqual(createHash('sha256').update(a).digest(), createHash('sha256').update(b).digest());
}

function decoded<T>(work: () => T): T {
  try {
    return work();
  } catch {
    throw malformed('the query is not properly percent-encoded');
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
