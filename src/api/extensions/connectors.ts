/**
 * The domain list of a network connector, which AWS's shapes have no room for. Reading it takes what reading the connector
 * takes, changing it what updating the connector takes.
 *
 *   GET, PUT, DELETE …/network-connectors/{id, name or ARN}/domains
 *
 * PUT's body: {"domains": [{"name": "*.pypi.org", "ports": [443, "8000-8100"], "content": "tls-or-http"}, …]}
 */
import type { Connectors, DomainListView } from '../../connectors/index.ts';
import { DomainError } from '../../lib/index.ts';

export const DOMAINS_PATH = /^\/rekindle\/v1\/network-connectors\/([^/]+)\/domains$/;

export interface DomainsCall {
  readonly method: string;
  /** Id, name or ARN. */
  readonly identifier: string;
  readonly body: Buffer;
  readonly connectors: Pick<Connectors, 'domains' | 'setDomains'>;
  /** `undefined`: there is no such thing. @throws DomainError DENIED */
  demandOn(action: string, resource: string | undefined): Promise<void>;
}

/** @throws DomainError */
export async function answerDomains(call: DomainsCall): Promise<DomainListView> {
  const { method, connectors, body } = call;
  switch (method) {
    case 'GET':
      return allowed(call, 'lambda:GetNetworkConnector');
    case 'PUT': {
      const { Arn } = await allowed(call, 'lambda:UpdateNetworkConnector');
      return connectors.setDomains(Arn, domainsIn(body));
    }
    case 'DELETE': {
      const { Arn } = await allowed(call, 'lambda:UpdateNetworkConnector');
      return connectors.setDomains(Arn, null);
    }
    default:
      throw new DomainError('NOT_FOUND', `${method} does nothing at the domains of a network connector.`);
  }
}

/** Only who may do this to some connector is told that there is no such one. */
async function allowed({ connectors, identifier, demandOn }: DomainsCall, action: string): Promise<DomainListView> {
  let found: DomainListView;
  try {
    found = await connectors.domains(identifier);
  } catch (error) {
    if (error instanceof DomainError && error.code === 'NOT_FOUND') await demandOn(action, undefined);
    throw error;
  }
  await demandOn(action, found.Arn);
  return found;
}

function domainsIn(body: Buffer): unknown {
  let found: unknown;
  try {
    found = JSON.parse(body.toString('utf8'));
  } catch {}
  if (typeof found !== 'object' || found === null || Array.isArray(found) || !('domains' in found)) {
    throw new DomainError('INVALID', 'The body must be a JSON object with the member "domains".');
  }
  const [unknown] = Object.keys(found).filter((member) => member !== 'domains');
  if (unknown !== undefined) throw new DomainError('INVALID', `The member ${JSON.stringify(unknown)} is unknown.`);
  // Taking the list away opens a connector up: that is not done by accident.
  if (found.domains === null) throw new DomainError('INVALID', 'domains must be a list; DELETE takes it away.');
  return found.domains;
}
