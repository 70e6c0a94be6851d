/**
 * The state folder as its server and its clients see it: who serves it, under which ports, with which keys.
 *
 * `server.json` says where the server listens (and did, when it is stopped: it will take the same ports again);
 * `credentials.json` holds the access key made at first start. Both are readable by their owner only.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DomainError, type Ids, messageOf } from '../lib/index.ts';

export interface ServerRecord {
  readonly generation: 1;
  readonly pid: number;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly apiPort: number;
  readonly s3Port: number;
  readonly region: string;
  readonly account: string;
  /** Endpoints show the operator's certificate, not one of the local authority. */
  readonly ownCertificate?: boolean;
}

export interface AccessKey {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

/** What exists on every server without being created. */
export interface Provisions {
  readonly buildRoleArn: string;
  readonly executionRoleArn: string;
  readonly baseImageArn: string;
  readonly artifactBucket: string;
}

export function provisionsOf({ region, account }: { region: string; account: string }): Provisions {
  return {
    buildRoleArn: `arn:aws:iam::${account}:role/rekindle-build`,
    executionRoleArn: `arn:aws:iam::${account}:role/rekindle-execution`,
    baseImageArn: `arn:aws:lambda:${region}:aws:microvm-image:al2023-1`,
    artifactBucket: 'rekindle-artifacts',
  };
}

/** The folder itself; its content is private to the user. */
export function makeHome(stateDir: string): void {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
}

/** Where clients find the CA of the endpoints. */
export function tlsDirOf(stateDir: string): string {
  return join(stateDir, 'tls');
}

/** Undefined: no server ever ran on this folder. @throws DomainError INVALID when it is of another generation or damaged */
export function readServerRecord(stateDir: string): ServerRecord | undefined {
  const record = readJson(stateDir, 'server.json');
  if (record === undefined) return undefined;
  if (record.generation !== 1) {
    throw new DomainError(
      'INVALID',
      'server.json in the state folder is of another version of Rekindle; use that version.',
    );
  }
  const { pid, startedAt, apiPort, s3Port, region, account, ownCertificate } = record;
  const isWhole =
    typeof pid === 'number' &&
    typeof startedAt === 'string' &&
    typeof apiPort === 'number' &&
    typeof s3Port === 'number' &&
    typeof region === 'string' &&
    typeof account === 'string';
  if (!isWhole) throw damaged('server.json');
  const whole = { generation: 1, pid, startedAt, apiPort, s3Port, region, account } as const;
  return ownCertificate === true ? { ...whole, ownCertificate } : whole;
}

export function writeServerRecord(stateDir: string, record: ServerRecord): void {
  writeJson(stateDir, 'server.json', record);
}

/** @throws DomainError INVALID when the file is damaged */
export function readAccessKey(stateDir: string): AccessKey | undefined {
  const found = readJson(stateDir, 'credentials.json');
  if (found === undefined) return undefined;
  const { accessKeyId, secretAccessKey } = found;
  if (typeof accessKeyId !== 'string' || typeof secretAccessKey !== 'string') throw damaged('credentials.json');
  return { accessKeyId, secretAccessKey };
}

/** The folder's access key, made at the first call. The caller holds the folder's lock. */
export function ensureAccessKey(stateDir: string, ids: Ids): AccessKey {
  const known = readAccessKey(stateDir);
  if (known !== undefined) return known;
  const made: AccessKey = {
    accessKeyId: `AKIA${base32(ids.bytes(16))}`,
    secretAccessKey: ids.bytes(30).toString('base64'),
  };
  writeJson(stateDir, 'credentials.json', made);
  return made;
}

/** Sixteen characters of the alphabet that AWS uses in key ids. */
function base32(bytes: Buffer): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
  return [...bytes].map((byte) => alphabet[byte & 31]).join('');
}

function readJson(stateDir: string, name: string): Record<string, unknown> | undefined {
  let text: string;
  try {
    text = readFileSync(join(stateDir, name), 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw new DomainError('INVALID', `${name} in the state folder cannot be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === 'object' && parsed !== null) return { ...parsed };
  } catch {}
  throw damaged(name);
}

function damaged(name: string): DomainError {
  return new DomainError(
    'INVALID',
    `${name} in the state folder is damaged. Move it away; the next start writes a new one.`,
  );
}

function writeJson(stateDir: string, name: string, value: object): void {
  const path = join(stateDir, name);
  writeFileSync(`${path}.new`, `${JSON.stringify(value, null, 2)}\n`, { mode: 0o600, flush: true });
  renameSync(`${path}.new`, path);
}
