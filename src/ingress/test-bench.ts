/** What the ingress tests share: a server with its own authority, machines of the fake engine, and an HTTPS client that trusts it. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import type { IncomingMessage, RequestOptions } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { createFakeEngine, type FakeApp, type FakeEngine, type Machine } from '../engine/index.ts';
import { DomainError, randomIds, silentLogger, systemClock } from '../lib/index.ts';
import type { TokenClaims, UnderWay } from '../microvms/index.ts';
import { createIngress, type Ingress, type IngressOptions, type Traffic } from './ingress.ts';

export interface Bench extends AsyncDisposable {
  readonly ingress: Ingress;
  readonly engine: FakeEngine;
  readonly traffic: FakeTraffic;
  /** Where the endpoint of `id` is; in host mode that of all. */
  readonly port: number;
  /** Host and port, as the record has it. */
  readonly address: string;
  readonly id: string;
  readonly token: string;
  request(options: RequestOptions, body?: string | Buffer): Promise<Answer>;
  /** A request the test drives by hand; `authorized` headers are added. */
  start(options: RequestOptions): ReturnType<typeof httpsRequest>;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly rawHeaders: readonly string[];
  readonly trailers: IncomingMessage['trailers'];
  readonly body: string;
}

/** The microVMs room's traffic part over fake machines, with tokens the test hands out. */
export class FakeTraffic implements Traffic {
  readonly tokens = new Map<string, { claims: TokenClaims; expired: boolean }>();
  readonly active: string[] = [];
  wakes = 0;
  /** What `wake` returns; a test may make it wait, fail or answer with another machine. */
  onWake: (microvmId: string) => Promise<Machine> = async (microvmId) => {
    throw new DomainError('NOT_FOUND', `${microvmId} does not exist`);
  };

  issue(claims: Partial<TokenClaims> & { microvmId: string }, expired = false): string {
    const part = () => randomBytes(12).toString('base64url');
    const token = `${part()}..${part()}.${part()}.${part()}`;
    this.tokens.set(token, { claims: { kind: 'app', ports: 'all', expiresAt: 0, ...claims }, expired });
    return token;
  }

  async verifyToken(token: string) {
    const found = this.tokens.get(token);
    if (found === undefined) return { kind: 'unreadable' } as const;
    return { kind: found.expired ? 'expired' : 'valid', claims: found.claims } as const;
  }

  /** Of microVMs that ended. */
  readonly endpointIds = new Map<string, string>();

  async endpointIdOf(microvmId: string): Promise<string | undefined> {
    return this.endpointIds.get(microvmId);
  }

  async wake(microvmId: string): Promise<Machine> {
    this.wakes++;
    return this.onWake(microvmId);
  }

  /** Exchanges under way. */
  underWay = 0;

  /** Since the machine began to serve; a long time, unless a test says otherwise. */
  servedMs = 3_600_000;

  exchange(microvmId: string): UnderWay {
    this.underWay++;
    const active = () => this.activity(microvmId);
    return { servedMs: this.servedMs, active, answered: () => {}, [Symbol.dispose]: () => void this.underWay-- };
  }

  activity(microvmId: string): void {
    this.active.push(microvmId);
  }
}

export async function createBench(
  app?: FakeApp,
  listening?: readonly number[],
  options: Partial<IngressOptions> = {},
): Promise<Bench> {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-ingress-'));
  stack.defer(() => rm(dir, { recursive: true }));
  const engine = stack.use(
    createFakeEngine({
      anySnapshot: true,
      ...(app === undefined ? {} : { app }),
      ...(listening === undefined ? {} : { listening }),
    }),
  );
  const ingress = stack.use(
    await createIngress({
      tlsDir: join(dir, 'tls'),
      clock: systemClock,
      ids: randomIds,
      log: silentLogger,
      ...options,
      limits: { headersMs: 300, ...options.limits },
    }),
  );
  const traffic = new FakeTraffic();
  const id = 'microvm-1';
  const machine = await engine.launch({ id, snapshotDir: dir }, {});
  traffic.onWake = async () => machine;
  ingress.serve(traffic);
  const { address } = await ingress.open({ microvmId: id, endpointId: 'endpoint-1', port: null, memoryMiB: 2048 });
  const port = Number(new URL(`https://${address}`).port);
  const token = traffic.issue({ microvmId: id });
  const agent = new Agent({ keepAlive: true, ca: ingress.caPem, maxSockets: 64 });
  stack.defer(() => agent.destroy());
  const start = (options: RequestOptions) =>
    httpsRequest({
      host: 'localhost',
      port,
      agent,
      ...options,
      headers: { 'x-aws-proxy-auth': token, ...options.headers },
    });
  const request = (options: RequestOptions, body?: string | Buffer) => {
    const sent = start(options);
    sent.end(body);
    return answerOf(sent);
  };
  const owned = stack.move();
  return {
    ingress,
    engine,
    traffic,
    port,
    address,
    id,
    token,
    request,
    start,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

export function answerOf(sent: ReturnType<typeof httpsRequest>): Promise<Answer> {
  return new Promise((resolve, reject) => {
    sent.once('error', reject);
    sent.once('response', (response) => {
      text(response).then((body) => {
        const { statusCode = 0, headers, rawHeaders, trailers } = response;
        resolve({ status: statusCode, headers, rawHeaders, trailers, body });
      }, reject);
    });
  });
}
