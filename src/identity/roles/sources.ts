/** Asks a source for credentials. Bounded in time and size; what a source says is never repeated. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { assumeRole } from './assume-role.ts';
import { runCommand } from './command.ts';
import { readCredentials, type SourceCredentials, SourceError } from './role-credentials.ts';
import type { CallerSource, RoleSource } from './roles-file.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

export interface Asking {
  /** Names the session where the source knows such a thing. */
  readonly sessionName: string;
  /** The server's. */
  readonly environment: Environment;
  readonly signal: AbortSignal;
}

const MAX_FILE_BYTES = 1024 * 1024;

/** @throws SourceError; the signal's reason */
export async function ask(source: RoleSource, asking: Asking): Promise<SourceCredentials> {
  if (source.kind !== 'assume-role') return askCaller(source, asking);
  return assumeRole(source, await askCaller(source.caller, asking), asking);
}

async function askCaller(source: CallerSource, asking: Asking): Promise<SourceCredentials> {
  switch (source.kind) {
    case 'static':
      return { ...source, expiresAt: null };
    case 'environment':
      return fromEnvironment(source, asking.environment);
    case 'file':
      return fromFile(source);
    case 'command':
      return runCommand(source, asking);
    default:
      return source satisfies never;
  }
}

function fromEnvironment(
  source: Extract<RoleSource, { kind: 'environment' }>,
  environment: Environment,
): SourceCredentials {
  const { accessKeyId, secretAccessKey, sessionToken } = source;
  for (const name of [accessKeyId, secretAccessKey]) {
    if (!environment[name]) throw new SourceError('gone', `The server has no environment variable ${name}.`);
  }
  return readCredentials('The environment', {
    AccessKeyId: environment[accessKeyId],
    SecretAccessKey: environment[secretAccessKey],
    SessionToken: sessionToken === null ? undefined : environment[sessionToken],
  });
}

async function fromFile(source: Extract<RoleSource, { kind: 'file' }>): Promise<SourceCredentials> {
  const text = await readBounded(source.path);
  if (source.profile === null) return readCredentials('The credential file', parseObject('The credential file', text));
  const profile = profileOf(text, source.profile);
  if (profile === undefined) throw new SourceError('gone', `The credential file has no profile ${source.profile}.`);
  return readCredentials(`The profile ${source.profile} of the credential file`, {
    AccessKeyId: profile.get('aws_access_key_id'),
    SecretAccessKey: profile.get('aws_secret_access_key'),
    SessionToken: profile.get('aws_session_token'),
  });
}

/** Not blocked by a pipe or device put in its place. */
async function readBounded(file: string): Promise<string> {
  try {
    await using handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const stats = await handle.stat();
    if (!stats.isFile() || stats.size > MAX_FILE_BYTES) {
      throw new SourceError('failed', 'The credential file is no file, or over 1 MiB.');
    }
    const buffer = Buffer.alloc(stats.size);
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } catch (error) {
    if (error instanceof SourceError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    const isGone = code === 'ENOENT' || code === 'ENOTDIR' || code === 'EACCES';
    throw new SourceError(isGone ? 'gone' : 'failed', `The credential file cannot be read: ${code ?? 'unknown'}.`);
  }
}

/** @throws SourceError without the text */
export function parseObject(what: string, text: string): Record<string, unknown> {
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch {}
  if (typeof found === 'object' && found !== null && !Array.isArray(found)) return found as Record<string, unknown>;
  throw new SourceError('failed', `${what} is no JSON object.`);
}

/** A section of a shared-credentials file. */
function profileOf(text: string, name: string): ReadonlyMap<string, string> | undefined {
  let found: Map<string, string> | undefined;
  let isIn = false;
  for (const line of text.split(/\r?\n/)) {
    const section = /^\s*\[\s*(?:profile\s+)?([^\]]*?)\s*\]\s*$/.exec(line);
    if (section !== null) {
      isIn = section[1] === name;
      if (isIn) found ??= new Map();
      continue;
    }
    const pair = /^\s*([^#;=\s][^=]*?)\s*=\s*(.*?)\s*$/.exec(line);
    if (isIn && pair !== null) found?.set((pair[1] ?? '').toLowerCase(), pair[2] ?? '');
  }
  return found;
}
