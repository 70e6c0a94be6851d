/**
 * The one schema of settings: a flag, an environment variable and a key of the configuration file for each, parsed and
 * frozen at start. The first that is present wins, in that order; then the default.
 *
 * Invariant: nothing outside this file and `cli/` reads `process.env`; unknown keys and bad values are refused by name.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { homedir } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';
import { LIMITS_FORM, type Limits, parseLimits } from './endpoint-limits.ts';
import { DomainError, messageOf } from './lib/index.ts';
import { parseQuotas, QUOTAS_FORM, type Quotas } from './quotas.ts';

export interface Config {
  /** Everything this server keeps. One server per folder. */
  readonly stateDir: string;
  /** What set-up made and every server shares: QEMU, guest kernel, bases, builder. */
  readonly cacheDir: string;
  /** Undefined: the port this folder used last, else DEFAULT_API_PORT. 0: any free port. */
  readonly apiPort: number | undefined;
  /** Undefined: the port this folder used last, else any free port. */
  readonly s3Port: number | undefined;
  /** Another object store that artifacts may come from. */
  readonly externalS3:
    | {
        readonly endpoint: string;
        readonly region: string;
        readonly accessKeyId: string;
        readonly secretAccessKey: string;
      }
    | undefined;
  readonly auth: 'sigv4' | 'off';
  readonly region: string;
  readonly account: string;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error' | 'silent';
  /** What a stopping server does with microVMs that run. */
  readonly onShutdown: 'suspend' | 'terminate' | 'leave';
  /** How long that may take before the server ends anyway. */
  readonly shutdownSeconds: number;
  /** What a suspend by API lets requests under way take at most. */
  readonly suspendDrainSeconds: number;
  /** How often what runs is kept in case the host ends; 0: never. */
  readonly checkpointSeconds: number;
  /** Memory that microVMs may be promised together; undefined: the host's, less what others need. */
  readonly memoryBudgetMiB: number | undefined;
  /** Of the build caches of all principals together; 0: none are kept. */
  readonly buildCacheGiB: number;
  /** What a Dockerfile's run may take. */
  readonly buildTimeoutSeconds: number;
  /** How long the machine of a build waits, paused, for the next one of its principal; 0: each build has a fresh one. */
  readonly builderKeepSeconds: number;
  /** 32 random bytes in base64, under which suspended microVMs and their disks are encrypted. */
  readonly encryptionKeyFile: string | undefined;
  /** How microVMs' endpoints are told apart: a name for each behind one listener; undefined: a loopback port for each. */
  readonly endpointHosts:
    | {
        readonly listen: { readonly host: string; readonly port: number };
        /** Names of endpoints end in it. */
        readonly suffix: string;
        /** The port that clients use; undefined: the one listened on. */
        readonly publicPort: number | undefined;
      }
    | undefined;
  /** The operator's certificate for endpoints; undefined: one of the local authority. */
  readonly endpointCertificate: { readonly certFile: string; readonly keyFile: string } | undefined;
  readonly endpointLimits: Limits;
  /** What the account may have and how often it may call. */
  readonly quotas: Quotas;
  /** File that says what subnets and security groups stand for; undefined: there are none. */
  readonly networks: string | undefined;
  /** File that says how builds reach container registries; undefined: anonymously, each where its name says. */
  readonly registries: string | undefined;
  /** File that says where roles' credentials come from; undefined: no role has any. */
  readonly roles: string | undefined;
  /** Of the server: what role sources that name variables read. */
  readonly environment: Environment;
  /** What egress there is without a connector; undefined: what the networks file says, else as on AWS. */
  readonly defaultEgress: 'aws' | 'deny' | undefined;
}

export type Environment = Readonly<Record<string, string | undefined>>;
export type SettingKey = keyof typeof SETTINGS;
/** Values by key as they were typed; a flag that was not given is absent. */
export type RawSettings = Partial<Record<SettingKey | 'config', string>>;

export const DEFAULT_API_PORT = 7717;

interface Setting {
  readonly flag: string;
  readonly env: string;
  readonly value: string;
  readonly help: string;
  /** Shown in help; the real default is taken in `loadConfig`. */
  readonly fallback: string;
}

