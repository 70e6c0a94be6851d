/**
 * The operator's roles, as a JSON file describes them: where the credentials of each role ARN come from and who may pass
 * it. `docs/CREDENTIALS.md` explains each member.
 *
 * Invariant: read whole or refused with a sentence naming the member; unknown members are refused; no sentence repeats a
 * value that may be a secret.
 */
import path from 'node:path';
import { DomainError } from '../../lib/index.ts';

export type RoleSource =
  | {
      readonly kind: 'static';
      readonly accessKeyId: string;
      readonly secretAccessKey: string;
      readonly sessionToken: string;
    }
  /** Names of variables of the server. */
  | {
      readonly kind: 'environment';
      readonly accessKeyId: string;
      readonly secretAccessKey: string;
      readonly sessionToken: string | null;
    }
  /** A credential document, or a profile of a shared-credentials file. */
  | { readonly kind: 'file'; readonly path: string; readonly profile: string | null }
  | {
      readonly kind: 'assume-role';
      readonly endpoint: string;
      readonly region: string;
      readonly roleArn: string;
      readonly externalId: string | null;
      readonly durationSeconds: number;
      readonly caller: CallerSource;
    }
  | {
      readonly kind: 'command';
      readonly argv: readonly string[];
      readonly timeoutMs: number;
      /** Names of variables of the server that it is given, besides PATH and HOME. */
      readonly environment: readonly string[];
    };

/** Who asks the STS; not another assumption, so that there are no chains to follow. */
export type CallerSource = Exclude<RoleSource, { kind: 'assume-role' }>;

export interface TrustStatement {
  /** ARNs with `*` and `?`. */
  readonly principals: readonly string[];
  readonly services: readonly string[];
}

export interface Role {
  readonly arn: string;
  readonly source: RoleSource | null;
  /** Null: whoever their policies let. */
  readonly trust: readonly TrustStatement[] | null;
}

export interface RolePlan {
  readonly roles: ReadonlyMap<string, Role>;
  /** A role without a source cannot be passed. */
  readonly requireSource: boolean;
}

export const NO_ROLES: RolePlan = { roles: new Map(), requireSource: false };

const MAX_ROLES = 10_000;
const ROLE_ARN = /^arn:aws[a-z-]*:iam::\d{12}:role\/[\w+=,.@/-]{1,512}$/;
const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]*$/;
const SERVICE = 'lambda.amazonaws.com';

/**
 * @param dir what relative paths in it are relative to
 * @throws DomainError INVALID naming the member and what it must be
 */
export function parseRoles(text: string, dir: string): RolePlan {
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch {
    // The parser's message quotes the text.
    throw new DomainError('INVALID', 'The roles file is not valid JSON.');
  }
  const file = new Members(found, '', ['roles', 'requireSource']);
  const roles = new Map<string, Role>();
  const entries = Object.entries(file.object('roles'));
  if (entries.length > MAX_ROLES) throw refused('roles', `must have at most ${MAX_ROLES} members`);
  for (const [arn, value] of entries) {
    if (!ROLE_ARN.test(arn)) throw refused('roles', `has a member that is no role ARN: ${arn.slice(0, 64)}`);
    const at = `roles["${arn}"]`;
    const role = new Members(value, at, ['source', 'trust']);
    roles.set(arn, {
      arn,
      source: role.has('source') ? readSource(role.value('source'), `${at}.source`, { arn, dir }) : null,
      trust: role.has('trust') ? readTrust(role.value('trust'), `${at}.trust`) : null,
    });
  }
  return { roles, requireSource: file.has('requireSource') && file.boolean('requireSource') };
}

type Place = { readonly arn: string; readonly dir: string };

function readSource(value: unknown, at: string, place: Place): RoleSource {
  if (kindOf(value, at) !== 'assume-role') return readCallerSource(value, at, place);
  const members = new Members(value, at, [
    'kind',
    'endpoint',
    'region',
    'roleArn',
    'externalId',
    'durationSeconds',
    'caller',
  ]);
  const roleArn = members.has('roleArn') ? members.string('roleArn') : place.arn;
  if (!ROLE_ARN.test(roleArn)) throw refused(`${at}.roleArn`, 'must be a role ARN');
  return {
    kind: 'assume-role',
    endpoint: readEndpoint(members.string('endpoint'), `${at}.endpoint`),
    region: members.string('region'),
    roleArn,
    externalId: members.has('externalId') ? members.string('externalId') : null,
    durationSeconds: members.has('durationSeconds') ? members.integer('durationSeconds', 900, 43_200) : 3600,
    caller: readCallerSource(members.value('caller'), `${at}.caller`, place),
  };
}

