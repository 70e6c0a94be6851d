/**
 * From one connector and the operator's networks to the rules it stands for, or to the reason why it stands for none. Pure.
 *
 * As on AWS the subnets say where there is a way, the security groups what may take it; without a group everything within
 * the subnets' reach. A domain list narrows a connector to its names: they may lead to public addresses, and to those of
 * the subnets that the groups allow on all of the name's ports. Rule ids name connector, group and rule: they are read in the flow log.
 */
import type { EgressRule } from '../engine/index.ts';
import { type Cidr, formatCidr, intersect, leadsNowhere, publicPartsOf } from './cidr.ts';
import type { AllowedDomain } from './domains.ts';
import type { GroupRule, NetworkPlan, SecurityGroup, Subnet } from './networks-file.ts';
import { covers, EVERY_PORT } from './ports.ts';
import type { Reason, ReasonCode } from './reasons.ts';
import type { ConnectorConfiguration } from './types.ts';

export interface Grant {
  readonly id: string;
  readonly configuration: ConnectorConfiguration;
  readonly domains: readonly AllowedDomain[] | null;
}

export type Ruling =
  | { readonly kind: 'rules'; readonly rules: readonly EgressRule[]; readonly dns: 'open' | 'listed' }
  | { readonly kind: 'invalid'; readonly reason: Reason };

/** Ten connectors at most make a policy; the gateway takes 4096 rules of one, in a line of 1 MiB, and 256 ranges of a name. */
const MAX_RULES = 400;
const MAX_RULES_BYTES = 90_000;
const MAX_WITHIN = 256;
const MAX_ID = 256;

const ANYWHERE: Cidr = { first: 0, bits: 0 };
const ALL_RULE: GroupRule = { to: [ANYWHERE], protocols: ['tcp', 'udp', 'icmp'], ports: [EVERY_PORT] };
const DEFAULT_GROUP: SecurityGroup = { vpc: null, egress: [ALL_RULE] };

export function rulingOf(grant: Grant, plan: NetworkPlan): Ruling {
  const { SubnetIds = [], SecurityGroupIds = [] } = grant.configuration.VpcEgressConfiguration;
  const subnets: Subnet[] = [];
  const vpcs = new Set<string>();
  for (const id of new Set(SubnetIds)) {
    const subnet = plan.subnets.get(id);
    if (subnet === undefined)
      return invalid('InvalidSubnet', `The subnet ${id} is not in this server's networks file.`);
    if (subnet.unavailable !== null) return invalid(subnet.unavailable, `The subnet ${id} is unavailable.`);
    if (subnet.vpc !== null) vpcs.add(subnet.vpc);
    if (vpcs.size > 1) return invalid('InvalidSubnet', `The subnet ${id} is in another VPC than the others.`);
    subnets.push(subnet);
  }
  const groups = new Map<string, SecurityGroup>();
  for (const id of SecurityGroupIds) {
    const group = plan.securityGroups.get(id);
    const missing = `The security group ${id} is not in this server's networks file.`;
    if (group === undefined) return invalid('InvalidSecurityGroup', missing);
    if (group.vpc !== null) vpcs.add(group.vpc);
    if (vpcs.size > 1) return invalid('InvalidSecurityGroup', `The security group ${id} is in another VPC.`);
    groups.set(id, group);
  }
  if (groups.size === 0) groups.set('default', DEFAULT_GROUP);
  const { id, domains } = grant;
  const rules =
    domains === null
      ? addressRules(id, subnets, groups, plan.reachable)
      : domainRules(id, domains, addressRules(id, subnets.map(withoutInternet), groups, []));
  if (isTooMuch(rules)) {
    const text = 'Its rules are more than the gateway takes of one connector; name fewer or wider ranges.';
    return invalid('InternalError', text);
  }
  return { kind: 'rules', rules, dns: grant.domains === null ? 'open' : 'listed' };
}

function addressRules(
  id: string,
  subnets: readonly Subnet[],
  groups: ReadonlyMap<string, SecurityGroup>,
  reachable: readonly Cidr[],
): EgressRule[] {
  const own = subnets.flatMap(({ cidrs }) => cidrs);
  const hasInternet = subnets.some(({ internet }) => internet);
  return [...groups].flatMap(([name, { egress }]) =>
    egress.flatMap((rule, i) => {
      const ruleId = name === 'default' ? `${id}/default` : `${id}/${name}/${i}`;
      const { protocols, ports, to } = rule;
      const whole = hasInternet && to.some(({ bits }) => bits === 0);
      const beyond = hasInternet && !whole ? to.flatMap((range) => internetPartsOf(range, reachable)) : [];
      const cidrs = distinct([...commonParts(to, own), ...beyond]);
      const all = whole ? [internetRule(ruleId, rule)] : [];
      return [...all, ...cidrs.map((cidr): EgressRule => ({ id: ruleId, kind: 'cidr', cidr, protocols, ports }))];
    }),
  );
}

function commonParts(some: readonly Cidr[], others: readonly Cidr[]): Cidr[] {
  return some.flatMap((one) => others.map((other) => intersect(one, other)).filter((part) => part !== undefined));
}

/** Without what the gateway would refuse a whole policy for: a group may name a metadata service, its subnet the range around it. */
function distinct(ranges: readonly Cidr[]): string[] {
  return [...new Set(ranges.filter((range) => !leadsNowhere(range)).map(formatCidr))];
}

function internetRule(id: string, { protocols, ports }: GroupRule): EgressRule {
  const rule = { id, kind: 'internet', protocols } as const;
  return covers(ports, [EVERY_PORT]) ? rule : { ...rule, ports };
}

/** What is narrower than the internet is spelled out: a range as it is written could hold what is not public. */
function internetPartsOf(range: Cidr, reachable: readonly Cidr[]): Cidr[] {
  return [...publicPartsOf(range), ...commonParts([range], reachable)];
}

/** A name's public addresses come with the name; only the operator's own have to be listed. */
function withoutInternet(subnet: Subnet): Subnet {
  return { ...subnet, internet: false };
}

function domainRules(id: string, domains: readonly AllowedDomain[], addresses: readonly EgressRule[]): EgressRule[] {
  return domains.map(({ name, ports, content }) => {
    const open = addresses.filter(
      (rule) => rule.kind === 'cidr' && rule.protocols.includes('tcp') && covers(rule.ports, ports),
    );
    const within = [...new Set(open.flatMap((rule) => (rule.kind === 'cidr' ? [rule.cidr] : [])))];
    const rule = { id: `${id}/domains/${name}`.slice(0, MAX_ID), kind: 'domain', name, ports, content } as const;
    return within.length === 0 ? rule : { ...rule, within };
  });
}

function isTooMuch(rules: readonly EgressRule[]): boolean {
  return (
    rules.length > MAX_RULES ||
    JSON.stringify(rules).length > MAX_RULES_BYTES ||
    rules.some((rule) => rule.kind === 'domain' && (rule.within?.length ?? 0) > MAX_WITHIN)
  );
}

function invalid(code: ReasonCode, text: string): Ruling {
  return { kind: 'invalid', reason: { code, text } };
}