export const SETTINGS = {
  state: {
    flag: '--state',
    env: 'REKINDLE_STATE',
    value: '<dir>',
    help: 'folder for everything this server keeps',
    fallback: '$XDG_STATE_HOME/rekindle or ~/.local/state/rekindle',
  },
  cache: {
    flag: '--cache',
    env: 'REKINDLE_CACHE',
    value: '<dir>',
    help: 'folder that set-up filled and all servers share',
    fallback: '$XDG_CACHE_HOME/rekindle or ~/.cache/rekindle',
  },
  apiPort: {
    flag: '--api-port',
    env: 'REKINDLE_API_PORT',
    value: '<n>',
    help: 'port of the AWS API on 127.0.0.1; 0 takes any free one',
    fallback: `the port used last in this state folder, else ${DEFAULT_API_PORT}`,
  },
  s3Port: {
    flag: '--s3-port',
    env: 'REKINDLE_S3_PORT',
    value: '<n>',
    help: 'port of the embedded object store on 127.0.0.1',
    fallback: 'the port used last in this state folder, else any free one',
  },
  endpointMode: {
    flag: '--endpoint-mode',
    env: 'REKINDLE_ENDPOINT_MODE',
    value: '<port|host>',
    help: 'how endpoints are told apart: a port of 127.0.0.1 for each microVM, or a name for each behind one listener',
    fallback: 'port',
  },
  endpointListen: {
    flag: '--endpoint-listen',
    env: 'REKINDLE_ENDPOINT_LISTEN',
    value: '<address:port>',
    help: 'where the one listener of host mode is',
    fallback: '127.0.0.1:8443',
  },
  endpointDomain: {
    flag: '--endpoint-domain',
    env: 'REKINDLE_ENDPOINT_DOMAIN',
    value: '<domain>',
    help: 'what the names of host mode end in: <uuid>.lambda-microvm.<region>.<domain>',
    fallback: 'localhost',
  },
  endpointPort: {
    flag: '--endpoint-port',
    env: 'REKINDLE_ENDPOINT_PORT',
    value: '<n>',
    help: 'port that clients use in host mode, when a proxy in front has another one; 443 is left out of addresses',
    fallback: 'that of --endpoint-listen',
  },
  endpointCert: {
    flag: '--endpoint-cert',
    env: 'REKINDLE_ENDPOINT_CERT',
    value: '<file>',
    help: 'PEM file with the certificate of endpoints and its chain; read again when it changes',
    fallback: 'one of the local authority',
  },
  endpointKey: {
    flag: '--endpoint-key',
    env: 'REKINDLE_ENDPOINT_KEY',
    value: '<file>',
    help: 'PEM file with its private key',
    fallback: 'none; needed with --endpoint-cert',
  },
  endpointLimits: {
    flag: '--endpoint-limits',
    env: 'REKINDLE_ENDPOINT_LIMITS',
    value: '<default|service|list>',
    help: 'what clients may take of endpoints, e.g. default,connections=20000,requests=50/100',
    fallback: 'default',
  },
  externalS3: {
    flag: '--external-s3',
    env: 'REKINDLE_EXTERNAL_S3',
    value: '<url>',
    help: 'object store that s3:// artifacts come from when the embedded one lacks their bucket',
    fallback: 'none',
  },
  externalS3Region: {
    flag: '--external-s3-region',
    env: 'REKINDLE_EXTERNAL_S3_REGION',
    value: '<name>',
    help: 'Region that requests to it are signed for',
    fallback: 'that of this server',
  },
  externalS3Key: {
    flag: '--external-s3-key',
    env: 'REKINDLE_EXTERNAL_S3_KEY',
    value: '<id:secret>',
    help: 'access key for it; others on this host can read flags, so rather set the variable or the file',
    fallback: 'none; needed with --external-s3',
  },
  auth: {
    flag: '--auth',
    env: 'REKINDLE_AUTH',
    value: '<sigv4|off>',
    help: 'check request signatures, or accept any key (development only)',
    fallback: 'sigv4',
  },
  region: {
    flag: '--region',
    env: 'REKINDLE_REGION',
    value: '<name>',
    help: 'AWS Region this server answers as',
    fallback: 'us-east-1',
  },
  account: {
    flag: '--account',
    env: 'REKINDLE_ACCOUNT',
    value: '<12 digits>',
    help: 'AWS account this server answers as',
    fallback: '000000000000',
  },
  logLevel: {
    flag: '--log-level',
    env: 'REKINDLE_LOG_LEVEL',
    value: '<debug|info|warn|error|silent>',
    help: 'least severe log line written to stderr',
    fallback: 'info',
  },
  onShutdown: {
    flag: '--on-shutdown',
    env: 'REKINDLE_ON_SHUTDOWN',
    value: '<suspend|terminate|leave>',
    help: 'what happens to running microVMs when the server stops; left ones run on until the next start takes them over',
    fallback: 'suspend',
  },
  shutdownSeconds: {
    flag: '--shutdown-seconds',
    env: 'REKINDLE_SHUTDOWN_SECONDS',
    value: '<n>',
    help: 'how long stopping may take at most',
    fallback: '30',
  },
  suspendDrainSeconds: {
    flag: '--suspend-drain-seconds',
    env: 'REKINDLE_SUSPEND_DRAIN_SECONDS',
    value: '<n>',
    help: 'how long a suspend by API waits for requests under way; what is left then is cut',
    fallback: '60',
  },
  checkpointSeconds: {
    flag: '--checkpoint-seconds',
    env: 'REKINDLE_CHECKPOINT_SECONDS',
    value: '<n>',
    help: 'how often a checkpoint is taken of each running microVM, from which it continues should the host end; 0: never',
    fallback: '0',
  },
  memoryBudget: {
    flag: '--memory-budget',
    env: 'REKINDLE_MEMORY_BUDGET',
    value: '<MiB>',
    help: 'memory that running microVMs may be promised together, by their minimum memory',
    fallback: "the host's, less 1 GiB",
  },
  buildCache: {
    flag: '--build-cache',
    env: 'REKINDLE_BUILD_CACHE',
    value: '<GiB>',
    help: 'disk that build caches may take together; those used least recently go first; 0: none are kept',
    fallback: '20',
  },
  buildTimeout: {
    flag: '--build-timeout',
    env: 'REKINDLE_BUILD_TIMEOUT',
    value: '<seconds>',
    help: "how long an image's Dockerfile may run, at most an hour; then its build has failed",
    fallback: '3600',
  },
  builderKeep: {
    flag: '--builder-keep',
    env: 'REKINDLE_BUILDER_KEEP',
    value: '<seconds>',
    help: 'how long the machine of a build waits, paused, for the next one of its principal; 0: each build has a fresh one',
    fallback: '180',
  },
  encryptionKeyFile: {
    flag: '--encryption-key-file',
    env: 'REKINDLE_ENCRYPTION_KEY_FILE',
    value: '<file>',
    help: 'encrypt what microVMs leave on disk under the key in it: 32 random bytes in base64',
    fallback: 'none',
  },
  quotas: {
    flag: '--quotas',
    env: 'REKINDLE_QUOTAS',
    value: '<off|service|list>',
    help: 'quotas and call rates: none, those of AWS, or e.g. service,images=200,RunMicrovm=50/100',
    fallback: 'off',
  },
  roles: {
    flag: '--roles',
    env: 'REKINDLE_ROLES',
    value: '<file>',
    help: 'JSON file that says where the credentials of roles come from and who may pass them',
    fallback: 'none: no role has credentials',
  },
  registries: {
    flag: '--registries',
    env: 'REKINDLE_REGISTRIES',
    value: '<file>',
    help: 'JSON file with mirrors, aliases and credentials of container registries that Dockerfiles build from',
    fallback: 'none',
  },
  networks: {
    flag: '--networks',
    env: 'REKINDLE_NETWORKS',
    value: '<file>',
    help: 'JSON file that says what subnets and security groups of network connectors stand for',
    fallback: 'none',
  },
  defaultEgress: {
    flag: '--default-egress',
    env: 'REKINDLE_DEFAULT_EGRESS',
    value: '<aws|deny>',
    help: 'egress of images and microVMs that name no connector: the internet as on AWS, or nothing',
    fallback: 'what the networks file says, else aws',
  },
} as const satisfies Record<string, Setting>;

