/**
 * The bench of the break-out suite: a server in a network namespace of its own, hosts around it, an image whose app attacks
 * (test/support/breakout/), and microVMs of it under different policies. Owns all of it.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { type EndpointClient, endpointClient } from './endpoint.ts';
import { type HostileDns, startHostileDns } from './hostile-dns.ts';
import { buildImage, untilState } from './images.ts';
import { ADDRESSES, createTestNetwork, type TestNetwork } from './network.ts';
import { repository, startServer, type TestServer } from './server.ts';

/** A third host on the internet, for answers that run out. */
export const BRIEF = '93.184.216.36';
/** On the internet's network, but nobody is there. */
export const NOBODY = '93.184.216.99';
const DNS = { address: ADDRESSES.internetToo, port: 5353 };
/** Generous: everything here is emulated, on machines that do other things too. */
const ATTACK_TIMEOUT_MS = 240_000;
const SETTLE_MS = 60_000;
const POLL_MS = 250;

export type PolicyName = 'internet' | 'vpc' | 'domains';

export interface AttackResult {
  readonly outcome: 'refused' | 'reset' | 'silent' | 'connected' | 'answered' | 'done' | 'broken' | 'lives';
  readonly errno: string | null;
  readonly detail: unknown;
  readonly ms: number;
}

/** A line of the flow log as far as the suite looks at it. */
export interface Flow {
  readonly kind: 'flow' | 'dns' | 'drop' | 'suppressed';
  readonly protocol?: string;
  readonly to?: string;
  readonly name?: string | null;
  readonly type?: string;
  readonly verdict?: string;
  readonly rule?: string | null;
  readonly reason?: string | null;
  readonly what?: string;
  readonly count?: number;
}

export interface Attacker extends AsyncDisposable {
  readonly microvmId: string;
  readonly endpointPort: number;
  attack(name: string, query?: Readonly<Record<string, string | number>>): Promise<AttackResult>;
  /** The same by a query, or undefined when the microVM ended or lost its tongue by it. */
  suicide(
    name: string,
    query?: Readonly<Record<string, string | number>>,
    ms?: number,
  ): Promise<AttackResult | undefined>;
  lives(): Promise<boolean>;
  /** The same without waiting for long. */
  isWell(): Promise<boolean>;
  state(): Promise<string | undefined>;
  /** Polls the log until it has what is wanted. */
  logged(what: string, wanted: (flows: readonly Flow[]) => boolean): Promise<readonly Flow[]>;
}

export interface BreakoutBench extends AsyncDisposable {
  readonly network: TestNetwork;
  readonly server: TestServer;
  readonly dns: HostileDns;
  readonly ports: { readonly api: number; readonly s3: number };
  readonly gatewayPid: () => number;
  launch(policy: PolicyName): Promise<Attacker>;
  rekindle(...args: readonly string[]): Promise<string>;
}

export async function openBreakoutBench(): Promise<BreakoutBench> {
  await using stack = new AsyncDisposableStack();
  const network = stack.use(await createTestNetwork());
  await network.internet.run(['ip', 'address', 'add', `${BRIEF}/24`, 'dev', 'net0']);
  const dns = await startHostileDns(stack, network.internet, zone());
  const folder = await mkdtemp(join(tmpdir(), 'rk-breakout-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const networks = join(folder, 'networks.json');
  await writeFile(networks, JSON.stringify(networksFile()));
  // Each VMM there is is looked at.
  const args = ['--networks', networks, '--builder-keep', '0'];
  const server = stack.use(await startServer({ namespace: network.host, args }));

  const rekindle = async (...args: readonly string[]) => {
    const argv = [join(repository, 'bin/rekindle'), ...args, '--state', server.stateDir];
    const [program = '', ...rest] = network.host.command(argv);
    return (await promisify(execFile)(program, rest, { timeout: 120_000, maxBuffer: 64 * 1024 * 1024 })).stdout;
  };
  const create = async (...args: readonly string[]) => (await rekindle('connectors', 'create', ...args)).trim();
  const list = await create('list');
  const wide = await create('wide');
  const connectors: Readonly<Record<PolicyName, readonly string[]>> = {
    internet: [`arn:aws:lambda:${server.env.AWS_REGION}:aws:network-connector:aws-network-connector:INTERNET_EGRESS`],
    vpc: [await create('vpc', '--subnet', 'subnet-1', '--security-group', 'sg-web')],
    domains: [list, wide],
  };
  await setDomains(rekindle, LISTED);
  await rekindle('connectors', 'domains', 'wide', 'set', 'wide.example.com', '--ports', '1-1000', '--opaque');

  const image = await buildImage(server, 'breakout', artifact(), { additionalOsCapabilities: ['ALL'] });
  assert.equal(image.state, 'CREATED', `${image.stateReason}\n${server.log().slice(-4000)}`);
  const record = JSON.parse(readFileSync(join(server.stateDir, 'server.json'), 'utf8')) as {
    apiPort: number;
    s3Port: number;
  };
  const owned = stack.move();
  return {
    network,
    server,
    dns,
    ports: { api: record.apiPort, s3: record.s3Port },
    gatewayPid: () => (JSON.parse(readFileSync(join(server.stateDir, 'gateway.json'), 'utf8')) as { pid: number }).pid,
    launch: (policy) => launch(server, image.imageArn, connectors[policy], rekindle),
    rekindle,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** What the domain list has; `also` can be taken from it. */
export const LISTED = [
  ...['www.example.com', 'also.example.com', 'rebind.example.com', 'brief.example.com', '*.cdn.example.com'],
] as const;

export async function setDomains(rekindle: BreakoutBench['rekindle'], names: readonly string[]): Promise<void> {
  await rekindle('connectors', 'domains', 'list', 'set', ...names);
}

function zone() {
  const { internet, internetToo, private: inner, host, hostPrivate, metadata } = ADDRESSES;
  const fixed = (...addresses: string[]) => ({ ttl: 60, turns: [addresses] });
  return {
    address: DNS.address,
    names: {
      'www.example.com': fixed(internet),
      'also.example.com': fixed(internet),
      'evil.test': fixed(internet),
      // Not where the others are: an address stands for 32 names at most.
      '*.cdn.example.com': fixed(NOBODY),
      'wide.example.com': fixed(internetToo),
      'brief.example.com': { ttl: 0, turns: [[BRIEF]] },
      'rebind.example.com': {
        ttl: 0,
        turns: [
          [internet],
          [host],
          ['127.0.0.1'],
          [metadata],
          ['192.0.0.1'],
          [hostPrivate, inner],
          ['0.0.0.0', '10.0.0.1'],
        ],
      },
    },
  };
}

function networksFile() {
  return {
    subnets: { 'subnet-1': { cidrs: ['10.9.0.0/16'] } },
    securityGroups: { 'sg-web': { egress: [{ to: `${ADDRESSES.private}/32`, protocol: 'tcp', ports: [80] }] } },
    dns: [`${DNS.address}:${DNS.port}`],
  };
}

function artifact(): Record<string, string> {
  const folder = join(import.meta.dirname, 'breakout');
  const names = readdirSync(folder).filter((name) => name === 'Dockerfile' || name.endsWith('.py'));
  return Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, name), 'utf8')]));
}

