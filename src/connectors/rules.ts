/**
 * What a connector must carry although the model calls it optional, in the service's words and order: types, role,
 * protocol. Source: recorded; subnets are refused alike, but in which words is not. GUESS: connector-refusal-texts
 */
import { DomainError } from '../lib/index.ts';
import type { ConnectorConfiguration } from './types.ts';

/** @throws DomainError `INVALID` */
export function checkConfiguration({ VpcEgressConfiguration: vpc }: ConnectorConfiguration): void {
  if (isMissing(vpc.AssociatedComputeResourceTypes)) throw missing('AssociatedComputeResourceTypes');
  if (isMissing(vpc.NetworkProtocol)) throw new DomainError('INVALID', 'NetworkProtocol cannot be null or empty');
  if (isMissing(vpc.SubnetIds)) throw missing('SubnetIds');
}

/** @throws DomainError `INVALID` */
export function requireOperatorRole(role: string | undefined): string {
  if (role === undefined || role === '') throw missing('NetworkConnectorOperatorRole');
  return role;
}

/** The name's pattern also admits ARNs, which say who is meant, not how a new one is called. */
export function checkName(name: string): void {
  if (!name.startsWith('arn:')) return;
  throw new DomainError('INVALID', 'The name of a network connector must not be an ARN.');
}

function isMissing(value: string | readonly unknown[] | undefined): boolean {
  return value === undefined || value.length === 0;
}

function missing(what: string): DomainError {
  return new DomainError('INVALID', `${what} is required for VPC_EGRESS connector type`);
}