function readCallerSource(value: unknown, at: string, { dir }: Place): CallerSource {
  const kind = kindOf(value, at);
  switch (kind) {
    case 'static': {
      const members = new Members(value, at, ['kind', 'accessKeyId', 'secretAccessKey', 'sessionToken']);
      return {
        kind,
        accessKeyId: members.string('accessKeyId'),
        secretAccessKey: members.string('secretAccessKey'),
        sessionToken: members.has('sessionToken') ? members.string('sessionToken') : '',
      };
    }
    case 'environment': {
      const members = new Members(value, at, ['kind', 'accessKeyId', 'secretAccessKey', 'sessionToken']);
      return {
        kind,
        accessKeyId: members.has('accessKeyId') ? members.variable('accessKeyId') : 'AWS_ACCESS_KEY_ID',
        secretAccessKey: members.has('secretAccessKey') ? members.variable('secretAccessKey') : 'AWS_SECRET_ACCESS_KEY',
        sessionToken: members.has('sessionToken') ? members.variable('sessionToken') : null,
      };
    }
    case 'file': {
      const members = new Members(value, at, ['kind', 'path', 'profile']);
      return {
        kind,
        path: path.resolve(dir, members.string('path')),
        profile: members.has('profile') ? members.string('profile') : null,
      };
    }
    case 'command': {
      const members = new Members(value, at, ['kind', 'argv', 'timeoutSeconds', 'environment']);
      const argv = members.strings('argv', 1, 64);
      const [program = '', ...args] = argv;
      return {
        kind,
        argv: [program.startsWith('.') ? path.resolve(dir, program) : program, ...args],
        timeoutMs: (members.has('timeoutSeconds') ? members.integer('timeoutSeconds', 1, 300) : 30) * 1000,
        environment: members.has('environment') ? members.variables('environment') : [],
      };
    }
    default:
      throw refused(
        `${at}.kind`,
        `must be one of static, environment, file, command${at.endsWith('.caller') ? '' : ', assume-role'}`,
      );
  }
}

function readTrust(value: unknown, at: string): TrustStatement[] {
  if (!Array.isArray(value) || value.length > 100) throw refused(at, 'must be a list of at most 100 objects');
  return value.map((item: unknown, index) => {
    const members = new Members(item, `${at}[${index}]`, ['principals', 'services']);
    return {
      principals: members.strings('principals', 0, 1000),
      services: members.has('services') ? members.strings('services', 0, 100) : [SERVICE],
    };
  });
}

/** Credentials travel to it, so anything but TLS is for this host alone. */
function readEndpoint(text: string, at: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isLocal = url !== undefined && ['localhost', '127.0.0.1', '[::1]'].includes(url.hostname);
  if (
    url === undefined ||
    !(url.protocol === 'https:' || (url.protocol === 'http:' && isLocal)) ||
    url.username !== ''
  ) {
    throw refused(at, 'must be an https URL (http only for this host)');
  }
  return text;
}

function kindOf(value: unknown, at: string): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw refused(at, 'must be an object');
  return (value as Record<string, unknown>).kind;
}

/** One object of the file. */
class Members {
  readonly #found: Readonly<Record<string, unknown>>;
  readonly #at: string;

  constructor(found: unknown, at: string, known: readonly string[]) {
    if (typeof found !== 'object' || found === null || Array.isArray(found)) {
      throw at === ''
        ? new DomainError('INVALID', 'The roles file must hold one JSON object.')
        : refused(at, 'must be an object');
    }
    this.#found = found as Record<string, unknown>;
    this.#at = at;
    for (const name of Object.keys(found)) {
      if (!known.includes(name))
        throw refused(this.#path(name.slice(0, 64)), `is unknown; known are ${known.join(', ')}`);
    }
  }

  has(name: string): boolean {
    return Object.hasOwn(this.#found, name);
  }

  value(name: string): unknown {
    return this.has(name) ? this.#found[name] : undefined;
  }

  object(name: string): Record<string, unknown> {
    const value = this.value(name);
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw refused(this.#path(name), 'must be an object');
    return value as Record<string, unknown>;
  }

  boolean(name: string): boolean {
    const value = this.value(name);
    if (typeof value !== 'boolean') throw refused(this.#path(name), 'must be true or false');
    return value;
  }

  string(name: string): string {
    const value = this.value(name);
    if (typeof value !== 'string' || value === '' || value.length > 8192 || value.includes('\0')) {
      throw refused(this.#path(name), 'must be a text that is not empty');
    }
    return value;
  }

  strings(name: string, least: number, most: number): string[] {
    const value = this.value(name);
    const isList = Array.isArray(value) && value.length >= least && value.length <= most;
    if (!isList || !value.every((item) => typeof item === 'string' && item !== '' && !item.includes('\0'))) {
      throw refused(this.#path(name), `must be a list of ${least} to ${most} texts`);
    }
    return value as string[];
  }

  variable(name: string): string {
    const value = this.string(name);
    if (!VARIABLE.test(value)) throw refused(this.#path(name), 'must be the name of an environment variable');
    return value;
  }

  variables(name: string): string[] {
    const values = this.strings(name, 0, 100);
    if (!values.every((value) => VARIABLE.test(value))) {
      throw refused(this.#path(name), 'must be names of environment variables');
    }
    return values;
  }

  integer(name: string, least: number, most: number): number {
    const value = this.value(name);
    if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most) {
      throw refused(this.#path(name), `must be a whole number from ${least} to ${most}`);
    }
    return value;
  }

  #path(name: string): string {
    return this.#at === '' ? name : `${this.#at}.${name}`;
  }
}

function refused(at: string, must: string): DomainError {
  return new DomainError('INVALID', `In the roles file, ${at} ${must}.`);
}
