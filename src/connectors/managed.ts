/**
 * Managed network connectors: the five that exist without anybody creating them, and how their ARNs read.
 *
 * ARN: `arn:<partition>:lambda:<region>:aws:network-connector:aws-network-connector:<NAME>`; source: the guide's
 * networking and security chapters, refusal texts from recordings (July-September 2026).
 */
import { DomainError } from '../lib/index.ts';

export const INGRESS_CONNECTORS = ['ALL_INGRESS', 'HTTP_INGRESS', 'NO_INGRESS', 'SHELL_INGRESS'] as const;
export const EGRESS_CONNECTORS = ['INTERNET_EGRESS'] as const;

export type IngressConnectorName = (typeof INGRESS_CONNECTORS)[number];
export type EgressConnectorName = (typeof EGRESS_CONNECTORS)[number];
export type ManagedConnectorName = IngressConnectorName | EgressConnectorName;

export type Connector =
  | { readonly kind: 'managed'; readonly arn: string; readonly name: ManagedConnectorName }
  | { readonly kind: 'customer'; readonly arn: string; readonly account: string; readonly id: string };

const ARN = /^arn:[a-z0-9-]+:lambda:[a-z0-9-]*:(aws|\d{12}):network-connector:(.+)$/;
const MANAGED_PREFIX = 'aws-network-connector:';

/** The ARN of a managed connector in `region`. */
export function managedConnectorArn(region: string, name: ManagedConnectorName): string {
  return `arn:aws:lambda:${region}:aws:network-connector:${MANAGED_PREFIX}${name}`;
}

/**
 * Reads a connector ARN.
 * @throws DomainError `INVALID` with the service's recorded texts for what is no connector ARN or an unknown managed name
 */
export function parseConnectorArn(arn: string): Connector {
  const match = ARN.exec(arn);
  if (match === null) throw new DomainError('INVALID', 'Malformed network connector ARN');
  const [, account = '', id = ''] = match;
  if (account !== 'aws') return { kind: 'customer', arn, account, id };
  const name = id.startsWith(MANAGED_PREFIX) ? id.slice(MANAGED_PREFIX.length) : '';
  if (!isIngress(name) && !isEgress(name)) {
    throw new DomainError('INVALID', `Unrecognized managed network connector ARN: ${arn}`);
  }
  return { kind: 'managed', arn, name };
}

export function isIngress(name: string): name is IngressConnectorName {
  return INGRESS_CONNECTORS.some((known) => known === name);
}

export function isEgress(name: string): name is EgressConnectorName {
  return EGRESS_CONNECTORS.some((known) => known === name);
}