/** @throws DomainError INVALID naming the setting, where it came from, and what it must look like. */
export function loadConfig(flags: RawSettings, env: Environment): Config {
  const config = flags.config ?? env.REKINDLE_CONFIG;
  const file = config === undefined ? {} : readConfigFile(config);
  const raw = (key: SettingKey): Found => find(key, flags, env, file);
  const region = matching(raw('region'), /^[a-z]{2}(-[a-z]+)+-\d$/, 'a Region name such as us-east-1', 'us-east-1');
  return Object.freeze({
    stateDir: folder(raw('state'), env.XDG_STATE_HOME, '.local/state'),
    cacheDir: folder(raw('cache'), env.XDG_CACHE_HOME, '.cache'),
    apiPort: optional(raw('apiPort'), (found) => integer(found, 0, 65_535)),
    s3Port: optional(raw('s3Port'), (found) => integer(found, 0, 65_535)),
    endpointHosts: endpointHosts(raw, region),
    endpointCertificate: endpointCertificate(raw),
    endpointLimits: endpointLimits(raw('endpointLimits')),
    externalS3: externalS3(raw),
    auth: oneOf(raw('auth'), ['sigv4', 'off']),
    region,
    account: matching(raw('account'), /^\d{12}$/, '12 digits', '000000000000'),
    logLevel: oneOf(raw('logLevel'), ['info', 'debug', 'warn', 'error', 'silent']),
    onShutdown: oneOf(raw('onShutdown'), ['suspend', 'terminate', 'leave']),
    shutdownSeconds: optional(raw('shutdownSeconds'), (found) => integer(found, 1, 3600)) ?? 30,
    suspendDrainSeconds: optional(raw('suspendDrainSeconds'), (found) => integer(found, 0, 3600)) ?? 60,
    checkpointSeconds: optional(raw('checkpointSeconds'), (found) => integer(found, 0, 86_400)) ?? 0,
    memoryBudgetMiB: optional(raw('memoryBudget'), (found) => integer(found, 512, 100_000_000)),
    buildCacheGiB: optional(raw('buildCache'), (found) => integer(found, 0, 100_000)) ?? 20,
    buildTimeoutSeconds: optional(raw('buildTimeout'), (found) => integer(found, 1, 3600)) ?? 3600,
    builderKeepSeconds: optional(raw('builderKeep'), (found) => integer(found, 0, 3600)) ?? 180,
    encryptionKeyFile: optional(raw('encryptionKeyFile'), ({ value }) => resolve(value)),
    quotas: quotas(raw('quotas'), region),
    roles: optional(raw('roles'), path),
    environment: Object.freeze({ ...env }),
    registries: optional(raw('registries'), path),
    networks: optional(raw('networks'), path),
    defaultEgress: optional(raw('defaultEgress'), (found) => oneOf(found, ['aws', 'deny'])),
  });
}

