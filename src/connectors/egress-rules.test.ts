import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { EgressRule } from '../engine/index.ts';
import { parseDomains } from './domains.ts';
import { rulingOf } from './egress-rules.ts';
import { type NetworkPlan, NOWHERE, parseNetworks } from './networks-file.ts';

const ALL = ['tcp', 'udp', 'icmp'];
const EVERY = [[1, 65_535]];

function planOf(file: object): NetworkPlan {
  return parseNetworks(JSON.stringify(file));
}

function rulesOf(
  plan: NetworkPlan,
  configuration: { SubnetIds: string[]; SecurityGroupIds?: string[] },
  domains: unknown = null,
): readonly EgressRule[] {
  const ruling = rulingOf(
    {
      id: 'nc-1',
      configuration: { VpcEgressConfiguration: configuration },
      domains: domains === null ? null : parseDomains(domains),
    },
    plan,
  );
  assert.equal(ruling.kind, 'rules', JSON.stringify(ruling));
  return ruling.kind === 'rules' ? ruling.rules : [];
}

const plan = planOf({
  subnets: {
    'subnet-a': { cidrs: ['10.1.0.0/16'] },
    'subnet-b': { cidrs: ['10.2.0.0/16', '192.168.7.0/24'] },
    'subnet-i': { cidrs: ['10.3.0.0/16'], internet: true },
  },
  securityGroups: {
    'sg-all': { egress: [{ to: '0.0.0.0/0' }] },
    'sg-db': {
      egress: [
        { to: 'sg-db', protocol: 'tcp', ports: [5432] },
        { to: 'pl-mirrors', protocol: 'tcp', ports: [80, '8000-8100'] },
        { to: '10.0.0.0/8', protocol: 'icmp' },
      ],
      members: ['10.2.9.0/28'],
    },
    'sg-web': { egress: [{ to: '0.0.0.0/0', protocol: 'tcp', ports: [443] }] },
    'sg-wide': { egress: [{ to: '8.0.0.0/6', protocol: 'udp' }] },
    'sg-none': { egress: [] },
  },
  prefixLists: { 'pl-mirrors': ['192.168.7.0/25', '172.16.0.0/12'] },
  reachable: ['10.99.0.0/16'],
});

test('without a security group everything within the reach of the subnets is allowed', () => {
  assert.deepEqual(rulesOf(plan, { SubnetIds: ['subnet-a', 'subnet-b'] }), [
    { id: 'nc-1/default', kind: 'cidr', cidr: '10.1.0.0/16', protocols: ALL, ports: EVERY },
    { id: 'nc-1/default', kind: 'cidr', cidr: '10.2.0.0/16', protocols: ALL, ports: EVERY },
    { id: 'nc-1/default', kind: 'cidr', cidr: '192.168.7.0/24', protocols: ALL, ports: EVERY },
  ]);
});

test('a security group allows what its rules and the subnets have in common, under ids that name group and rule', () => {
  assert.deepEqual(rulesOf(plan, { SubnetIds: ['subnet-b'], SecurityGroupIds: ['sg-none', 'sg-db'] }), [
    { id: 'nc-1/sg-db/0', kind: 'cidr', cidr: '10.2.9.0/28', protocols: ['tcp'], ports: [[5432, 5432]] },
    {
      id: 'nc-1/sg-db/1',
      kind: 'cidr',
      cidr: '192.168.7.0/25',
      protocols: ['tcp'],
      ports: [
        [80, 80],
        [8000, 8100],
      ],
    },
    { id: 'nc-1/sg-db/2', kind: 'cidr', cidr: '10.2.0.0/16', protocols: ['icmp'], ports: EVERY },
  ]);
  assert.deepEqual(rulesOf(plan, { SubnetIds: ['subnet-b'], SecurityGroupIds: ['sg-none'] }), []);
});

test('only a subnet that has a way to the internet leads there, and only on the ports of its groups', () => {
  const internet = (id: string) => [
    { id, kind: 'internet', protocols: ALL },
    { id, kind: 'cidr', cidr: '10.3.0.0/16', protocols: ALL, ports: EVERY },
  ];
  assert.deepEqual(rulesOf(plan, { SubnetIds: ['subnet-i'] }), internet('nc-1/default'));
  assert.deepEqual(rulesOf(plan, { SubnetIds: ['subnet-i'], SecurityGroupIds: ['sg-all'] }), internet('nc-1/sg-all/0'));
  const isolated = rulesOf(plan, { SubnetIds: ['subnet-a'], SecurityGroupIds: ['sg-all'] });
  assert.deepEqual(
    isolated.map((rule) => rule.kind === 'cidr' && rule.cidr),
    ['10.1.0.0/16'],
  );
  assert.deepEqual(rulesOf(plan, { SubnetIds: ['subnet-i'], SecurityGroupIds: ['sg-web'] }), [
    { id: 'nc-1/sg-web/0', kind: 'internet', protocols: ['tcp'], ports: [[443, 443]] },
    { id: 'nc-1/sg-web/0', kind: 'cidr', cidr: '10.3.0.0/16', protocols: ['tcp'], ports: [[443, 443]] },
  ]);
  const wide = rulesOf(plan, { SubnetIds: ['subnet-i'], SecurityGroupIds: ['sg-wide'] });
  assert.deepEqual(
    wide.map((rule) => rule.kind === 'cidr' && rule.cidr),
    ['10.3.0.0/16', '8.0.0.0/7', '11.0.0.0/8', '10.99.0.0/16'],
  );
});

