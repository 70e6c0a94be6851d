/**
 * Break-out: what a guest tries whose app is root with every capability, and what becomes of it. Each attempt must be refused
 * at once, and be on record; whatever a microVM does to itself must stay with it: its neighbour, the server and the host
 * go on as if nothing had happened. The attacks are in test/support/breakout/, the hosts around in test/support/network.ts.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { loadConfig } from '../../src/config.ts';
import { findRuntime } from '../../src/engine/load-runtime.ts';
import {
  type Attacker,
  BRIEF,
  type BreakoutBench,
  type Flow,
  LISTED,
  NOBODY,
  openBreakoutBench,
  type PolicyName,
  residentMiB,
  setDomains,
  sharePidNamespace,
} from '../support/breakout-bench.ts';
import { ADDRESSES, networkSkip } from '../support/network.ts';
import { factsOf, recordedVmms } from '../support/process-facts.ts';

const skip =
  findRuntime(loadConfig({}, process.env).cacheDir)?.gateway === undefined
    ? 'set-up has not run: no gateway'
    : networkSkip();

const { internet, internetToo, private: inner, host, hostPrivate, metadata } = ADDRESSES;
const POLICIES: readonly PolicyName[] = ['internet', 'vpc', 'domains'];
/** Far above what a refusal takes, far below what a connection that hangs takes. */
const AT_ONCE_MS = 10_000;
/** Rounds of questions to everybody else, while what an attacker did to itself takes effect. */
const PATIENCE = 30;
/** What one attacker may cost the server or the gateway in memory, beside what their collectors leave lying. */
const MOST_GROWTH_MIB = 300;

interface Target {
  readonly to: string;
  readonly protocol: 'tcp' | 'udp' | 'icmp';
  readonly reason: string;
  /** The guest's kernel doesn't pass on errors about broadcasts and multicasts. */
  readonly isSilent?: boolean;
  /** By a frame of its own make: the guest's kernel would keep it to itself. */
  readonly byFrame?: boolean;
}

