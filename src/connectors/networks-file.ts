/**
 * The operator's networks, as a JSON file describes them: what subnets and security groups of VPC connectors stand for on
 * this server, and what egress there is without a connector. `docs/NETWORKING.md` explains each member.
 *
 * Invariant: read whole or refused with a sentence naming the member; unknown members are refused, references resolve.
 */
import { isIP } from 'node:net';
import type { EgressLimits, EgressProtocol, NetworkSettings, PortRange } from '../engine/index.ts';
import { DomainError } from '../lib/index.ts';
import { type Cidr, formatCidr, leadsNowhere, parseCidr } from './cidr.ts';
import { EVERY_PORT, MAX_PORT_RANGES, PORTS_FORM, parsePorts } from './ports.ts';
import { isReasonCode, REASON_CODES, type ReasonCode } from './reasons.ts';

export interface Subnet {
  /** Null: goes with any VPC. */
  readonly vpc: string | null;
  /** What can be reached from it. */
  readonly cidrs: readonly Cidr[];
  /** It has a way to the internet. */
  readonly internet: boolean;
  /** Connectors that fit in; null: any number. */
  readonly capacity: number | null;
  /** Refuses every connector with this code. */
  readonly unavailable: ReasonCode | null;
}

export interface GroupRule {
  readonly to: readonly Cidr[];
  readonly protocols: readonly EgressProtocol[];
  readonly ports: readonly PortRange[];
}

export interface SecurityGroup {
  readonly vpc: string | null;
  readonly egress: readonly GroupRule[];
}

export interface NetworkPlan {
  readonly subnets: ReadonlyMap<string, Subnet>;
  readonly securityGroups: ReadonlyMap<string, SecurityGroup>;
  /** Counts as internet though it is not public. */
  readonly reachable: readonly Cidr[];
  /** Upstream servers, `address:port`; empty: the host's. */
  readonly dns: readonly string[];
  readonly limits: EgressLimits;
  /** What a list without connectors comes to. */
  readonly defaultEgress: 'aws' | 'deny';
  readonly internetEgress: 'allow' | 'refuse';
}

/** Built in: leads nowhere, so that a connector can be made of domains alone. */
export const NOWHERE = 'subnet-00000000';
const NOWHERE_SUBNET: Subnet = { vpc: null, cidrs: [], internet: false, capacity: null, unavailable: null };

const PROTOCOLS = ['tcp', 'udp', 'icmp'] as const satisfies readonly EgressProtocol[];
const LIMITS = [
  'connections',
  'newConnectionsPerSecond',
  'bytesPerSecondOut',
  'bytesPerSecondIn',
  'queriesPerSecond',
] as const satisfies readonly (keyof EgressLimits)[];
const MAX_LIMIT = 1e12;
const MAX_ENTRIES = 10_000;
const MAX_CIDRS = 256;

/** @throws DomainError INVALID naming the member and what it must be */
export function parseNetworks(text: string, override?: 'aws' | 'deny'): NetworkPlan {
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch (error) {
    throw new DomainError('INVALID', 'The networks file is not valid JSON.', { cause: error });
  }
  const file = members(found, '', [
    'subnets',
    'securityGroups',
    'prefixLists',
    'reachable',
    'dns',
    'limits',
    'defaultEgress',
    'internetEgress',
  ]);
  const lists = entries(file.prefixLists, 'prefixLists', /^pl-[0-9a-z]{1,64}$/, 'pl-…', (value, at) =>
    ranges(value, at),
  );
  const rawGroups = entries(file.securityGroups, 'securityGroups', /^sg-[0-9a-zA-Z]{1,64}$/, 'sg-…', (value, at) =>
    members(value, at, ['vpc', 'egress', 'members']),
  );
  const sets = new Map(lists);
  for (const [id, group] of rawGroups) sets.set(id, ranges(group.members, `securityGroups.${id}.members`));
  const defaultEgress = override ?? choice(file.defaultEgress, 'defaultEgress', ['aws', 'deny']);
  return {
    subnets: subnetsOf(file.subnets),
    securityGroups: new Map([...rawGroups].map(([id, group]) => [id, groupOf(group, `securityGroups.${id}`, sets)])),
    reachable: ranges(file.reachable, 'reachable'),
    dns: list(file.dns, 'dns', 16).map((server, i) => dnsServer(server, `dns[${i}]`)),
    limits: limitsOf(file.limits),
    defaultEgress,
    internetEgress:
      file.internetEgress === undefined
        ? internetBy(defaultEgress)
        : choice(file.internetEgress, 'internetEgress', ['allow', 'refuse']),
  };
}