test('a domain list leaves only names, which lead to public addresses and to what the groups allow of the subnets', () => {
  const names = [
    { name: 'db.corp.example', ports: [5432], content: 'opaque' },
    { name: 'example.com', ports: [443] },
  ];
  assert.deepEqual(rulesOf(plan, { SubnetIds: ['subnet-b', 'subnet-i'], SecurityGroupIds: ['sg-db'] }, names), [
    {
      id: 'nc-1/domains/db.corp.example',
      kind: 'domain',
      name: 'db.corp.example',
      ports: [[5432, 5432]],
      content: 'opaque',
      within: ['10.2.9.0/28'],
    },
    {
      id: 'nc-1/domains/example.com',
      kind: 'domain',
      name: 'example.com',
      ports: [[443, 443]],
      content: 'tls-or-http',
    },
  ]);
});

test('the built-in subnet leads nowhere, so a connector on it is its names and nothing else', () => {
  assert.deepEqual(rulesOf(plan, { SubnetIds: [NOWHERE] }), []);
  const rules = rulesOf(plan, { SubnetIds: [NOWHERE] }, [{ name: '*.pypi.org' }]);
  assert.deepEqual(rules, [
    {
      id: 'nc-1/domains/*.pypi.org',
      kind: 'domain',
      name: '*.pypi.org',
      ports: [
        [80, 80],
        [443, 443],
      ],
      content: 'tls-or-http',
    },
  ]);
});

test('a connector whose rules are more than the gateway takes is refused, not cut', () => {
  const cidrs = Array.from({ length: 256 }, (_, i) => `10.${i}.0.0/16`);
  const subnets = { 'subnet-w': { cidrs } };
  const egress = Array.from({ length: 60 }, (_, i) => ({ to: '10.0.0.0/8', protocol: 'tcp', ports: [1000 + i] }));
  const wide = planOf({ subnets, securityGroups: { 'sg-w': { egress } } });
  const configuration = { VpcEgressConfiguration: { SubnetIds: ['subnet-w'], SecurityGroupIds: ['sg-w'] } };
  const ruling = rulingOf({ id: 'nc-1', configuration, domains: null }, wide);
  assert.equal(ruling.kind === 'invalid' && ruling.reason.code, 'InternalError');
});

test('a group that names a metadata service gets nothing there, and the rest of its rules stay', () => {
  const odd = planOf({
    subnets: { 'subnet-a': { cidrs: ['168.63.129.0/24'], internet: true } },
    securityGroups: {
      'sg-a': { egress: [{ to: '168.63.129.16/32' }, { to: '169.254.169.254/32' }, { to: '168.63.129.8/32' }] },
    },
  });
  assert.deepEqual(
    rulesOf(odd, { SubnetIds: ['subnet-a'], SecurityGroupIds: ['sg-a'] }).map(
      (rule) => rule.kind === 'cidr' && rule.cidr,
    ),
    ['168.63.129.8/32'],
  );
});

/** `gateway/policy/connectors_test.go` reads the same file with the gateway's parser. */
test('spec/egress-policies.json holds what connectors come to', () => {
  const names = [
    { name: '*.example.com', ports: [443, '8000-8100'] },
    { name: 'db.corp.example', ports: [5432], content: 'opaque' },
  ];
  const policy = (dns: string, rules: readonly EgressRule[]) => ({ dns, rules });
  const made = {
    'no connector': policy('off', []),
    'subnets without groups': policy('open', rulesOf(plan, { SubnetIds: ['subnet-a', 'subnet-i'] })),
    groups: policy('open', rulesOf(plan, { SubnetIds: ['subnet-b'], SecurityGroupIds: ['sg-db'] })),
    'the internet on one port': policy(
      'open',
      rulesOf(plan, { SubnetIds: ['subnet-i'], SecurityGroupIds: ['sg-web'] }),
    ),
    domains: policy('listed', rulesOf(plan, { SubnetIds: ['subnet-b'], SecurityGroupIds: ['sg-db'] }, names)),
    'the longest name': policy(
      'listed',
      rulesOf(plan, { SubnetIds: [NOWHERE] }, [
        { name: `*.${'a'.repeat(61)}.${'b'.repeat(63)}.${'c'.repeat(63)}.${'d'.repeat(63)}` },
      ]),
    ),
  };
  const file = join(import.meta.dirname, '../../spec/egress-policies.json');
  assert.deepEqual(JSON.parse(readFileSync(file, 'utf8')), JSON.parse(JSON.stringify(made)), JSON.stringify(made));
});
