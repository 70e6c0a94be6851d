/**
 * For tests of traffic: the real ingress over the real microVMs room, with machines of the fake engine and tokens as clients
 * get them. Nothing is built: every launch finds its snapshot.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import type { RequestOptions } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { createConnectors, fixedNetworks, parseNetworks } from './connectors/index.ts';
import { createFakeEngine, type FakeEngine, type FakeEngineOptions } from './engine/index.ts';
import { createIngress, type Ingress, type IngressOptions } from './ingress/index.ts';
import { randomIds, silentLogger, sleep, systemClock } from './lib/index.ts';
import { createMicrovms, type IdlePolicy, type MicrovmState, type Microvms } from './microvms/index.ts';
import { openStore, releaseClaims } from './store/index.ts';

export interface Endpoint {
  readonly id: string;
  readonly port: number;
  readonly token: string;
}

export interface Answer {
  readonly status: number;
  readonly body: string;
}

export interface Endpoints extends AsyncDisposable {
  readonly engine: FakeEngine;
  readonly ingress: Ingress;
  readonly microvms: Microvms;
  readonly agent: Agent;
  /** Launches one that runs. */
  run(idlePolicy?: IdlePolicy): Promise<Endpoint>;
  until(id: string, state: MicrovmState): Promise<void>;
  suspend(id: string): Promise<void>;
  /** Until so many requests and upgrades wait for their machine. */
  untilHeld(count: number): Promise<void>;
  request(to: Endpoint, options?: RequestOptions, body?: string): Promise<Answer>;
}

export interface EndpointsOptions {
  readonly engine?: FakeEngineOptions;
  readonly wakeTimeoutMs?: number;
  readonly drainMs?: number;
  readonly limits?: IngressOptions['limits'];
}

const IMAGE = 'arn:aws:lambda:us-east-1:000000000000:microvm-image:demo';
const AUTO_RESUME: IdlePolicy = {
  maxIdleDurationSeconds: 3600,
  suspendedDurationSeconds: 3600,
  autoResumeEnabled: true,
};
const POLL_MS = 2;

export async function createEndpoints(options: EndpointsOptions = {}): Promise<Endpoints> {
  await using stack = new AsyncDisposableStack();
  const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-endpoints-'));
  stack.defer(() => rm(stateDir, { recursive: true, force: true }));
  const [clock, ids, log, region] = [systemClock, randomIds, silentLogger, 'us-east-1'];
  const store = stack.use(await openStore(join(stateDir, 'store.sqlite')));
  const engine = stack.use(createFakeEngine({ ...options.engine, anySnapshot: true }));
  const { limits } = options;
  const tlsDir = join(stateDir, 'tls');
  const ingress = stack.use(
    await createIngress({ tlsDir, clock, ids, log, ...(limits === undefined ? {} : { limits }) }),
  );
  const networks = fixedNetworks(parseNetworks('{"subnets":{}}'));
  const connectors = stack.use(createConnectors({ store, region, accountId: '000000000000', log, networks }));
  await connectors.start();
  const microvms = stack.use(
    await createMicrovms({
      store,
      engine,
      connectors,
      endpoints: ingress,
      stateDir,
      region,
      log,
      images: {
        resolve: async () => ({
          imageArn: IMAGE,
          imageVersion: '1.0',
          snapshotDir: '/snapshots/demo',
          memoryMiB: 2048,
          hooks: null,
          egressNetworkConnectors: [],
          unchanged: releaseClaims('nothing'),
        }),
        snapshotDir: () => '/snapshots/demo',
      },
      ...(options.drainMs === undefined ? {} : { drainMs: options.drainMs }),
      ...(options.wakeTimeoutMs === undefined ? {} : { wakeTimeoutMs: options.wakeTimeoutMs }),
    }),
  );
  let held = 0;
  const wake: Microvms['wake'] = (...asked) => {
    held++;
    return microvms.wake(...asked).finally(() => void held--);
  };
  ingress.serve({
    wake,
    verifyToken: (token) => microvms.verifyToken(token),
    endpointIdOf: (id) => microvms.endpointIdOf(id),
    exchange: (id) => microvms.exchange(id),
    activity: (id) => microvms.activity(id),
  });
  await microvms.start();
  const agent = new Agent({ ca: ingress.caPem, keepAlive: true });
  stack.defer(() => agent.destroy());
  const until = async (id: string, state: MicrovmState) => {
    while ((await microvms.get(id)).state !== state) await sleep(POLL_MS, { signal: AbortSignal.timeout(20_000) });
  };
  const owned = stack.move();
  return {
    engine,
    ingress,
    microvms,
    agent,
    until,
    untilHeld: async (count) => {
      while (held < count) await sleep(POLL_MS, { signal: AbortSignal.timeout(20_000) });
    },
    run: async (idlePolicy = AUTO_RESUME) => {
      const { microvmId: id, endpoint } = await microvms.run({ imageIdentifier: IMAGE, idlePolicy });
      const asked = { microvmIdentifier: id, expirationInMinutes: 60, allowedPorts: [{ allPorts: {} }] };
      const token = await microvms.createAuthToken(asked);
      await until(id, 'RUNNING');
      return { id, port: Number(endpoint.split(':')[1]), token };
    },
    suspend: async (id) => {
      await microvms.suspend(id);
      await until(id, 'SUSPENDED');
    },
    request: async ({ port, token }, given = {}, body) => {
      const headers = { 'x-aws-proxy-auth': token, ...given.headers };
      const sent = httpsRequest({ agent, host: 'localhost', port, ...given, headers });
      const { promise, resolve, reject } = Promise.withResolvers<Answer>();
      sent.once('error', reject);
      sent.once('response', (response) => {
        const status = response.statusCode ?? 0;
        buffer(response).then((whole) => resolve({ status, body: whole.toString() }), reject);
      });
      sent.end(body);
      return promise;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
