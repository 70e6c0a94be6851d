import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { formatCidr } from './cidr.ts';
import { NOWHERE, noNetworks, parseNetworks } from './networks-file.ts';

const parse = (file: unknown) => parseNetworks(JSON.stringify(file));

test('a file is read whole: references resolve, servers get their port, defaults are filled in', () => {
  const plan = parse({
    subnets: { 'subnet-a': { vpc: 'vpc-1', cidrs: ['10.1.0.0/16'], capacity: 3 } },
    securityGroups: {
      'sg-a': { egress: [{ to: 'sg-b' }, { to: 'pl-x', protocol: 'udp', ports: ['53', 8053] }] },
      'sg-b': { members: ['10.1.2.0/24'] },
    },
    prefixLists: { 'pl-x': ['192.168.1.0/24', '192.168.2.0/24'] },
    reachable: ['10.9.0.0/16'],
    dns: ['192.0.2.53', '192.0.2.54:5353', '2001:db8::53', '[2001:db8::54]:5353'],
    limits: { connections: 100, bytesPerSecondOut: 1_000_000 },
  });
  assert.deepEqual(plan.subnets.get('subnet-a'), {
    vpc: 'vpc-1',
    cidrs: [{ first: 0x0a010000, bits: 16 }],
    internet: false,
    capacity: 3,
    unavailable: null,
  });
  const rules = plan.securityGroups.get('sg-a')?.egress.map((rule) => ({ ...rule, to: rule.to.map(formatCidr) }));
  assert.deepEqual(rules, [
    { to: ['10.1.2.0/24'], protocols: ['tcp', 'udp', 'icmp'], ports: [[1, 65_535]] },
    {
      to: ['192.168.1.0/24', '192.168.2.0/24'],
      protocols: ['udp'],
      ports: [
        [53, 53],
        [8053, 8053],
      ],
    },
  ]);
  assert.deepEqual(plan.dns, ['192.0.2.53:53', '192.0.2.54:5353', '[2001:db8::53]:53', '[2001:db8::54]:5353']);
  assert.deepEqual(plan.limits, { connections: 100, bytesPerSecondOut: 1_000_000 });
  assert.deepEqual([plan.defaultEgress, plan.internetEgress], ['aws', 'allow']);
  assert.ok(plan.subnets.has(NOWHERE));
});

test('denying by default refuses the internet too, unless the file allows it; the setting wins over the file', () => {
  const of = (file: object, setting?: 'aws' | 'deny') => {
    const { defaultEgress, internetEgress } = parseNetworks(JSON.stringify(file), setting);
    return `${defaultEgress} ${internetEgress}`;
  };
  assert.equal(of({}), 'aws allow');
  assert.equal(of({ defaultEgress: 'deny' }), 'deny refuse');
  assert.equal(of({ defaultEgress: 'deny', internetEgress: 'allow' }), 'deny allow');
  assert.equal(of({ internetEgress: 'refuse' }), 'aws refuse');
  assert.equal(of({ defaultEgress: 'aws' }, 'deny'), 'deny refuse');
  assert.equal(of({ defaultEgress: 'deny' }, 'aws'), 'aws allow');
  assert.equal(noNetworks('deny').internetEgress, 'refuse');
});

