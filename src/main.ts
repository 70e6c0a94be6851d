/**
 * The composition root: configuration in, rooms wired, one path down. The only file that sees every room.
 *
 * Invariant: `startServer` either returns a server that answers, or has undone what it began; a server that was stopped
 * holds no process, port or lock, and a state folder is served by one server at a time.
 */
import { createServer, type Server as HttpServer } from 'node:http';
import { join } from 'node:path';
import { createApi, createS3, type RequestHandler } from './api/index.ts';
import { ArtifactError, createArtifacts, createObjectStore, type ObjectStore } from './artifacts/index.ts';
import { type Config, DEFAULT_API_PORT } from './config.ts';
import { createConnectors, gatewaySettingsOf, openNetworks } from './connectors/index.ts';
import {
  createBudget,
  createEngine,
  type Engine,
  type HostCheck,
  type HostReport,
  hostGauges,
  hostLimits,
  inspectHost,
  loadRuntime,
  type NetworkSettings,
  openRegistries,
  type Runtime,
  readKeyFile,
} from './engine/index.ts';
import {
  ensureAccessKey,
  lockHome,
  makeHome,
  makePrivate,
  provisionsOf,
  readServerRecord,
  type ServerRecord,
  tlsDirOf,
  writeServerRecord,
} from './home/index.ts';
import { openIdentity } from './identity/index.ts';
import { createImages } from './images/index.ts';
import { createIngress } from './ingress/index.ts';
import { DomainError, type Logger, messageOf, randomIds, sleep, systemClock, withDeadline } from './lib/index.ts';
import { createLogs } from './logs/index.ts';
import { createMicrovms, type Microvms } from './microvms/index.ts';
import { openStore } from './store/index.ts';

export interface Server extends AsyncDisposable {
  readonly record: ServerRecord;
  readonly apiUrl: string;
  readonly s3Url: string;
  readonly host: HostReport;
  /** Stops taking requests, puts running microVMs where `onShutdown` says, closes everything. Bounded; idempotent. */
  stop(): Promise<void>;
}

export interface ServerOptions {
  readonly log: Logger;
  /** The machines to run on; the real ones when left out. */
  readonly openEngine?: (config: Config, log: Logger, network: NetworkSettings) => Promise<Engine>;
}

/** The two wires listen here and nowhere else. */
const LOOPBACK = '127.0.0.1';
const KEEP_ALIVE_MS = 65_000;
/** What is left of the shutdown deadline for closing once the microVMs were seen to. */
const CLOSE_MS = 10_000;
const POLL_MS = 20;
const PRESSURE_WATCH_MS = 1000;

