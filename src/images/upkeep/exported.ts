/**
 * What an exported image version says of itself, in the `about` of its archive: written here, and read again from files of
 * which nothing is believed. The archive's only part is `disk`, the root disk as it was built.
 */
import type { ContainerConfig } from '../../engine/index.ts';
import { DomainError } from '../../lib/index.ts';
import type { Owner } from '../image-arn.ts';
import type { VersionRecord } from '../lifecycle.ts';
import { decodeFacts, type ProvenanceFacts } from '../provenance/facts.ts';
import type { VersionConfig } from '../types.ts';

export const EXPORT_FORMAT = 'rekindle-image-version';
export const EXPORT_GENERATION = 1;
export const DISK_PART = 'disk';

export interface Exported {
  readonly imageName: string;
  readonly imageVersion: string;
  /** Whose ARNs `config` has. */
  readonly from: Owner;
  /** As a version has it, unchecked. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly built: { readonly config: ContainerConfig; readonly usedBytes: number };
  /** As far as it was known there. */
  readonly provenance?: ProvenanceFacts;
}

const MAX_STRINGS = 4096;
const MAX_STRING_LENGTH = 131_072;

export function aboutOf(
  version: VersionRecord,
  owner: Owner,
  { built, provenance }: Pick<Exported, 'built' | 'provenance'>,
  at: number,
): object {
  const { imageName, version: imageVersion, config, createdAt, state } = version;
  return {
    format: EXPORT_FORMAT,
    generation: EXPORT_GENERATION,
    exportedAt: new Date(at).toISOString(),
    imageName,
    imageVersion,
    state,
    createdAt: new Date(createdAt).toISOString(),
    from: owner,
    config,
    built,
    ...(provenance !== undefined && { provenance }),
  };
}

/** @throws DomainError `INVALID` saying what is wrong with the file */
export function readAbout(about: unknown): Exported {
  const { format, generation, imageName, imageVersion, from, config, built, provenance } = record(
    about,
    'what it says of itself',
  );
  if (format !== EXPORT_FORMAT) throw bad('it holds no image version');
  if (generation !== EXPORT_GENERATION)
    throw bad(`it is of generation ${Number(generation)}, which this server does not know`);
  const { region, accountId } = record(from, 'its origin');
  const { config: container, usedBytes } = record(built, 'its build');
  if (typeof usedBytes !== 'number' || !Number.isSafeInteger(usedBytes) || usedBytes < 0) throw bad('it has no size');
  return {
    imageName: text(imageName, 'the name of its image'),
    imageVersion: text(imageVersion, 'its version'),
    from: { region: text(region, 'its origin'), accountId: text(accountId, 'its origin') },
    config: record(config, 'its configuration'),
    built: { config: containerConfig(record(container, 'its container')), usedBytes },
    ...(provenance !== undefined && { provenance: decodeFacts(provenance) }),
  };
}

/** A version's configuration as the body of a CreateMicrovmImage for `to`: what was the exporter's own becomes this account's. */
export function createBody({ config, from }: Exported, to: Owner): Record<string, unknown> {
  const moved = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(moved);
    if (typeof value !== 'string' || !value.startsWith('arn:')) return value;
    const parts = value.split(':');
    if (parts[3] === from.region) parts[3] = to.region;
    if (parts[4] === from.accountId) parts[4] = to.accountId;
    return parts.join(':');
  };
  const { baseImageArn, baseImageVersion, buildRoleArn, egressNetworkConnectors, ...rest } = config;
  const arns = {
    baseImageArn: moved(baseImageArn),
    // Echoed as `major.minor`, given as the major number.
    baseImageVersion: typeof baseImageVersion === 'string' ? baseImageVersion.replace(/\.\d+$/, '') : baseImageVersion,
    buildRoleArn: moved(buildRoleArn),
    egressNetworkConnectors: moved(egressNetworkConnectors),
  };
  return Object.fromEntries(Object.entries({ ...rest, ...arns }).filter(([, value]) => value != null));
}

type Wanted = Record<Exclude<keyof VersionConfig, symbol>, true>;
/** Members that a configuration may have; others are refused rather than passed over. */
export const CONFIG_MEMBERS = {
  baseImageArn: true,
  baseImageVersion: true,
  buildRoleArn: true,
  description: true,
  codeArtifact: true,
  logging: true,
  egressNetworkConnectors: true,
  cpuConfigurations: true,
  resources: true,
  additionalOsCapabilities: true,
  hooks: true,
  environmentVariables: true,
} as const satisfies Wanted;

function containerConfig(config: Record<string, unknown>): ContainerConfig {
  const { exposedPorts } = config;
  if (!Array.isArray(exposedPorts) || exposedPorts.length > MAX_STRINGS || !exposedPorts.every(isPort)) {
    throw bad('its ports have a wrong shape');
  }
  const env = texts(config.env, 'its variables');
  if (env.some((entry) => entry.indexOf('=') < 1)) throw bad('its variables have a wrong shape');
  return {
    entrypoint: texts(config.entrypoint, 'its entry point'),
    cmd: texts(config.cmd, 'its command'),
    env,
    workingDir: text(config.workingDir, 'its working directory'),
    user: text(config.user, 'its user'),
    exposedPorts,
  };
}

function isPort(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 65_535;
}

function texts(value: unknown, what: string): string[] {
  if (!Array.isArray(value) || value.length > MAX_STRINGS) throw bad(`${what} is missing or has a wrong shape`);
  return value.map((item: unknown) => text(item, what));
}

function text(value: unknown, what: string): string {
  if (typeof value === 'string' && value.length <= MAX_STRING_LENGTH && !value.includes('\0')) return value;
  throw bad(`${what} is missing or has a wrong shape`);
}

function record(value: unknown, what: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ...value };
  throw bad(`${what} is missing or has a wrong shape`);
}

function bad(why: string): DomainError {
  return new DomainError('INVALID', `The file cannot be imported: ${why}.`);
}