/** Without a file there is no network of the operator's. */
export function noNetworks(defaultEgress: 'aws' | 'deny' = 'aws'): NetworkPlan {
  return parseNetworks('{}', defaultEgress);
}

/** What the gateway itself has to know of the file. */
export function gatewaySettingsOf({ dns, reachable }: NetworkPlan): NetworkSettings {
  return {
    ...(dns.length > 0 && { upstreams: dns }),
    ...(reachable.length > 0 && { reachable: reachable.map(formatCidr) }),
  };
}

function internetBy(defaultEgress: 'aws' | 'deny'): 'allow' | 'refuse' {
  return defaultEgress === 'aws' ? 'allow' : 'refuse';
}

type Members = Readonly<Record<string, unknown>>;

function subnetsOf(value: unknown): ReadonlyMap<string, Subnet> {
  const subnets = entries(value, 'subnets', /^subnet-[0-9a-z]{1,64}$/, 'subnet-…', (one, at): Subnet => {
    const subnet = members(one, at, ['vpc', 'cidrs', 'internet', 'capacity', 'unavailable']);
    return {
      vpc: vpcOf(subnet.vpc, `${at}.vpc`),
      cidrs: ranges(subnet.cidrs, `${at}.cidrs`),
      internet: flag(subnet.internet, `${at}.internet`),
      capacity: subnet.capacity === undefined ? null : whole(subnet.capacity, `${at}.capacity`, 0, 1_000_000),
      unavailable: unavailableOf(subnet.unavailable, `${at}.unavailable`),
    };
  });
  if (subnets.has(NOWHERE)) throw refused(`subnets.${NOWHERE}`, 'is built in and leads nowhere; use another id');
  return subnets.set(NOWHERE, NOWHERE_SUBNET);
}

function groupOf(group: Members, at: string, sets: ReadonlyMap<string, readonly Cidr[]>): SecurityGroup {
  const egress = list(group.egress, `${at}.egress`, 60).map((one, i): GroupRule => {
    const path = `${at}.egress[${i}]`;
    const rule = members(one, path, ['to', 'protocol', 'ports']);
    const protocol = choice(rule.protocol, `${path}.protocol`, ['all', ...PROTOCOLS]);
    if ((protocol === 'all' || protocol === 'icmp') && rule.ports !== undefined) {
      throw refused(`${path}.ports`, 'goes with the protocols tcp and udp only');
    }
    return {
      to: destination(rule.to, `${path}.to`, sets),
      protocols: protocol === 'all' ? PROTOCOLS : [protocol],
      ports: rule.ports === undefined ? [EVERY_PORT] : portRanges(rule.ports, `${path}.ports`),
    };
  });
  return { vpc: vpcOf(group.vpc, `${at}.vpc`), egress };
}

function destination(value: unknown, at: string, sets: ReadonlyMap<string, readonly Cidr[]>): readonly Cidr[] {
  const form =
    'an IPv4 range such as 10.0.0.0/8, or the id of a prefix list (pl-…) or security group (sg-…) of this file';
  if (typeof value !== 'string') throw must(at, value, form);
  const found = sets.get(value);
  if (found !== undefined) return found;
  const range = parseCidr(value);
  if (range === undefined) throw must(at, value, form);
  return [range];
}

function portRanges(value: unknown, at: string): readonly PortRange[] {
  const found = list(value, at, MAX_PORT_RANGES).map((one, i) => {
    const range = parsePorts(one);
    if (range === undefined) throw must(`${at}[${i}]`, one, PORTS_FORM);
    return range;
  });
  if (found.length === 0) throw refused(at, 'must name at least one port');
  return found;
}

