/** From CreateMicrovmImage's members to a version's configuration: the service's defaults and business rules. */
import { parseArtifactUri } from '../artifacts/index.ts';
import { type EgressDefaults, resolveEgress } from '../connectors/index.ts';
import { type ContainerConfig, MEMORY_SIZES_MIB, type MemoryMiB, type Readiness } from '../engine/index.ts';
import { DomainError } from '../lib/index.ts';
import { resolveBase } from './managed.ts';
import type { CreateImageInput, Hooks, VersionConfig } from './types.ts';

/** Source: recorded default. */
const DEFAULT_MEMORY_MIB = 2048;
/** Source: documented default port of the proxy. */
const DEFAULT_APP_PORT = 8080;
/** Sources: 30 s (vendor skill), 60 s (an emulator, "live-verified"). GUESS: image-hook-default-timeouts */
const DEFAULT_HOOK_SECONDS = 60;
/** Without a ready hook the service snapshots at an unspecified moment. GUESS: ready-without-hook */
const LISTENING_GRACE_MS = 30_000;
/** Of an app that says where it will listen: on a busy host under emulation an interpreter alone may take longer than that. */
const EXPOSED_GRACE_MS = 120_000;

/** @throws DomainError `INVALID`, `NOT_FOUND` */
export function configOf(
  region: string,
  input: Omit<CreateImageInput, 'name' | 'tags' | 'clientToken' | 'principal'>,
  defaults: EgressDefaults,
): VersionConfig {
  const baseImageVersion = resolveBase(region, input.baseImageArn, input.baseImageVersion);
  parseArtifactUri(input.codeArtifact.uri);
  checkHooks(input.hooks);
  checkEnvironment(input.environmentVariables);
  return {
    baseImageArn: input.baseImageArn,
    baseImageVersion,
    buildRoleArn: input.buildRoleArn,
    description: input.description ?? null,
    codeArtifact: input.codeArtifact,
    logging: input.logging ?? null,
    egressNetworkConnectors: resolveEgress(region, input.egressNetworkConnectors, undefined, defaults),
    cpuConfigurations: input.cpuConfigurations ?? null,
    resources: [{ minimumMemoryInMiB: memoryOf(input.resources) }],
    additionalOsCapabilities: input.additionalOsCapabilities ?? null,
    hooks: input.hooks ?? null,
    environmentVariables: input.environmentVariables ?? null,
  };
}

export function memoryMiBOf(config: VersionConfig): MemoryMiB {
  return config.resources[0]?.minimumMemoryInMiB ?? DEFAULT_MEMORY_MIB;
}

/** What the app is started with: image ENV, then the version's variables, then the four the service injects (recorded). */
export function containerConfigOf(
  image: ContainerConfig,
  version: {
    readonly config: VersionConfig;
    readonly imageArn: string;
    readonly imageName: string;
    readonly version: string;
  },
  region: string,
): ContainerConfig {
  const env = new Map<string, string>();
  for (const pair of image.env) {
    const at = pair.indexOf('=');
    env.set(at === -1 ? pair : pair.slice(0, at), at === -1 ? '' : pair.slice(at + 1));
  }
  for (const [name, value] of Object.entries(version.config.environmentVariables ?? {})) env.set(name, value);
  env.set('AWS_LAMBDA_MICROVM_IMAGE_ARN', version.imageArn);
  env.set('AWS_LAMBDA_MICROVM_IMAGE_NAME', version.imageName);
  env.set('AWS_LAMBDA_MICROVM_IMAGE_VERSION', version.version);
  env.set('AWS_REGION', region);
  return { ...image, env: [...env].map(([name, value]) => `${name}=${value}`) };
}

/** When the app counts as started: its ready hook, or its port, or a while. */
export function readinessOf(config: VersionConfig, image: ContainerConfig): Readiness {
  const port = config.hooks?.port;
  if (port !== undefined && config.hooks?.microvmImageHooks?.ready === 'ENABLED') {
    return {
      kind: 'hook',
      port,
      path: `${HOOK_PATH}/ready`,
      timeoutMs: 1000 * imageHookSeconds(config.hooks, 'ready'),
    };
  }
  const exposed = image.exposedPorts.includes(DEFAULT_APP_PORT) ? DEFAULT_APP_PORT : image.exposedPorts[0];
  if (exposed === undefined) return { kind: 'listening', port: DEFAULT_APP_PORT, graceMs: LISTENING_GRACE_MS };
  return { kind: 'listening', port: exposed, graceMs: EXPOSED_GRACE_MS };
}

/** Path prefix of all hooks. Source: the guide's OpenAPI document, version 2025-12-03. */
export const HOOK_PATH = '/aws/lambda-microvms/runtime/v1';

export function imageHookSeconds(hooks: Hooks | null, name: 'ready' | 'validate'): number {
  return hooks?.microvmImageHooks?.[`${name}TimeoutInSeconds`] ?? DEFAULT_HOOK_SECONDS;
}

/** The list is recorded as part of the refusal; its sentence is ours. GUESS: memory-size-text */
function memoryOf(resources: CreateImageInput['resources']): MemoryMiB {
  const wanted = resources?.[0]?.minimumMemoryInMiB ?? DEFAULT_MEMORY_MIB;
  const size = MEMORY_SIZES_MIB.find((known) => known === wanted);
  if (size !== undefined) return size;
  throw new DomainError(
    'INVALID',
    `The minimum memory ${wanted} MiB is not supported. Supported values: [${MEMORY_SIZES_MIB.join(', ')}]`,
  );
}

/** The port is required as soon as any hook is enabled (documented, words not). GUESS: hook-port-text */
function checkHooks(hooks: Hooks | undefined): void {
  if (hooks === undefined || hooks.port !== undefined) return;
  const switches: unknown[] = [
    ...Object.values(hooks.microvmHooks ?? {}),
    ...Object.values(hooks.microvmImageHooks ?? {}),
  ];
  if (switches.includes('ENABLED')) throw new DomainError('INVALID', 'hooks.port is required when a hook is enabled.');
}

/** AWS_REGION is a reserved name (recorded, words not). GUESS: reserved-variable-text */
function checkEnvironment(variables: CreateImageInput['environmentVariables']): void {
  if (variables !== undefined && Object.hasOwn(variables, 'AWS_REGION')) {
    throw new DomainError('INVALID', 'The environment variable name AWS_REGION is reserved.');
  }
}
