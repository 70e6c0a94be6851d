/** Both AWS wires over the real rooms and the fake VMM, on ports of their own: for tests through official clients. */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LambdaMicrovmsClient, type LambdaMicrovmsClientConfig } from '@aws-sdk/client-lambda-microvms';
import { type AuthMode, createApi, createS3, type Rates, type RequestHandler } from '../../src/api/index.ts';
import { createArtifacts, createObjectStore, type ObjectStore } from '../../src/artifacts/index.ts';
import { type Connectors, createConnectors, fixedNetworks, parseNetworks } from '../../src/connectors/index.ts';
import { createFakeEngine, type FakeEngine } from '../../src/engine/index.ts';
import { type OpenIdentity, openIdentity } from '../../src/identity/index.ts';
import { createImages, type ImageQuotas, type Images } from '../../src/images/index.ts';
import { createIngress } from '../../src/ingress/index.ts';
import { randomIds, silentLogger, systemClock } from '../../src/lib/index.ts';
import { createLogs, type Logs } from '../../src/logs/index.ts';
import { createMicrovms, type Microvms } from '../../src/microvms/index.ts';
import { openStore, type Store } from '../../src/store/index.ts';
import { rawZip } from './raw-zip.ts';

export const region = 'us-east-1';
export const account = '000000000000';
export const credentials = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'secret' };
export const baseImageArn = `arn:aws:lambda:${region}:aws:microvm-image:al2023-1`;
export const buildRoleArn = `arn:aws:iam::${account}:role/build`;
export const codeArtifact = { uri: 's3://artifacts/app.zip' };

export interface ApiBench extends AsyncDisposable {
  readonly apiPort: number;
  readonly s3Port: number;
  readonly engine: FakeEngine;
  readonly images: Images;
  readonly microvms: Microvms;
  readonly connectors: Connectors;
  readonly objects: ObjectStore;
  readonly store: Store;
  readonly logs: Logs;
  readonly identity: OpenIdentity;
  /** Signs with the root's key, does not retry. */
  readonly sdk: LambdaMicrovmsClient;
  client(config?: LambdaMicrovmsClientConfig): LambdaMicrovmsClient;
}

/** What is limited; nothing unless said. */
export interface Limits {
  readonly images?: ImageQuotas;
  readonly memoryMiB?: number;
  readonly connectors?: number;
  readonly rates?: Rates;
}

/** What connectors of the tests stand on, unless a test brings its own. */
const NETWORKS = {
  subnets: { 'subnet-1': { cidrs: ['10.1.0.0/16'] }, 'subnet-2': { cidrs: ['10.2.0.0/16'] } },
  securityGroups: { 'sg-1': { egress: [{ to: '10.0.0.0/8', protocol: 'tcp', ports: [443] }] } },
};

export interface BenchOptions {
  readonly auth?: AuthMode;
  readonly limits?: Limits;
  /** A networks file's content. */
  readonly networks?: object;
}

export async function createApiBench(options: BenchOptions = {}): Promise<ApiBench> {
  await using stack = new AsyncDisposableStack();
  const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-api-'));
  stack.defer(() => rm(stateDir, { recursive: true, force: true }));
  const { auth = 'sigv4', limits = {} } = options;
  const [clock, ids, log] = [systemClock, randomIds, silentLogger];

  const store = stack.use(await openStore(join(stateDir, 'store.sqlite')));
  const logs = stack.use(createLogs({ file: join(stateDir, 'logs.sqlite'), log, clock }));
  const objects = await createObjectStore({ dir: join(stateDir, 'objects') });
  const artifacts = createArtifacts({ store: objects });
  const identity = await openIdentity({ account, rootKeys: [credentials], store });
  const engine = stack.use(createFakeEngine());
  const ingress = stack.use(await createIngress({ tlsDir: join(stateDir, 'tls'), clock, ids, log }));
  const connectors = stack.use(
    createConnectors({
      store,
      region,
      accountId: account,
      log,
      settleMs: 0,
      quota: limits.connectors,
      networks: fixedNetworks(parseNetworks(JSON.stringify(options.networks ?? NETWORKS))),
      usersOf: (arn) => microvms.usersOfConnector(arn),
    }),
  );
  const images = stack.use(
    createImages({
      store,
      engine,
      artifacts,
      connectors,
      stateDir,
      region,
      accountId: account,
      log,
      logs,
      quotas: limits.images ?? {},
    }),
  );
  const microvms: Microvms = stack.use(
    await createMicrovms({
      store,
      engine,
      images,
      connectors,
      endpoints: ingress,
      stateDir,
      region,
      log,
      logs,
      memoryQuotaMiB: limits.memoryMiB,
    }),
  );
  ingress.serve(microvms);
  await connectors.start();
  await images.start();
  await microvms.start();

  await objects.createBucket('artifacts');
  await objects.put('artifacts', 'app.zip', once(rawZip([{ name: 'Dockerfile', content: 'FROM base\n' }])));
  const wire = { identity, region, auth, logger: log };
  const rates = limits.rates ?? {};
  const apiPort = await listen(stack, createApi({ ...wire, logs, images, microvms, connectors, rates }));
  const s3Port = await listen(stack, createS3({ ...wire, store: objects }));

  const owned = stack.move();
  const client = (config: LambdaMicrovmsClientConfig = {}) => {
    const endpoint = `http://127.0.0.1:${apiPort}`;
    const made = new LambdaMicrovmsClient({ region, endpoint, credentials, maxAttempts: 1, ...config });
    owned.defer(() => made.destroy());
    return made;
  };
  return {
    apiPort,
    s3Port,
    engine,
    images,
    microvms,
    connectors,
    objects,
    store,
    logs,
    identity,
    sdk: client(),
    client,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function* once(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes;
}

async function listen(stack: AsyncDisposableStack, handler: RequestHandler): Promise<number> {
  const server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  stack.defer(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}