/** @throws DomainError, MachineError, StoreError: sentences for the operator */
export async function startServer(config: Config, options: ServerOptions): Promise<Server> {
  const { log } = options;
  const { stateDir, region, account, quotas } = config;
  const [clock, ids] = [systemClock, randomIds];
  await using stack = new AsyncDisposableStack();
  makeHome(stateDir);
  stack.use(lockHome(stateDir, () => readServerRecord(stateDir)?.pid));
  for (const remark of makePrivate(stateDir)) log.warn({}, remark);
  const before = readServerRecord(stateDir);
  checkSameAccount(config, before);
  const rootKey = ensureAccessKey(stateDir, ids);

  const store = stack.use(await openStore(join(stateDir, 'store.sqlite')));
  const logs = stack.use(
    createLogs({ file: join(stateDir, 'logs', 'events.sqlite'), log: log.child({ room: 'logs' }) }),
  );
  const objects = await createObjectStore({ dir: join(stateDir, 'objects') });
  await ensureBucket(objects, provisionsOf(config).artifactBucket);
  const identity = stack.use(
    await openIdentity({
      account,
      rootKeys: [rootKey],
      store,
      clock,
      ids,
      log: log.child({ room: 'identity' }),
      roles: { file: config.roles, environment: config.environment },
    }),
  );
  const networks = stack.use(
    await openNetworks({
      file: config.networks,
      defaultEgress: config.defaultEgress,
      clock,
      log: log.child({ room: 'connectors' }),
    }),
  );
  const engine = stack.use(
    await (options.openEngine ?? openEngine)(config, log, gatewaySettingsOf(networks.current())),
  );
  for (const remark of engine.host.remarks) log.warn({}, remark);

  const ingress = stack.use(
    await createIngress({
      tlsDir: tlsDirOf(stateDir),
      clock,
      ids,
      log: log.child({ room: 'ingress' }),
      hostMode: config.endpointHosts,
      certificate: config.endpointCertificate,
      limits: config.endpointLimits,
    }),
  );
  const connectors = stack.use(
    createConnectors({
      store,
      region,
      accountId: account,
      log: log.child({ room: 'connectors' }),
      quota: quotas.connectors,
      networks,
      usersOf: (arn) => microvms.usersOfConnector(arn),
    }),
  );
  const budget = createBudget(hostLimits(engine.host.cpus, config.memoryBudgetMiB), hostGauges(stateDir), clock);
  const images = stack.use(
    createImages({
      store,
      engine,
      connectors,
      roles: identity.roles,
      artifacts: createArtifacts({
        store: objects,
        external: config.externalS3 && { ...config.externalS3, dir: join(stateDir, 'fetching') },
      }),
      stateDir,
      region,
      accountId: account,
      log: log.child({ room: 'images' }),
      buildTimeoutMs: config.buildTimeoutSeconds * 1000,
      builderKeepMs: config.builderKeepSeconds * 1000,
      logs,
      quotas,
      budget,
    }),
  );
  const microvms: Microvms = stack.use(
    await createMicrovms({
      store,
      engine,
      images,
      connectors,
      roles: identity.roles,
      endpoints: ingress,
      stateDir,
      region,
      log: log.child({ room: 'microvms' }),
      logs,
      memoryQuotaMiB: quotas.memoryMiB,
      drainMs: config.suspendDrainSeconds * 1000,
      checkpointSeconds: config.checkpointSeconds,
      budget,
      pressureWatchMs: PRESSURE_WATCH_MS,
    }),
  );
  ingress.serve(microvms);

  const startedAt = new Date(clock.now()).toISOString();
  const host = () => ({ ...engine.host, region, account, pid: process.pid, startedAt });
  const apiHandler = createApi({
    images,
    microvms,
    connectors,
    identity,
    logs,
    region,
    auth: config.auth,
    logger: log.child({ room: 'api' }),
    rates: quotas.rates,
    host,
  });
  const s3Handler = createS3({
    store: objects,
    identity,
    region,
    auth: config.auth,
    logger: log.child({ room: 's3' }),
  });
  const api = await listen(apiHandler, config.apiPort ?? before?.apiPort ?? DEFAULT_API_PORT, '--api-port');
  stack.use(api);
  const s3 = stack.use(await listenAgain(s3Handler, config.s3Port, before?.s3Port));

  // Only now: recovery may launch, suspend and end machines, and must not do so for a server that can't listen.
  await connectors.start();
  await images.start();
  await microvms.start();
  // What runs comes first.
  void microvms.allTakenOver().then(() => images.proveAhead());
  const record: ServerRecord = {
    generation: 1,
    pid: process.pid,
    startedAt,
    apiPort: api.port,
    s3Port: s3.port,
    region,
    account,
    ...(config.endpointCertificate !== undefined && { ownCertificate: true }),
  };
  writeServerRecord(stateDir, record);
  api.admit();
  s3.admit();
  log.info({ apiPort: api.port, s3Port: s3.port, accelerator: engine.host.accelerator }, 'server started');
  return new RunningServer(record, engine.host, {
    config,
    log,
    microvms,
    engine,
    doors: [api, s3, ingress],
    owned: stack.move(),
  });
}

interface Parts {
  readonly config: Config;
  readonly log: Logger;
  readonly microvms: Microvms;
  readonly engine: Engine;
  /** What takes requests, each stopped first and in bounded time. */
  readonly doors: readonly AsyncDisposable[];
  readonly owned: AsyncDisposableStack;
}

class RunningServer implements Server {
  readonly record: ServerRecord;
  readonly apiUrl: string;
  readonly s3Url: string;
  readonly host: HostReport;
  readonly #parts: Parts;
  #stopped: Promise<void> | undefined;

  constructor(record: ServerRecord, host: HostReport, parts: Parts) {
    this.record = record;
    this.apiUrl = `http://${LOOPBACK}:${record.apiPort}`;
    this.s3Url = `http://${LOOPBACK}:${record.s3Port}`;
    this.host = host;
    this.#parts = parts;
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #stop(): Promise<void> {
    const { config, log, microvms, engine, doors, owned } = this.#parts;
    log.info({ onShutdown: config.onShutdown }, 'server stops');
    // Traffic first: a request could wake what was just suspended.
    await Promise.all(doors.map((door) => door[Symbol.asyncDispose]()));
    try {
      await withDeadline('settling the microVMs', config.shutdownSeconds * 1000, (signal) =>
        settle(microvms, config.onShutdown, signal),
      );
    } catch (error) {
      log.warn({ error: messageOf(error) }, 'not every microVM could be settled; the next start takes over what runs');
    }
    // What runs all the same, because it came up in the last moment or could not be settled, is taken over by the next start.
    engine.leave();
    await withDeadline('closing', CLOSE_MS, () => owned.disposeAsync());
    log.info({}, 'server stopped');
  }
}