const subnet = (change: object) => ({ subnets: { 'subnet-a': change } });
const rule = (change: object) => ({ securityGroups: { 'sg-a': { egress: [change] } } });
const wrong: readonly (readonly [file: unknown, sentence: RegExp])[] = [
  [[], /the whole must be a JSON object/],
  [{ subnet: {} }, /networks file subnet is unknown; known are: subnets, securityGroups/],
  [{ subnets: [] }, /subnets must be a JSON object/],
  [{ subnets: { office: {} } }, /subnets\.office must be called subnet-…/],
  [{ subnets: { [NOWHERE]: {} } }, /subnets\.subnet-00000000 is built in/],
  [subnet({ cidr: [] }), /subnets\.subnet-a\.cidr is unknown; known are: vpc, cidrs/],
  [subnet({ vpc: 'office' }), /subnets\.subnet-a\.vpc is "office" but must be a VPC id/],
  [subnet({ cidrs: '10.0.0.0/8' }), /subnets\.subnet-a\.cidrs must be a list/],
  [subnet({ cidrs: ['10.0.0.1/8'] }), /cidrs\[0\] is "10\.0\.0\.1\/8" but must be an IPv4 range without host bits/],
  [subnet({ cidrs: ['fd00::/8'] }), /cidrs\[0\] is "fd00::\/8" but must be an IPv4 range/],
  [subnet({ cidrs: ['0.0.0.0/0'] }), /cidrs\[0\] is "0\.0\.0\.0\/0", which holds loopback.*"internet": true/],
  [subnet({ cidrs: ['169.254.169.254/32'] }), /which holds loopback, link-local/],
  [subnet({ internet: 'yes' }), /internet is "yes" but must be true or false/],
  [subnet({ capacity: -1 }), /capacity is -1 but must be a whole number from 0/],
  [subnet({ unavailable: 'Full' }), /unavailable is "Full" but must be one of Disallowed/],
  [rule({ protocol: 'tcp' }), /egress\[0\]\.to is missing but must be an IPv4 range/],
  [rule({ to: 'sg-b' }), /egress\[0\]\.to is "sg-b" but must be .*of this file/],
  [rule({ to: '::/0' }), /egress\[0\]\.to is "::\/0" but must be an IPv4 range/],
  [rule({ to: '0.0.0.0/0', protocol: 'sctp' }), /protocol is "sctp" but must be one of all, tcp, udp, icmp/],
  [rule({ to: '0.0.0.0/0', ports: [443] }), /ports goes with the protocols tcp and udp only/],
  [rule({ to: '0.0.0.0/0', protocol: 'tcp', ports: [] }), /ports must name at least one port/],
  [rule({ to: '0.0.0.0/0', protocol: 'tcp', ports: [0] }), /ports\[0\] is 0 but must be a port from 1 to 65535/],
  [rule({ to: '0.0.0.0/0', protocol: 'tcp', ports: ['90-80'] }), /ports\[0\] is "90-80" but must be/],
  [{ prefixLists: { 'sg-1': [] } }, /prefixLists\.sg-1 must be called pl-…/],
  [{ reachable: ['127.0.0.0/8'] }, /reachable\[0\] is "127\.0\.0\.0\/8", which holds loopback/],
  [{ dns: ['ns.example'] }, /dns\[0\] is "ns\.example" but must be an address/],
  [{ dns: ['192.0.2.53:0'] }, /dns\[0\] is "192\.0\.2\.53:0" but must be an address/],
  [{ limits: { speed: 1 } }, /limits\.speed is unknown; known are: connections/],
  [{ limits: { connections: 0 } }, /limits\.connections is 0 but must be a whole number from 1/],
  [{ defaultEgress: 'none' }, /defaultEgress is "none" but must be one of aws, deny/],
  [{ internetEgress: true }, /internetEgress is true but must be one of allow, refuse/],
];

for (const [file, sentence] of wrong) {
  test(`a file is refused by name: ${JSON.stringify(file).slice(0, 90)}`, () => {
    assert.throws(() => parse(file), { code: 'INVALID', message: sentence });
  });
}

test('a file that is no JSON is refused', () => {
  assert.throws(() => parseNetworks('{'), { code: 'INVALID', message: /not valid JSON/ });
});

test('the example in docs/NETWORKING.md is a networks file, and the page names every member there is', () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/NETWORKING.md'), 'utf8');
  const [, example = ''] = /```json\n([\s\S]*?)```/.exec(page) ?? [];
  const plan = parseNetworks(example);
  assert.equal(
    plan.securityGroups.get('sg-db')?.egress[1]?.to.map(formatCidr).join(' '),
    '10.30.4.0/24 192.168.7.0/25',
  );
  assert.deepEqual([plan.defaultEgress, plan.dns[0]], ['deny', '10.20.0.53:53']);
  for (const change of [{}, { subnets: { 'subnet-a': { x: 1 } } }, { limits: { x: 1 } }]) {
    assert.throws(
      () => parse({ ...change, ...(Object.keys(change).length === 0 && { x: 1 }) }),
      (error: Error) => {
        const [, known = ''] = /known are: (.*)\.$/.exec(error.message) ?? [];
        assert.ok(known !== '');
        for (const member of known.split(', ')) assert.ok(page.includes(member), member);
        return true;
      },
    );
  }
});