function endpointHosts(raw: (key: SettingKey) => Found, region: string): Config['endpointHosts'] {
  const mode = raw('endpointMode');
  const [listen, domain, port] = [raw('endpointListen'), raw('endpointDomain'), raw('endpointPort')];
  if (oneOf(mode, ['port', 'host']) === 'port') {
    const stray = [listen, domain, port].find(({ value }) => value !== undefined);
    if (stray === undefined) return undefined;
    throw new DomainError('INVALID', `${stray.name} means something only with ${SETTINGS.endpointMode.flag} host.`);
  }
  const address = matching(listen, LISTEN_FORM, 'an IP address and a port such as 0.0.0.0:443 or [::]:443', LISTEN);
  const [, v6, v4, digits] = LISTEN_FORM.exec(address) ?? [];
  const host = v6 ?? v4 ?? '';
  if (isIP(host) === 0 || Number(digits) > 65_535)
    throw refused(listen, 'an IP address and a port such as 0.0.0.0:443');
  const name = matching(domain, /^.{1,180}$/, 'a domain such as example.com', 'localhost').toLowerCase();
  if (!DOMAIN_FORM.test(name)) throw refused(domain, 'a domain such as example.com');
  return Object.freeze({
    listen: { host, port: Number(digits) },
    suffix: `lambda-microvm.${region}.${name}`,
    publicPort: optional(port, (found) => integer(found, 1, 65_535)),
  });
}

const LISTEN = '127.0.0.1:8443';
const LISTEN_FORM = /^(?:\[([\da-f:.]+)\]|([\d.]+)):(\d{1,5})$/i;
const LABEL = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?';
const DOMAIN_FORM = new RegExp(`^${LABEL}(?:\\.${LABEL})*$`);

function endpointCertificate(raw: (key: SettingKey) => Found): Config['endpointCertificate'] {
  const certFile = optional(raw('endpointCert'), path);
  const keyFile = optional(raw('endpointKey'), path);
  if (certFile !== undefined && keyFile !== undefined) return Object.freeze({ certFile, keyFile });
  if (certFile === undefined && keyFile === undefined) return undefined;
  throw new DomainError(
    'INVALID',
    `${SETTINGS.endpointCert.flag} and ${SETTINGS.endpointKey.flag} belong together: give both, or none.`,
  );
}

