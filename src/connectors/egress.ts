/**
 * What a list of connectors allows together: the union of their rules. A connector that has no say any more adds nothing,
 * so what goes wrong with one closes and never opens.
 */
import type { EgressPolicy, EgressRule } from '../engine/index.ts';
import { rulingOf } from './egress-rules.ts';
import { type ConnectorRecord, inForce } from './lifecycle.ts';
import { parseConnectorArn } from './managed.ts';
import type { NetworkPlan } from './networks-file.ts';
import type { EgressDefaults } from './types.ts';

interface Part {
  readonly rules: readonly EgressRule[];
  readonly dns: 'open' | 'listed';
}

/** Source: recorded; UDP does not leave over the managed connector. */
const INTERNET: Part = { rules: [{ id: 'INTERNET_EGRESS', kind: 'internet', protocols: ['tcp'] }], dns: 'open' };

export async function policyOf(
  arns: readonly string[],
  plan: NetworkPlan,
  find: (arn: string) => Promise<ConnectorRecord | undefined>,
): Promise<EgressPolicy> {
  const parts: Part[] = [];
  for (const arn of new Set(arns)) {
    const connector = parseConnectorArn(arn);
    if (connector.kind === 'managed') {
      if (connector.name === 'INTERNET_EGRESS' && plan.internetEgress === 'allow') parts.push(INTERNET);
      continue;
    }
    const record = await find(arn);
    if (record === undefined || !speaks(record)) continue;
    const { id, domains = null } = record;
    const ruling = rulingOf({ id, configuration: inForce(record), domains }, plan);
    if (ruling.kind === 'rules') parts.push(ruling);
  }
  const speaking = parts.filter(({ rules }) => rules.length > 0);
  if (speaking.length === 0) return { rules: [], dns: 'off' };
  return {
    rules: speaking.flatMap(({ rules }) => rules),
    dns: speaking.some(({ dns }) => dns === 'open') ? 'open' : 'listed',
  };
}

export function defaultsOf({ defaultEgress, internetEgress }: NetworkPlan): EgressDefaults {
  return { implicit: defaultEgress === 'aws' ? 'internet' : 'none', internet: internetEgress };
}

/** While a deletion is under way, or has failed, those who use the connector keep what they have. */
function speaks({ state }: ConnectorRecord): boolean {
  return state === 'ACTIVE' || state === 'DELETING' || state === 'DELETE_FAILED';
}
