/** What roles come to: credentials with an end, and why there may be none. */
import { DomainError } from '../../lib/index.ts';

export interface RoleCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Empty where the key is no temporary one. */
  readonly sessionToken: string;
  /** ms since the epoch. */
  readonly expiresAt: number;
  /** When to ask for the next ones: well before the end, and in the middle of a short life. */
  readonly renewAt: number;
}

/** Something that can be given credentials: a machine. */
export interface CredentialTarget {
  readonly id: string;
  setCredentials(credentials: RoleCredentials | null, options: { signal?: AbortSignal }): Promise<void>;
}

/** Whose credentials, for whom. */
export interface Lease {
  readonly roleArn: string;
  /** ARN of who passed the role. */
  readonly principal: string | undefined;
  readonly sessionName: string;
}

/** As a source gives them: with or without an end. */
export type SourceCredentials = Omit<RoleCredentials, 'expiresAt' | 'renewAt'> & { readonly expiresAt: number | null };

/**
 * A source gave nothing. `gone`: it says there are no credentials any more, so those given before are taken back;
 * `failed`: it could not say. The message never holds what the source printed or answered.
 */
export class SourceError extends Error {
  override readonly name = 'SourceError';
  readonly kind: 'gone' | 'failed';

  constructor(kind: 'gone' | 'failed', message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.kind = kind;
  }
}

/** Official clients ask again in the last 15 minutes. */
const RENEWAL_LEAD_MS = 900_000;

/** `renewAt` of what was given at `now`. */
export function renewalOf(expiresAt: number, now: number): number {
  return expiresAt - Math.min(RENEWAL_LEAD_MS, (expiresAt - now) / 2);
}

/** Bounds what goes into requests, guests and memory; a session token has about 1 KiB. */
const MAX_KEY = 128;
const MAX_SECRET = 512;
const MAX_TOKEN = 8192;
const PRINTABLE = /^[\x21-\x7e]+$/;

/**
 * Checks members by the names of the credential_process document, which files share.
 * @param what begins the sentences, "The file …"
 * @throws SourceError
 */
export function readCredentials(what: string, found: Readonly<Record<string, unknown>>): SourceCredentials {
  const text = (name: string, most: number): string => {
    const value = found[name];
    if (typeof value === 'string' && value.length <= most && PRINTABLE.test(value)) return value;
    throw new SourceError('failed', `${what} has no ${name}, or one that no client could use.`);
  };
  const { Expiration: end, SessionToken: token, Token: guestToken } = found;
  const tokenName = token === undefined && guestToken !== undefined ? 'Token' : 'SessionToken';
  const expiresAt = end === undefined || end === null ? null : typeof end === 'string' ? Date.parse(end) : Number.NaN;
  if (Number.isNaN(expiresAt)) throw new SourceError('failed', `${what} has an Expiration that is no time.`);
  return {
    accessKeyId: text('AccessKeyId', MAX_KEY),
    secretAccessKey: text('SecretAccessKey', MAX_SECRET),
    sessionToken: (token ?? guestToken ?? '') === '' ? '' : text(tokenName, MAX_TOKEN),
    expiresAt,
  };
}

/** The refusal a caller sees: which role, never why in detail, which is for the log. */
export function notAssumable(roleArn: string, cause: unknown): DomainError {
  return new DomainError('INVALID', `The role ${roleArn} cannot be assumed.`, { cause });
}