function endpointLimits(found: Found): Limits {
  const parsed = parseLimits(found.value ?? 'default');
  if (parsed === undefined) throw refused(found, LIMITS_FORM);
  return parsed;
}

function externalS3(raw: (key: SettingKey) => Found): Config['externalS3'] {
  const endpoint = raw('externalS3');
  if (endpoint.value === undefined) return undefined;
  if (!URL.canParse(endpoint.value) || !/^https?:/.test(endpoint.value))
    throw refused(endpoint, 'an http or https URL');
  const key = raw('externalS3Key');
  // The value is a secret, so the refusal does not repeat it.
  const [, accessKeyId, secretAccessKey] = /^([^:]+):(.+)$/.exec(key.value ?? '') ?? [];
  if (accessKeyId === undefined || secretAccessKey === undefined) {
    throw new DomainError(
      'INVALID',
      `${key.name} must hold <access key id>:<secret access key> for ${endpoint.value}.`,
    );
  }
  const region = raw('externalS3Region').value ?? raw('region').value ?? 'us-east-1';
  return Object.freeze({ endpoint: endpoint.value, region, accessKeyId, secretAccessKey });
}

interface Found {
  /** Undefined when nobody set it. */
  readonly value: string | undefined;
  /** How the user knows it: the flag, the variable, or the key in the file. */
  readonly name: string;
}

function find(key: SettingKey, flags: RawSettings, env: Environment, file: Record<string, string>): Found {
  const setting = SETTINGS[key];
  const flag = flags[key];
  if (flag !== undefined) return { value: flag, name: setting.flag };
  const variable = env[setting.env];
  if (variable !== undefined && variable !== '') return { value: variable, name: setting.env };
  return { value: file[key], name: `"${key}" in the configuration file` };
}

function readConfigFile(path: string): Record<string, string> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new DomainError('INVALID', `The configuration file cannot be read: ${messageOf(error)}`, { cause: error });
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new DomainError('INVALID', 'The configuration file must hold one JSON object.');
  }
  const known = Object.keys(SETTINGS);
  for (const [key, value] of Object.entries(parsed)) {
    if (!known.includes(key)) {
      throw new DomainError(
        'INVALID',
        `"${key}" in the configuration file is unknown; known are: ${known.join(', ')}.`,
      );
    }
    if (typeof value !== 'string' && typeof value !== 'number') {
      throw new DomainError('INVALID', `"${key}" in the configuration file must be a string or a number.`);
    }
  }
  return Object.fromEntries(Object.entries(parsed).map(([key, value]) => [key, String(value)]));
}

function folder(found: Found, xdg: string | undefined, inHome: string): string {
  if (found.value === '') throw refused(found, 'the path of a folder');
  if (found.value !== undefined) return resolve(found.value);
  const parent = xdg !== undefined && isAbsolute(xdg) ? xdg : join(homedir(), inHome);
  return join(parent, 'rekindle');
}

function optional<T>(found: Found, parse: (found: Found & { value: string }) => T): T | undefined {
  return found.value === undefined ? undefined : parse({ value: found.value, name: found.name });
}

function path(found: Found & { value: string }): string {
  if (found.value === '') throw refused(found, 'the path of a file');
  return resolve(found.value);
}

function integer(found: Found & { value: string }, least: number, most: number): number {
  const value = /^\d{1,9}$/.test(found.value) ? Number(found.value) : Number.NaN;
  if (!(value >= least && value <= most)) throw refused(found, `a whole number from ${least} to ${most}`);
  return value;
}

/** The first choice is the default. */
function oneOf<const T extends string>(found: Found, choices: readonly [T, ...T[]]): T {
  if (found.value === undefined) return choices[0];
  const choice = choices.find((candidate) => candidate === found.value);
  if (choice === undefined) throw refused(found, `one of ${choices.join(', ')}`);
  return choice;
}

function quotas(found: Found, region: string): Quotas {
  const parsed = parseQuotas(found.value ?? 'off', region);
  if (parsed === undefined) throw refused(found, QUOTAS_FORM);
  return parsed;
}

function matching(found: Found, pattern: RegExp, description: string, fallback: string): string {
  if (found.value === undefined) return fallback;
  if (!pattern.test(found.value)) throw refused(found, description);
  return found.value;
}

function refused(found: Found, expected: string): DomainError {
  return new DomainError('INVALID', `${found.name} is "${found.value}" but must be ${expected}.`);
}
