/**
 * What a list of connector ARNs comes to: the effective list with the service's defaults, and the policy it stands for.
 *
 * Invariant: a list that left this file holds only connectors that point the right way. Whether customers' ones exist and
 * can be used only the records know (`Connectors.requireActive`).
 */
import { DomainError } from '../lib/index.ts';
import { type IngressConnectorName, isEgress, isIngress, managedConnectorArn, parseConnectorArn } from './managed.ts';
import type { EgressDefaults } from './types.ts';

/** What may come in: app traffic on the endpoint's ports, and the shell. */
export interface IngressPolicy {
  readonly http: boolean;
  readonly shell: boolean;
  /** ALL_INGRESS beside another ingress connector: accepted at launch, refused when a token is asked for (recorded). */
  readonly conflicting: boolean;
}

/**
 * The effective ingress list of a launch: HTTP_INGRESS when absent.
 *
 * An empty list counts as absent, as it does for egress. GUESS: empty-ingress-list
 * @throws DomainError `INVALID`
 */
export function resolveIngress(region: string, arns: readonly string[] | undefined): readonly string[] {
  if (arns === undefined || arns.length === 0) return [managedConnectorArn(region, 'HTTP_INGRESS')];
  ingressNames(arns);
  return arns;
}

/** What AWS gives to a list without connectors. */
const AWS_DEFAULTS: EgressDefaults = { implicit: 'internet', internet: 'allow' };

/**
 * The effective egress list: `fallback` (the image's own list) when absent or empty, INTERNET_EGRESS without one. Where the
 * server's default is to deny it is nothing, and an image that was made under another default loses its INTERNET_EGRESS.
 * @throws DomainError `INVALID`
 */
export function resolveEgress(
  region: string,
  arns: readonly string[] | undefined,
  fallback?: readonly string[],
  defaults: EgressDefaults = AWS_DEFAULTS,
): readonly string[] {
  const internet = managedConnectorArn(region, 'INTERNET_EGRESS');
  if (arns !== undefined && arns.length > 0) {
    checkEgress(arns);
    return arns;
  }
  if (fallback === undefined)
    return defaults.implicit === 'internet' && defaults.internet === 'allow' ? [internet] : [];
  return defaults.internet === 'allow' ? fallback : fallback.filter((arn) => arn !== internet);
}

/** What an effective ingress list allows. @throws DomainError as `resolveIngress` */
export function ingressPolicy(arns: readonly string[]): IngressPolicy {
  const names = ingressNames(arns);
  return {
    http: names.some((name) => name === 'HTTP_INGRESS' || name === 'ALL_INGRESS'),
    shell: names.includes('SHELL_INGRESS'),
    conflicting: names.includes('ALL_INGRESS') && names.some((name) => name !== 'ALL_INGRESS'),
  };
}

function ingressNames(arns: readonly string[]): IngressConnectorName[] {
  return arns.map((arn) => {
    const connector = parseConnectorArn(arn);
    if (connector.kind === 'customer' || !isIngress(connector.name)) throw wrongDirection(arn, 'ingress');
    return connector.name;
  });
}

/** Customers' connectors are egress ones. */
function checkEgress(arns: readonly string[]): void {
  for (const arn of arns) {
    const connector = parseConnectorArn(arn);
    if (connector.kind === 'managed' && !isEgress(connector.name)) throw wrongDirection(arn, 'egress');
  }
}

/** The service's words for a connector in the wrong list are not public. GUESS: connector-direction */
function wrongDirection(arn: string, wanted: 'ingress' | 'egress'): DomainError {
  return new DomainError('INVALID', `The network connector ${arn} is not an ${wanted} connector.`);
}
