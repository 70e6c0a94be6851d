/** Why a connector cannot settle on the subnets and groups it names: what its ruling says, then what is left of addresses. */
import { rulingOf } from './egress-rules.ts';
import { type ConnectorRecord, type ConnectorState, inForce } from './lifecycle.ts';
import type { NetworkPlan } from './networks-file.ts';
import type { Reason } from './reasons.ts';
import type { ConnectorConfiguration } from './types.ts';

/** States in which a connector has an address in each of its subnets. */
export const HOLDING_ADDRESSES = [
  'ACTIVE',
  'INACTIVE',
  'DELETING',
  'DELETE_FAILED',
] as const satisfies readonly ConnectorState[];

/** Null: nothing is wrong. `holders`: all connectors that hold addresses, with or without the one asked about. */
export function faultOf(
  { id, domains = null }: ConnectorRecord,
  wanted: ConnectorConfiguration,
  plan: NetworkPlan,
  holders: readonly ConnectorRecord[],
): Reason | null {
  const ruling = rulingOf({ id, configuration: wanted, domains }, plan);
  if (ruling.kind === 'invalid') return ruling.reason;
  for (const subnet of subnetsOf(wanted)) {
    const capacity = plan.subnets.get(subnet)?.capacity ?? null;
    if (capacity === null) continue;
    const others = holders.filter((other) => other.id !== id && subnetsOf(inForce(other)).includes(subnet));
    if (others.length < capacity) continue;
    return { code: 'SubnetOutOfIPAddresses', text: `The subnet ${subnet} has no free address: it takes ${capacity}.` };
  }
  return null;
}

function subnetsOf({ VpcEgressConfiguration }: ConnectorConfiguration): readonly string[] {
  return VpcEgressConfiguration.SubnetIds ?? [];
}