/** Suspends, terminates or leaves what runs, and waits until no microVM is on its way anywhere. */
async function settle(microvms: Microvms, how: Config['onShutdown'], signal: AbortSignal): Promise<void> {
  const asked = new Set<string>();
  for (;;) {
    let moving = 0;
    for await (const { microvmId, state, isMoving } of microvms.holding()) {
      if (!isMoving && (state === 'SUSPENDED' || (how === 'leave' && state === 'RUNNING'))) continue;
      moving++;
      if (asked.has(microvmId)) continue;
      if (how !== 'terminate' && (isMoving || state !== 'RUNNING')) continue;
      asked.add(microvmId);
      const command = how === 'suspend' ? microvms.suspend(microvmId) : microvms.terminate(microvmId);
      // Refused because it is on its way elsewhere: the next round looks again.
      await command.catch(() => asked.delete(microvmId));
    }
    if (moving === 0) return;
    await sleep(POLL_MS, { signal });
  }
}

async function openEngine(config: Config, log: Logger, network: NetworkSettings): Promise<Engine> {
  const { stateDir, cacheDir, encryptionKeyFile, roles } = config;
  const buildCacheBytes = config.buildCacheGiB * 1024 ** 3;
  const keyring = encryptionKeyFile === undefined ? undefined : readKeyFile(encryptionKeyFile);
  const runtime = loadRuntime(cacheDir);
  const room = log.child({ room: 'engine' });
  const registries =
    config.registries === undefined ? {} : { registries: await openRegistries(config.registries, room) };
  const common = { runtime, stateDir, cacheDir, log: room, clock: systemClock, ids: randomIds, network, ...registries };
  return createEngine({
    ...common,
    buildCacheBytes,
    erasesFreedMemory: roles !== undefined,
    ...(keyring && { keyring }),
  });
}

/** What the engine says about this host; changes nothing. A set-up that has not run is one of the findings. */
export function checkHost(config: Config): Promise<readonly HostCheck[]> {
  let runtime: Runtime | undefined;
  try {
    runtime = loadRuntime(config.cacheDir);
  } catch (error) {
    if (!(error instanceof DomainError)) throw error;
  }
  return inspectHost({ runtime, stateDir: config.stateDir });
}

/** Records carry ARNs of their account and Region; serving them under other ones would orphan every image. */
function checkSameAccount(config: Config, before: ServerRecord | undefined): void {
  if (before === undefined || (before.region === config.region && before.account === config.account)) return;
  throw new DomainError(
    'CONFLICT',
    `This state folder belongs to Region ${before.region} and account ${before.account}. Start with these (--region, --account), or give --state another folder.`,
  );
}

async function ensureBucket(objects: ObjectStore, name: string): Promise<void> {
  try {
    await objects.createBucket(name);
  } catch (error) {
    if (!(error instanceof ArtifactError && error.kind === 'bucket-exists')) throw error;
  }
}

interface Listener extends AsyncDisposable {
  readonly port: number;
  /** Requests that came before wait until now. */
  admit(): void;
}

/** @throws DomainError CONFLICT when the port is taken, naming the flag that chooses another */
async function listen(handler: RequestHandler, port: number, flag: string): Promise<Listener> {
  const ready = Promise.withResolvers<void>();
  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS }, (request, response) => {
    void ready.promise.then(() => handler(request, response));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: Error & { code?: string }) => reject(listenError(error, port, flag)));
    server.listen({ host: LOOPBACK, port }, resolve);
  });
  const address = server.address();
  const bound = typeof address === 'object' && address !== null ? address.port : port;
  return { port: bound, admit: () => ready.resolve(), [Symbol.asyncDispose]: () => closeServer(server) };
}

/** A port nobody asked for by name may be another one than last time. */
async function listenAgain(
  handler: RequestHandler,
  wanted: number | undefined,
  last: number | undefined,
): Promise<Listener> {
  if (wanted !== undefined || last === undefined) return listen(handler, wanted ?? 0, '--s3-port');
  return listen(handler, last, '--s3-port').catch(() => listen(handler, 0, '--s3-port'));
}

function listenError(error: Error & { code?: string }, port: number, flag: string): Error {
  if (error.code === 'EADDRINUSE') {
    const message = `Port ${port} on ${LOOPBACK} is in use. Choose another with ${flag} <n> (0 takes any free one), or stop the program that has it.`;
    return new DomainError('CONFLICT', message, { cause: error });
  }
  if (error.code === 'EACCES') {
    return new DomainError('DENIED', `Port ${port} needs privileges. Choose one above 1023 with ${flag} <n>.`, {
      cause: error,
    });
  }
  return error;
}

/** What is in flight may end by itself for a moment. */
async function closeServer(server: HttpServer): Promise<void> {
  const closed = new Promise<void>((resolve) => void server.close(() => resolve()));
  server.closeIdleConnections();
  const cut = systemClock.after(1000, () => server.closeAllConnections());
  await closed;
  cut[Symbol.dispose]();
}