async function launch(
  server: TestServer,
  imageArn: string,
  egressNetworkConnectors: readonly string[],
  rekindle: BreakoutBench['rekindle'],
): Promise<Attacker> {
  const { microvmId = '', endpoint = '' } = await server.microvms.runMicrovm({
    imageIdentifier: imageArn,
    egressNetworkConnectors: [...egressNetworkConnectors],
  });
  const client = await endpointClient(server, { microvmId, endpoint });
  const state = async () => (await server.microvms.getMicrovm({ microvmIdentifier: microvmId })).state;
  const attack = (name: string, query: Readonly<Record<string, string | number>> = {}, timeoutMs = ATTACK_TIMEOUT_MS) =>
    attackThrough(client, name, query, timeoutMs);
  const attacker: Attacker = {
    microvmId,
    endpointPort: Number(endpoint.split(':')[1] ?? 443),
    attack: (name, query) => attack(name, query),
    suicide: (name, query, ms = 30_000) => attack(name, query, ms).catch(() => undefined),
    lives: async () => (await client.get('/', { timeoutMs: SETTLE_MS })).status === 200,
    isWell: () =>
      client.get('/', { timeoutMs: 2_000 }).then(
        ({ status }) => status === 200,
        () => false,
      ),
    state,
    logged: async (what, wanted) => {
      const deadline = performance.now() + SETTLE_MS;
      for (;;) {
        const text = await rekindle('flows', microvmId, '--json');
        const flows = text
          .split('\n')
          .filter((line) => line !== '')
          .map((line) => JSON.parse(line) as Flow);
        if (wanted(flows)) return flows;
        if (performance.now() > deadline) throw new Error(`not in the flow log: ${what}\n${text.slice(-6000)}`);
        await delay(POLL_MS);
      }
    },
    [Symbol.asyncDispose]: async () => {
      client[Symbol.dispose]();
      if ((await state()) === 'TERMINATED') return;
      await server.microvms.terminateMicrovm({ microvmIdentifier: microvmId });
      await untilState(server, microvmId, 'TERMINATED').catch((error: Error) => {
        if (!error.message.includes('is TERMINATED')) throw error;
      });
    },
  };
  assert.equal(await attacker.lives(), true);
  return attacker;
}

async function attackThrough(
  client: EndpointClient,
  name: string,
  query: Readonly<Record<string, string | number>>,
  timeoutMs: number,
): Promise<AttackResult> {
  const text = new URLSearchParams({ name });
  for (const [key, value] of Object.entries(query)) text.set(key, String(value));
  const answer = await client.get(`/attack?${text}`, { timeoutMs });
  assert.equal(answer.status, 200, `${name}: ${answer.body}`);
  const result = JSON.parse(answer.body) as AttackResult;
  if (result.outcome === 'broken') throw new Error(`the attack ${text} is broken: ${JSON.stringify(result.detail)}`);
  return result;
}

/** Resident memory of a process. */
export function residentMiB(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024;
}

/** Ids of all processes in the pid namespace of one. */
export function sharePidNamespace(inode: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => pidNamespaceOf(pid) === inode);
}

function pidNamespaceOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`);
  } catch {
    return undefined;
  }
}
