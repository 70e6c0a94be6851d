/** From RunMicrovm's members and a launchable version to the record: the service's defaults and business rules. */
import { type EgressDefaults, resolveEgress, resolveIngress } from '../connectors/index.ts';
import type { LaunchableVersion } from '../images/index.ts';
import { DomainError } from '../lib/index.ts';
import { type Claim, fingerprintOf } from '../store/index.ts';
import { wantsHook } from './hooks.ts';
import type { Moment, Pending } from './lifecycle.ts';
import type { RunMicrovmInput } from './types.ts';

/** Source: model text, default and maximum. */
const DEFAULT_MAXIMUM_DURATION_SECONDS = 28_800;

/** The record without what only a new microVM's address decides. @throws DomainError `INVALID`, `NOT_FOUND` */
export function draftOf(
  region: string,
  input: RunMicrovmInput,
  version: LaunchableVersion,
  at: Moment,
  defaults: EgressDefaults,
): Omit<Pending, 'id' | 'endpointId' | 'endpoint' | 'endpointPort'> {
  const payload = input.runHookPayload;
  if (payload !== undefined && payload !== '' && !wantsHook(version.hooks, 'run')) {
    // That it is refused is reported, in which words is not. GUESS: payload-without-run-hook
    throw new DomainError(
      'INVALID',
      'runHookPayload requires the run hook to be enabled on the MicroVM image version.',
    );
  }
  return {
    state: 'PENDING',
    imageArn: version.imageArn,
    imageVersion: version.imageVersion,
    ...(version.snapshot !== undefined && { snapshot: version.snapshot }),
    ...(input.principal !== undefined && { principal: input.principal }),
    memoryMiB: version.memoryMiB,
    executionRoleArn: input.executionRoleArn ?? null,
    idlePolicy: input.idlePolicy ?? null,
    logging: input.logging ?? null,
    hooks: version.hooks,
    maximumDurationSeconds: input.maximumDurationInSeconds ?? DEFAULT_MAXIMUM_DURATION_SECONDS,
    ingressNetworkConnectors: resolveIngress(region, input.ingressNetworkConnectors),
    egressNetworkConnectors: resolveEgress(
      region,
      input.egressNetworkConnectors,
      version.egressNetworkConnectors,
      defaults,
    ),
    startedAt: at.wallMs,
    bornAt: at.elapsedMs,
    epoch: 1,
    runHookPayload: payload ?? null,
  };
}

/** The claim of a call that carries a client token on the microVM it would make. */
export function claimOf(input: RunMicrovmInput, resource: string, at: number): Claim | undefined {
  const { clientToken: token, principal: _, ...parameters } = input;
  if (token === undefined) return undefined;
  return { scope: 'RunMicrovm', token, fingerprint: fingerprintOf(parameters), resource, createdAt: at };
}