describe('breaking out of a microVM', { skip }, () => {
  let bench: BreakoutBench;
  let neighbour: Attacker;
  const attackers = new Map<PolicyName, Attacker>();
  let before_: { server: number; gateway: number; files: string[] };

  before(async () => {
    bench = await openBreakoutBench();
    neighbour = await bench.launch('internet');
    for (const policy of POLICIES) attackers.set(policy, await bench.launch(policy));
    const { server } = bench;
    before_ = { server: residentMiB(server.pid), gateway: residentMiB(bench.gatewayPid()), files: sealedFiles() };
  });
  after(() => bench?.[Symbol.asyncDispose]());

  function attacker(policy: PolicyName): Attacker {
    const found = attackers.get(policy);
    assert.ok(found !== undefined, 'the bench is open');
    return found;
  }

  function growths(): string {
    const server = residentMiB(bench.server.pid) - before_.server;
    const gateway = residentMiB(bench.gatewayPid()) - before_.gateway;
    return `the server grew by ${server.toFixed()} MiB, the gateway by ${gateway.toFixed()} MiB`;
  }

  /** Nothing that an attacker did to itself is felt by anybody else. */
  async function othersGoOn(): Promise<void> {
    assert.equal(await neighbour.lives(), true);
    assert.equal((await neighbour.attack('tcp', { to: `${internet}:80` })).outcome, 'connected');
    assert.equal(await neighbour.state(), 'RUNNING');
    const { server } = bench;
    for (const [who, growth] of [
      ['server', residentMiB(server.pid) - before_.server],
      ['gateway', residentMiB(bench.gatewayPid()) - before_.gateway],
    ] as const) {
      assert.ok(growth < MOST_GROWTH_MIB, `the ${who} grew by ${growth.toFixed()} MiB`);
    }
  }

  /** Parts of the image, by size and time of change. */
  function sealedFiles(): string[] {
    const root = join(bench.server.stateDir, 'images');
    return readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => {
        const path = join(entry.parentPath, entry.name);
        const { size, mtimeMs, uid } = statSync(path);
        return `${path} ${size} ${mtimeMs} ${uid}`;
      })
      .sort();
  }

  function everywhere(): Target[] {
    const { api, s3 } = bench.ports;
    const services = [api, s3, neighbour.endpointPort, 22, 53, 80, 443, 8080];
    const tcp = (reason: string, ...places: string[]): Target[] =>
      places.map((to) => ({ to, protocol: 'tcp', reason }));
    const at = (address: string, ports: readonly number[]) => ports.map((port) => `${address}:${port}`);
    const frame = (reason: string, ...places: string[]) => tcp(reason, ...places).map((t) => ({ ...t, byFrame: true }));
    return [
      ...tcp('reserved', ...at('192.0.0.1', services)),
      ...tcp('host-address', ...at(host, services), ...at(hostPrivate, services)),
      ...tcp('metadata', `${metadata}:80`, '100.100.100.200:80', '168.63.129.16:80', '192.0.0.192:80'),
      ...tcp('link-local', '169.254.170.2:80', '169.254.170.23:80', '169.254.1.1:80', '169.254.53.53:80'),
      ...tcp(
        'private',
        '10.0.0.1:80',
        '10.9.0.3:80',
        '172.16.0.1:80',
        '172.31.255.1:443',
        '192.168.0.1:80',
        '100.64.0.1:80',
      ),
      ...tcp('reserved', '192.0.2.2:80', '198.18.0.1:80', '198.51.100.1:80', '203.0.113.7:80', '240.0.0.1:80'),
      ...frame(
        'loopback',
        ...at('127.0.0.1', [api, s3, neighbour.endpointPort]),
        '127.9.9.9:80',
        '0.0.0.0:80',
        '0.1.2.3:80',
      ),
      ...frame('multicast', '224.0.0.1:80', '239.255.255.250:80', '255.255.255.255:80'),
      ...frame('reserved', '192.0.0.2:8080', '192.0.0.3:80'),
      { to: `${host}:53`, protocol: 'udp', reason: 'host-address' },
      { to: `${hostPrivate}:7000`, protocol: 'udp', reason: 'host-address' },
      { to: '192.0.0.1:53', protocol: 'udp', reason: 'reserved' },
      { to: '169.254.170.2:53', protocol: 'udp', reason: 'link-local' },
      { to: '255.255.255.255:67', protocol: 'udp', reason: 'multicast', isSilent: true },
      { to: '224.0.0.251:5353', protocol: 'udp', reason: 'multicast', isSilent: true },
      { to: host, protocol: 'icmp', reason: 'host-address' },
      { to: '192.0.0.1', protocol: 'icmp', reason: 'reserved' },
      { to: '10.0.0.1', protocol: 'icmp', reason: 'private' },
    ];
  }

  const only: Readonly<Record<PolicyName, readonly Target[]>> = {
    internet: [
      { to: `${inner}:80`, protocol: 'tcp', reason: 'private' },
      { to: `${inner}:7000`, protocol: 'udp', reason: 'private' },
      { to: `${internet}:53`, protocol: 'udp', reason: 'protocol' },
      { to: `${internet}:443`, protocol: 'udp', reason: 'protocol' },
      { to: internet, protocol: 'icmp', reason: 'protocol' },
    ],
    vpc: [
      { to: `${inner}:8080`, protocol: 'tcp', reason: 'port' },
      { to: `${inner}:53`, protocol: 'tcp', reason: 'port' },
      { to: `${inner}:80`, protocol: 'udp', reason: 'protocol' },
      { to: inner, protocol: 'icmp', reason: 'protocol' },
      { to: `${internet}:80`, protocol: 'tcp', reason: 'no-rule' },
      { to: `${internet}:853`, protocol: 'tcp', reason: 'no-rule' },
      { to: `${internetToo}:53`, protocol: 'udp', reason: 'no-rule' },
    ],
    // Nothing is resolved yet: these go to addresses that were never answered.
    domains: [
      { to: `${internet}:80`, protocol: 'tcp', reason: 'not-resolved' },
      { to: `${internet}:443`, protocol: 'tcp', reason: 'not-resolved' },
      { to: `${internetToo}:53`, protocol: 'tcp', reason: 'not-resolved' },
      { to: `${internetToo}:853`, protocol: 'tcp', reason: 'not-resolved' },
      { to: `${internet}:53`, protocol: 'udp', reason: 'not-resolved' },
      { to: `${internet}:443`, protocol: 'udp', reason: 'not-resolved' },
      { to: internet, protocol: 'icmp', reason: 'not-resolved' },
      { to: `${inner}:80`, protocol: 'tcp', reason: 'private' },
    ],
  };

  for (const policy of POLICIES) {
    test(`under ${policy}, the host, other microVMs, metadata and foreign networks are refused at once and on record`, async () => {
      const from = attacker(policy);
      assert.equal(
        (await from.attack('metadata-route')).outcome,
        'done',
        "the guest's own metadata service is out of the way",
      );
      const targets = [...everywhere(), ...only[policy]];
      const got: string[] = [];
      for (const { to, protocol, isSilent = false, byFrame = false } of targets) {
        const [address = '', port = ''] = to.split(':');
        const { outcome, errno, ms } = byFrame
          ? await from.attack('syn', { to: address, port })
          : await from.attack(protocol, { to, ...(isSilent && { wait: 1 }) });
        if (outcome !== 'refused' && !(isSilent && outcome === 'silent'))
          got.push(`${protocol} ${to}: ${outcome} ${errno}`);
        else if (ms > AT_ONCE_MS) got.push(`${protocol} ${to}: refused after ${ms} ms only`);
      }
      assert.deepEqual(got, [], 'got through, or hung');
      const refused = (flows: readonly Flow[]) => (target: Target) =>
        flows.some(
          ({ kind, verdict, protocol, to, reason }) =>
            kind === 'flow' &&
            verdict === 'refused' &&
            protocol === target.protocol &&
            to === target.to &&
            reason === target.reason,
        );
      await from
        .logged('every refusal', (flows) => targets.every(refused(flows)))
        .catch(async () => {
          const flows = await from.logged('anything', () => true);
          assert.deepEqual(
            targets.filter((target) => !refused(flows)(target)),
            [],
            JSON.stringify(flows.filter(({ kind }) => kind === 'flow').map(({ to, reason }) => `${to} ${reason}`)),
          );
        });
      assert.equal((await from.attack('tcp6', { to: '2606:2800:220:1::1:80' })).outcome, 'refused');
      await othersGoOn();
    });
  }

  test('what each policy allows is reached, so that a refusal means something', async () => {
    assert.equal((await attacker('internet').attack('tcp', { to: `${internet}:80` })).outcome, 'connected');
    assert.equal((await attacker('vpc').attack('tcp', { to: `${inner}:80` })).outcome, 'connected');
    const to = { to: `${internet}:80`, host: 'www.example.com', resolve: 'www.example.com' };
    assert.match(String((await attacker('domains').attack('http', to)).detail), /internet www\.example\.com/);
  });

  test('a name that is answered with inner addresses by turns leads to none of them', async () => {
    for (const [policy, target, allowed] of [
      ['internet', inner, [internet]],
      ['vpc', hostPrivate, [inner]],
      ['domains', inner, [internet]],
    ] as const) {
      const from = attacker(policy);
      const { detail } = await from.attack('rebind', { of: 'rebind.example.com', to: target });
      const { told, reached } = detail as { told: string[]; reached: string[] };
      assert.deepEqual(reached, allowed, policy);
      for (const never of [host, hostPrivate, '127.0.0.1', metadata, '192.0.0.1', '0.0.0.0', '10.0.0.1']) {
        assert.ok(!told.includes(never), `${policy}: ${told}`);
      }
      await from.logged('answers that were taken out', (flows) =>
        flows.some(
          ({ kind, name, reason }) => kind === 'dns' && name === 'rebind.example.com' && reason === 'private-answer',
        ),
      );
    }
  });

  test('names carry nothing out under a domain list', async (t) => {
    const from = attacker('domains');
    const seen = bench.dns.asked.length;
    for (const [of, kind, reason] of [
      ['evil.test', 'A', 'not-listed'],
      ['secret.www.example.com', 'A', 'not-listed'],
      ['cdn.example.com', 'A', 'not-listed'],
      ['dns.google', 'A', 'foreign-resolver'],
      ['cloudflare-dns.com', 'A', 'foreign-resolver'],
      ...(['TXT', 'NULL', 'ANY', 'CNAME', 'SRV', 'NS'] as const).map(
        (type) => ['www.example.com', type, 'type'] as const,
      ),
    ] as const) {
      for (const by of ['udp', 'tcp']) {
        const { outcome, detail } = await from.attack('dns', { of, kind, by });
        assert.equal(outcome, 'refused', `${of} ${kind} by ${by}: ${JSON.stringify(detail)}`);
        assert.equal((detail as { reason: string }).reason, reason, `${of} ${kind}`);
      }
    }
    assert.deepEqual(bench.dns.asked.slice(seen), [], 'none of these was asked of anybody');
    const { detail } = await from.attack('tunnel', { below: 'cdn.example.com' });
    const names = new Set(bench.dns.asked.slice(seen));
    t.diagnostic(`${names.size} names got out: ${JSON.stringify(detail)}`);
    assert.ok(names.size <= 60, `${names.size} names got out: ${JSON.stringify(detail)}`);
    assert.deepEqual(
      [...names].filter((name) => !/^1 word\d{3}\.cdn\.example\.com$/.test(name)),
      [],
    );
    await from.logged('tunnels', (flows) => flows.some(({ reason }) => reason === 'tunnel'));
    const { detail: garbage } = await from.attack('dns-garbage');
    assert.equal(garbage, null);
    await othersGoOn();
  });

  test('names carry little out while any may be asked', async () => {
    const seen = bench.dns.asked.length;
    await attacker('internet').attack('tunnel', { below: 'tunnel.test', count: 500 });
    const bytes = new Set(bench.dns.asked.slice(seen));
    assert.ok(bytes.size <= 300, `${bytes.size} names in less than a minute`);
    for (const kind of ['NULL', 'ANY']) {
      assert.equal(
        (await attacker('internet').attack('dns', { of: 'www.example.com', kind })).outcome,
        'refused',
        kind,
      );
    }
    await attacker('internet').logged('names that were too many', (flows) =>
      flows.some(({ reason }) => reason === 'volume' || reason === 'rate'),
    );
  });

  test('what a connection shows must be a listed name: server names and hosts', async () => {
    const from = attacker('domains');
    const at80 = { to: `${internet}:80`, resolve: 'www.example.com', host: 'www.example.com' };
    const at443 = { to: `${internet}:443`, resolve: 'www.example.com' };
    const cases: readonly (readonly [
      what: string,
      name: string,
      query: Record<string, string>,
      reason: string | null,
    ])[] = [
      ['the listed host', 'http', at80, null],
      ['another host', 'http', { ...at80, host: 'evil.test' }, 'name-mismatch'],
      ['another host on a connection that was good', 'keep-alive', { ...at80, other: 'evil.test' }, 'name-mismatch'],
      ['another host in the request line', 'http', { ...at80, shape: 'absolute' }, ''],
      ['two hosts', 'http', { ...at80, shape: 'two-hosts' }, ''],
      ['no host', 'http', { ...at80, shape: 'no-host' }, 'http-no-host'],
      ['CONNECT', 'http', { ...at80, shape: 'connect' }, 'http-connect'],
      ['a request within a request', 'http', { ...at80, shape: 'smuggled' }, ''],
      ['a folded header', 'http', { ...at80, shape: 'folded' }, ''],
      ['neither HTTP nor TLS', 'http', { ...at80, shape: 'not-http' }, 'not-tls-http'],
      ['HTTP/2 without TLS', 'http', { ...at80, shape: 'http2' }, 'http2'],
      ['the listed server name', 'tls', { ...at443, sni: 'www.example.com' }, null],
      ['the listed server name in small pieces', 'tls', { ...at443, sni: 'www.example.com', split: 'yes' }, null],
      ['another server name', 'tls', { ...at443, sni: 'evil.test' }, 'name-mismatch'],
      ['another server name in small pieces', 'tls', { ...at443, sni: 'evil.test', split: 'yes' }, 'name-mismatch'],
      ['no server name', 'tls', at443, 'tls-no-name'],
      ['an encrypted client hello', 'tls', { ...at443, sni: 'www.example.com', ech: 'yes' }, 'tls-ech'],
    ];
    const wrong: string[] = [];
    for (const [what, name, query, reason] of cases) {
      const { outcome, detail } = await from.attack(name, query);
      if (outcome !== (reason === null ? 'answered' : 'reset')) wrong.push(`${what}: ${outcome} ${detail}`);
    }
    assert.deepEqual(wrong, []);
    const reasons = cases.flatMap(([, , , reason]) => (reason === null || reason === '' ? [] : [reason]));
    await from.logged(`${reasons}`, (flows) =>
      reasons.every((reason) => flows.some((flow) => flow.verdict === 'refused' && flow.reason === reason)),
    );
    await from.attack('dns', { of: 'wide.example.com' });
    for (const port of [53, 853]) {
      const { outcome } = await from.attack('tcp', { to: `${internetToo}:${port}` });
      assert.equal(outcome, 'refused', `another resolver on ${port}, though a range of ports is open`);
    }
    await from.logged('foreign resolvers', (flows) =>
      [53, 853].every((port) =>
        flows.some((f) => f.to === `${internetToo}:${port}` && f.reason === 'foreign-resolver'),
      ),
    );
  });

  test('an address is open only while its answer lives', async () => {
    const { outcome } = await attacker('domains').attack('expired', { of: 'brief.example.com', to: `${BRIEF}:80` });
    assert.equal(outcome, 'refused');
  });

  test('a connection that was opened under an earlier list is held to the new one', async () => {
    const from = attacker('domains');
    const hold = { to: `${internet}:80`, host: 'www.example.com', resolve: 'www.example.com,also.example.com' };
    assert.equal((await from.attack('hold', hold)).outcome, 'answered');
    assert.match(String((await from.attack('say', { host: 'also.example.com' })).detail), /internet also/);
    await setDomains(
      bench.rekindle,
      LISTED.filter((name) => name !== 'also.example.com'),
    );
    for (let left = 100; (await from.attack('dns', { of: 'also.example.com' })).outcome !== 'refused'; left--) {
      assert.ok(left > 0, 'the new list is in force');
    }
    assert.equal((await from.attack('say', { host: 'also.example.com' })).outcome, 'reset');
  });

  test('frames that no honest kernel sends are dropped and counted', async () => {
    const from = attacker('internet');
    const drops = [
      'spoofed-mac',
      'spoofed-address',
      'ip-options',
      'fragment',
      'malformed',
      'ipv6',
      'protocol',
      'arp-flood',
    ];
    const reached = bench.network.internet;
    for (const name of [...drops, 'giants', 'random-frames'])
      assert.equal((await from.attack(name)).outcome, 'done', name);
    await from.logged(`${drops}`, (flows) =>
      drops.every((what) => flows.some((flow) => flow.kind === 'drop' && flow.what === what && (flow.count ?? 0) > 0)),
    );
    assert.deepEqual((await from.attack('arp-others')).detail, ['192.0.0.1'], 'nobody else answers ARP');
    assert.doesNotMatch(await reached.run(['ip', 'neighbour']), /192\.0\.0\./, 'no packet of a guest left as it was');
    assert.equal(
      (await from.attack('tcp', { to: `${internet}:80` })).outcome,
      'connected',
      'its own network still works',
    );
    await othersGoOn();
  });

  test('a flood of connections stays with who makes it', async (t) => {
    const from = attacker('internet');
    for (const [name, query] of [
      ['hog', { to: `${internet}:80` }],
      ['flood', { to: `${internet}:9000` }],
      ['flood', { to: `${NOBODY}:80`, count: 1500 }],
      ['syn-flood', { to: internet, port: 80 }],
      ['syn-flood', { to: NOBODY, port: 80 }],
    ] as const) {
      const running = { is: true };
      const attack = from.attack(name, query).finally(() => {
        running.is = false;
      });
      while (running.is) {
        await othersGoOn();
        await bench.server.microvms.listMicrovms({ maxResults: 1 });
        // One round of questions at a time, and the loop of events to itself in between.
        await delay(100);
      }
      const { outcome, detail, ms } = await attack;
      t.diagnostic(`${name} ${query.to}: ${JSON.stringify(detail)} in ${ms} ms; ${growths()}`);
      assert.equal(outcome, 'done', name);
      if (name !== 'flood') continue;
      const { connected, silent } = detail as { connected: number; silent: number };
      assert.ok(connected <= 1024, `${connected} connections at once`);
      assert.equal(silent, 0, JSON.stringify(detail));
    }
    await from.logged('a limit', (flows) =>
      flows.some(({ verdict, reason }) => verdict === 'refused' && /connections|rate|limit/.test(reason ?? '')),
    );
    await othersGoOn();
  });

  describe('as root of its own kernel', () => {
    // Floods and garbage on the link are src/guest/hostile.test.ts's: here the agent ends before anybody else can write to it.
    test('whoever takes the link from the agent loses that microVM, and only that', async (t) => {
      await using from = await bench.launch('internet');
      t.diagnostic(JSON.stringify((await from.attack('break-out')).detail));
      assert.equal((await from.attack('link')).outcome, 'done');
      for (let left = PATIENCE; left > 0 && (await from.isWell()); left--) await othersGoOn();
      t.diagnostic(`${await from.state()}; ${growths()}`);
      assert.equal(await from.isWell(), false, 'the link is taken');
      await othersGoOn();
    });

    test('the container can be left, the machine cannot: memory, ports, disks', async (t) => {
      await using from = await bench.launch('internet');
      const { detail } = await from.attack('break-out');
      assert.equal((detail as Record<string, unknown>)['/proc/sysrq-trigger'], 'ok', JSON.stringify(detail));
      t.diagnostic(JSON.stringify((await from.attack('memory')).detail));
      // The guest's own kernel refuses, which protects nothing; once it does not, this shows what the devices make of it.
      t.diagnostic(`registers: ${JSON.stringify((await from.suicide('registers'))?.detail)}`);
      t.diagnostic(JSON.stringify((await from.attack('kill-init')).detail));
      t.diagnostic(JSON.stringify((await from.suicide('disks', {}, 120_000))?.detail));
      await othersGoOn();
      assert.deepEqual(sealedFiles(), before_.files, "the image's files are as they were");
    });

    for (const [name, query, ends] of [
      ['io-ports', {}, false],
      ['sysrq', { key: 'c' }, true],
      ['sysrq', { key: 'b' }, true],
      ['helper', {}, false],
      ['fork-bomb', {}, false],
      ['memory-bomb', {}, false],
    ] as const) {
      test(`${[name, ...Object.values(query)].join(' ')} ends that microVM at most`, async (t) => {
        await using from = await bench.launch('internet');
        await from.attack('break-out');
        t.diagnostic(JSON.stringify(await from.suicide(name, query, 30_000)));
        // Its effect comes after the answer.
        for (let left = PATIENCE; left > 0 && (await from.state()) !== 'TERMINATED'; left--) {
          await othersGoOn();
          await delay(100);
        }
        t.diagnostic(`${await from.state()}; ${growths()}`);
        if (ends) assert.equal(await from.state(), 'TERMINATED');
        await othersGoOn();
      });
    }
  });

  test('after all of it the VMMs are in their jails and the image is as it was', async () => {
    const vmms = recordedVmms(bench.server.stateDir);
    assert.equal(vmms.size, 1 + POLICIES.length);
    for (const [id, { pid, uid }] of vmms) {
      const { status, namespaces } = factsOf(pid);
      assert.deepEqual(new Set(status.Uid?.split('\t')), new Set([String(uid)]), id);
      assert.ok(uid >= 0x4000_0000 && uid <= 0x4fff_ffff, `${uid}`);
      for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'])
        assert.match(status[set] ?? '', /^0+$/, set);
      assert.equal(status.NoNewPrivs, '1');
      assert.equal(status.Seccomp, '2');
      assert.deepEqual(sharePidNamespace(namespaces.pid), [pid], 'it is alone in its namespace');
    }
    assert.deepEqual(sealedFiles(), before_.files);
    for (const policy of POLICIES) assert.equal(await attacker(policy).lives(), true, policy);
    const fresh = await bench.launch('internet');
    assert.equal(
      (await fresh.attack('tcp', { to: `${internet}:80` })).outcome,
      'connected',
      'new microVMs start as ever',
    );
    await fresh[Symbol.asyncDispose]();
  });

  test('nothing is left of them when they are terminated', async () => {
    const { server } = bench;
    const vmms = [...recordedVmms(server.stateDir).values()];
    for (const one of [neighbour, ...attackers.values()]) await one[Symbol.asyncDispose]();
    for (const { pid, supervisorPid, cgroups } of vmms) {
      for (const number of [pid, supervisorPid]) assert.ok(!existsSync(`/proc/${number}`), `process ${number}`);
      for (const group of cgroups) assert.ok(!existsSync(group), group);
    }
    for (const folder of ['run', 'microvms', 'gateway/net'])
      assert.deepEqual(namesIn(join(server.stateDir, folder)), [], folder);
    const gateway = bench.gatewayPid();
    assert.equal(await server.stop(), 0);
    assert.ok(!existsSync(`/proc/${gateway}`), 'the gateway ended with the server');
    assert.doesNotMatch(server.log(), /uncaught|unhandled/i);
    assert.doesNotMatch(readFileSync(join(server.stateDir, 'logs/gateway.log'), 'utf8'), /panic/);
  });
});

function namesIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}
