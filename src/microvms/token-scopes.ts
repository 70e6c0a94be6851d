/** What an endpoint token may be made for: the microVM's state and its ingress connectors say. */
import { ingressPolicy } from '../connectors/index.ts';
import { DomainError } from '../lib/index.ts';
import { portsOf } from './endpoint-token.ts';
import type { Microvm } from './lifecycle.ts';
import type { AuthTokenInput, TokenClaims } from './types.ts';

type TokenScope = Omit<TokenClaims, 'expiresAt'>;

/** @throws DomainError `INVALID` when none is made for `record` */
export function appScope(record: Microvm, allowedPorts: AuthTokenInput['allowedPorts']): TokenScope {
  demandLife(record);
  const { http, conflicting } = ingressPolicy(record.ingressNetworkConnectors);
  if (conflicting) {
    throw new DomainError(
      'INVALID',
      'ALL_INGRESS cannot be combined with other ingress network connectors; use HTTP_INGRESS and/or SHELL_INGRESS instead',
    );
  }
  const asked = portsOf(allowedPorts);
  // A token opens no more than the microVM's connectors let in: without HTTP the endpoint answers 403, access to port
  // denied, whatever was asked for. What the service answers then is undocumented. GUESS: endpoint-without-ingress
  return { microvmId: record.id, kind: 'app', ports: http ? asked : [] };
}

/** @throws DomainError `INVALID` when none is made for `record` */
export function shellScope(record: Microvm): TokenScope {
  demandLife(record);
  if (!ingressPolicy(record.ingressNetworkConnectors).shell) {
    throw new DomainError(
      'INVALID',
      'Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM.',
    );
  }
  return { microvmId: record.id, kind: 'shell', ports: [] };
}

/** Tokens are made for every microVM that can still run. GUESS: token-for-ended */
function demandLife({ id, state }: Microvm): void {
  if (state === 'TERMINATED' || state === 'TERMINATING') {
    throw new DomainError('INVALID', `The MicroVM ${id} has been terminated and its state cannot be changed.`);
  }
}