/** Ranges an operator lists may not hold what no policy leads to. */
function ranges(value: unknown, at: string): readonly Cidr[] {
  return list(value, at, MAX_CIDRS).map((one, i) => {
    const range = typeof one === 'string' ? parseCidr(one) : undefined;
    if (range === undefined) throw must(`${at}[${i}]`, one, 'an IPv4 range without host bits, such as 10.20.0.0/16');
    if (leadsNowhere(range)) {
      throw refused(
        `${at}[${i}]`,
        `is "${String(one)}", which holds loopback, link-local, metadata, multicast or reserved addresses; name narrower ranges, and "internet": true for the internet`,
      );
    }
    return range;
  });
}

function dnsServer(value: unknown, at: string): string {
  const form = 'an address with or without a port, such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53';
  if (typeof value !== 'string') throw must(at, value, form);
  if (isIP(value) !== 0) return isIP(value) === 6 ? `[${value}]:53` : `${value}:53`;
  const [, v6, v4, port] = /^(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):(\d{1,5})$/.exec(value) ?? [];
  const isAddress = isIP(v6 ?? '') === 6 || isIP(v4 ?? '') === 4;
  if (!isAddress || Number(port) < 1 || Number(port) > 65_535) throw must(at, value, form);
  return value;
}

function limitsOf(value: unknown): EgressLimits {
  const limits = members(value ?? {}, 'limits', LIMITS);
  const set = LIMITS.filter((name) => limits[name] !== undefined);
  return Object.fromEntries(set.map((name) => [name, whole(limits[name], `limits.${name}`, 1, MAX_LIMIT)]));
}

function unavailableOf(value: unknown, at: string): ReasonCode | null {
  if (value === undefined) return null;
  if (typeof value !== 'string' || !isReasonCode(value)) throw must(at, value, `one of ${REASON_CODES.join(', ')}`);
  return value;
}

function vpcOf(value: unknown, at: string): string | null {
  if (value === undefined) return null;
  if (typeof value !== 'string' || !/^vpc-[0-9a-z]+$/.test(value)) throw must(at, value, 'a VPC id such as vpc-1');
  return value;
}

function entries<T>(
  value: unknown,
  at: string,
  key: RegExp,
  form: string,
  read: (value: unknown, at: string) => T,
): Map<string, T> {
  const found = Object.entries(members(value ?? {}, at));
  if (found.length > MAX_ENTRIES) throw refused(at, `has more than ${MAX_ENTRIES} entries`);
  return new Map(
    found.map(([name, one]) => {
      if (!key.test(name)) throw refused(`${at}.${name}`, `must be called ${form}`);
      return [name, read(one, `${at}.${name}`)];
    }),
  );
}

function members(value: unknown, at: string, known?: readonly string[]): Members {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw refused(at, 'must be a JSON object');
  }
  for (const name of known === undefined ? [] : Object.keys(value)) {
    if (known?.includes(name) === true) continue;
    throw refused(at === '' ? name : `${at}.${name}`, `is unknown; known are: ${known?.join(', ')}`);
  }
  return value as Members;
}

function list(value: unknown, at: string, most: number): readonly unknown[] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw refused(at, 'must be a list');
  if (value.length > most) throw refused(at, `has more than ${most} items`);
  return value;
}

/** The first choice is the default. */
function choice<const T extends string>(value: unknown, at: string, choices: readonly [T, ...T[]]): T {
  if (value === undefined) return choices[0];
  const found = choices.find((candidate) => candidate === value);
  if (found === undefined) throw must(at, value, `one of ${choices.join(', ')}`);
  return found;
}

function flag(value: unknown, at: string): boolean {
  if (value === undefined) return false;
  if (typeof value !== 'boolean') throw must(at, value, 'true or false');
  return value;
}

function whole(value: unknown, at: string, least: number, most: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most) return value;
  throw must(at, value, `a whole number from ${least} to ${most}`);
}

function must(at: string, value: unknown, form: string): DomainError {
  const shown = value === undefined ? 'missing' : JSON.stringify(value).slice(0, 100);
  return refused(at, `is ${shown} but must be ${form}`);
}

function refused(at: string, sentence: string): DomainError {
  return new DomainError('INVALID', `In the networks file ${at === '' ? 'the whole' : at} ${sentence}.`);
}
