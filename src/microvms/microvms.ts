/**
 * The room behind its door: commands write intent, the reconciler acts on it, timers end what time ends. This file wires
 * the parts; each part says its own invariant.
 */
import { availableParallelism } from 'node:os';
import path from 'node:path';
import type { Connectors } from '../connectors/index.ts';
import {
  type Budget,
  type Engine,
  type FlowRecord,
  type LogLine,
  type Machine,
  unboundedBudget,
} from '../engine/index.ts';
import { HOLDING_STATES, type Images, type PageRequest } from '../images/index.ts';
import { type Clock, type Ids, type Logger, messageOf, randomIds, systemClock } from '../lib/index.ts';
import { destinationOf, type Logs, type ResumableSink } from '../logs/index.ts';
import { DueClock, type Page, readPage, type Store } from '../store/index.ts';
import { AppLogs } from './app-log.ts';
import { Capacity } from './capacity.ts';
import { Checkpoints } from './checkpoints.ts';
import { MachineCredentials, type RoleSource } from './credentials.ts';
import { MachineEgress } from './egress.ts';
import { type EndpointTokens, openEndpointTokens } from './endpoint-token.ts';
import { FlowReaders } from './flows.ts';
import { Launches } from './launches.ts';
import { Ledger } from './ledger.ts';
import { dueAt, type Event, isTransient, type Microvm, type Running } from './lifecycle.ts';
import { type Live, LiveMachines } from './live.ts';
import { MemoryQuota } from './memory-quota.ts';
import { Reconciler } from './reconciler.ts';
import { openSteadyClock, type SteadyClock } from './steady-clock.ts';
import { sweep, takeOver } from './take-over.ts';
import { appScope, shellScope } from './token-scopes.ts';
import type {
  AuthTokenInput,
  DrainStatus,
  EndpointHost,
  HoldingMicrovm,
  MicrovmItem,
  Microvms,
  MicrovmView,
  RunMicrovmInput,
  TokenCheck,
  UnderWay,
} from './types.ts';
import { itemOf, viewOf } from './views.ts';
import { Waking } from './waking.ts';

export interface MicrovmsOptions {
  readonly store: Store;
  readonly engine: Engine;
  readonly images: Pick<Images, 'resolve' | 'snapshotDir'>;
  readonly connectors: Pick<Connectors, 'requireActive' | 'egress' | 'egressDefaults' | 'onEgressChange'>;
  readonly endpoints: EndpointHost;
  /** Undefined: no role has credentials. */
  readonly roles?: RoleSource | undefined;
  readonly stateDir: string;
  readonly region: string;
  readonly log: Logger;
  /** Where apps log to, besides the files of their own. */
  readonly logs?: Pick<Logs, 'resumableSink'>;
  readonly clock?: Clock;
  readonly ids?: Ids;
  /** Launches and resumes at once; default twice the CPUs. */
  readonly concurrentLaunches?: number;
  /** Default twice the CPUs. */
  readonly concurrentSuspends?: number;
  /** How long a suspend by API waits for requests under way; default 60 s. GUESS: suspend-drain */
  readonly drainMs?: number;
  /** Bounds one engine call; default 60 s. */
  readonly stepTimeoutMs?: number;
  /** How long traffic is held at most while a microVM wakes; default 5 min: each step of a wake has its own bounds. GUESS: wake-limit */
  readonly wakeTimeoutMs?: number;
  /** How long an ended microVM's address still answers 502; default 60 s. GUESS: endpoint-linger */
  readonly endpointLingerMs?: number;
  /** Default 1 s. */
  readonly collectLogsAfterMs?: number;
  /** What the host can carry; default unbounded. */
  readonly budget?: Budget;
  /** How often to look whether its memory runs short all the same; default never. */
  readonly pressureWatchMs?: number;
  /** How often a checkpoint is taken of each microVM that runs; 0, the default: never. */
  readonly checkpointSeconds?: number;
  /** Memory of all microVMs that have not ended; default unbounded. */
  readonly memoryQuotaMiB?: number | undefined;
}

/** How long a client token is remembered. GUESS: client-token-retention */
const CLAIM_RETENTION_MS = 24 * 3_600_000;

type Address = Pick<Microvm, 'id' | 'endpointId' | 'endpoint' | 'endpointPort' | 'memoryMiB'>;

export async function createMicrovms(options: MicrovmsOptions): Promise<Microvms> {
  const { store, log, clock = systemClock, ids = randomIds } = options;
  const elapsed = await openSteadyClock(store, clock, log);
  const tokens = await openEndpointTokens({ store, elapsed, clock, ids, log });
  // Asked now: once builds run, their machines are there too.
  const room = new MicrovmsRoom(options, { elapsed, tokens, residue: await options.engine.residue() });
  await room.occupy();
  return room;
}

class MicrovmsRoom implements Microvms {
  readonly #o: MicrovmsOptions;
  readonly #clock: Clock;
  readonly #ids: Ids;
  readonly #log: Logger;
  readonly #stepTimeoutMs: number;
  /** What the engine had when this server began. */
  readonly #residue: readonly string[];
  readonly #elapsed: SteadyClock;
  readonly #tokens: EndpointTokens;
  readonly #ledger: Ledger;
  readonly #live: LiveMachines;
  readonly #logs: AppLogs;
  readonly #egress: MachineEgress;
  readonly #flows: FlowReaders;
  readonly #checkpoints: Checkpoints;
  readonly #reconciler: Reconciler;
  readonly #due: DueClock<Microvm>;
  readonly #memory: MemoryQuota;
  readonly #capacity: Capacity;
  readonly #launches: Launches;
  readonly #waking: Waking;
  readonly #lingering = new Set<Disposable>();
  /** Endpoints of an earlier server that go on answering; kept from the one look at all records. */
  readonly #toReopen: Address[] = [];

  constructor(
    options: MicrovmsOptions,
    opened: { elapsed: SteadyClock; tokens: EndpointTokens; residue: readonly string[] },
  ) {
    this.#residue = opened.residue;
    this.#elapsed = opened.elapsed;
    this.#tokens = opened.tokens;
    this.#o = options;
    this.#clock = options.clock ?? systemClock;
    this.#ids = options.ids ?? randomIds;
    this.#log = options.log;
    const { log } = options;
    const clock = this.#clock;
    this.#stepTimeoutMs = options.stepTimeoutMs ?? 60_000;
    this.#memory = new MemoryQuota(options.memoryQuotaMiB);
    this.#capacity = new Capacity(options.budget ?? unboundedBudget(), clock, {
      checkpoints: (options.checkpointSeconds ?? 0) > 0,
    });
    this.#live = new LiveMachines(clock);
    this.#logs = new AppLogs(path.join(options.stateDir, 'logs', 'microvms'), log, (id) => this.#sinkOf(id));
    this.#egress = new MachineEgress({ connectors: options.connectors, engine: options.engine, clock, log });
    this.#flows = new FlowReaders(options.engine, clock);
    this.#ledger = new Ledger({
      store: options.store,
      clock,
      elapsed: this.#elapsed,
      log,
      onMoved: (record, before, revision) => this.#moved(record, before, revision),
    });
    const ledger = this.#ledger;
    const [memory, capacity, elapsed, live] = [this.#memory, this.#capacity, this.#elapsed, this.#live];
    this.#launches = new Launches({ ...options, ledger, memory, capacity, clock, elapsed, ids: this.#ids });
    const timeoutMs = options.wakeTimeoutMs ?? 300_000;
    this.#waking = new Waking({ ledger, live, capacity, clock, log, timeoutMs });
    const credentials = new MachineCredentials({ roles: options.roles, log });
    this.#checkpoints = new Checkpoints({
      everyMs: options.checkpointSeconds ? options.checkpointSeconds * 1000 : undefined,
      credentials,
      clock,
      log,
      timeoutMs: this.#stepTimeoutMs,
    });
    this.#reconciler = new Reconciler({
      engine: options.engine,
      ledger: this.#ledger,
      live: this.#live,
      logs: this.#logs,
      egress: this.#egress,
      credentials,
      checkpoints: this.#checkpoints,
      clock,
      log,
      snapshotDirOf: (record) => options.images.snapshotDir(record.imageArn, record.imageVersion, record.snapshot),
      concurrentLaunches: options.concurrentLaunches ?? 2 * availableParallelism(),
      concurrentSuspends: options.concurrentSuspends ?? 2 * availableParallelism(),
      stepTimeoutMs: this.#stepTimeoutMs,
      drainMs: options.drainMs ?? 60_000,
      isNewBoot: this.#elapsed.isNewBoot,
      onAdopted: (record, revision) => this.#serve(record, revision),
      collectLogsAfterMs: options.collectLogsAfterMs ?? 1000,
    });
    this.#due = new DueClock({
      clock: this.#elapsed,
      log,
      source: this.#ledger.rows,
      onDue: async (row) => void (await this.#ledger.apply(row.id, { type: 'due' }, { revision: row.revision })),
    });
  }

  /** What is on record has its share of the host before anything else may take it. */
  async occupy(): Promise<void> {
    for await (const { body } of this.#ledger.inStates(HOLDING_STATES)) {
      this.#memory.hold(body.id, body.memoryMiB);
      this.#capacity.occupy(body);
      if (body.state === 'TERMINATING') continue;
      const { id, endpointId, endpoint, endpointPort, memoryMiB } = body;
      this.#toReopen.push({ id, endpointId, endpoint, endpointPort, memoryMiB });
    }
  }

  async start(): Promise<void> {
    await this.#elapsed.start();
    await this.#tokens.start();
    await this.#forgetClaims();
    for (const address of this.#toReopen.splice(0)) await this.#reopenEndpoint(address);
    const { engine } = this.#o;
    const [ledger, reconciler, log, timeoutMs] = [this.#ledger, this.#reconciler, this.#log, this.#stepTimeoutMs];
    if (await takeOver({ ledger, reconciler, isNewBoot: this.#elapsed.isNewBoot, log })) await this.#elapsed.settle();
    await sweep(this.#residue, { ledger, engine, log, timeoutMs });
    await this.#due.start();
    if (this.#o.pressureWatchMs !== undefined) this.#capacity.watch(this.#o.pressureWatchMs, () => this.#relieve());
  }

  allTakenOver(): Promise<void> {
    return this.#reconciler.allReturned();
  }

  run(input: RunMicrovmInput): Promise<MicrovmView> {
    return this.#launches.run(input);
  }

  async get(microvmId: string): Promise<MicrovmView> {
    return viewOf(await this.#ledger.get(microvmId));
  }

  async list(
    request: PageRequest & { readonly imageIdentifier?: string; readonly imageVersion?: string },
  ): Promise<Page<MicrovmItem>> {
    const { imageIdentifier: group, imageVersion } = request;
    // A version without its image is no key; the filter then picks from each page. GUESS: version-filter-alone
    const keys = group === undefined ? {} : { group, ...(imageVersion !== undefined && { subgroup: imageVersion }) };
    const page = await readPage(
      this.#o.store.pageTokens,
      request,
      `microvms ${JSON.stringify([group ?? null, imageVersion ?? null])}`,
      (query) => this.#ledger.rows.list({ ...query, ...keys }),
      itemOf,
    );
    const items = page.items.filter((item) => imageVersion === undefined || item.imageVersion === imageVersion);
    return { ...page, items };
  }

  async *holding(): AsyncIterable<HoldingMicrovm> {
    for await (const { body } of this.#ledger.inStates(HOLDING_STATES)) {
      yield { ...itemOf(body), isMoving: isTransient(body) };
    }
  }

  async drain(): Promise<DrainStatus> {
    this.#capacity.isClosed = true;
    for await (const { id, body } of this.#ledger.inStates(['RUNNING'])) {
      // Refused because it is on its way elsewhere: whoever drains asks again.
      await this.#command(id, { type: 'suspend', cause: 'request' }).catch((error: unknown) => {
        this.#log.info({ microvmId: body.id, error: messageOf(error) }, 'not suspended yet');
      });
    }
    return this.drainStatus();
  }

  undrain(): void {
    this.#capacity.isClosed = false;
  }

  async drainStatus(): Promise<DrainStatus> {
    const count = { draining: this.#capacity.isClosed, running: 0, suspended: 0 };
    for await (const { body } of this.#ledger.inStates(HOLDING_STATES)) {
      if (body.state === 'SUSPENDED') count.suspended += 1;
      else count.running += 1;
    }
    return count;
  }

  suspend(microvmId: string): Promise<void> {
    return this.#command(microvmId, { type: 'suspend', cause: 'request' });
  }

  resume(microvmId: string): Promise<void> {
    return this.#waking.resume(microvmId);
  }

  terminate(microvmId: string): Promise<void> {
    return this.#command(microvmId, { type: 'terminate' });
  }

  async createAuthToken(input: AuthTokenInput): Promise<string> {
    const record = await this.#ledger.get(input.microvmIdentifier);
    return this.#tokens.create(appScope(record, input.allowedPorts), input.expirationInMinutes);
  }

  async createShellAuthToken(input: Omit<AuthTokenInput, 'allowedPorts'>): Promise<string> {
    const record = await this.#ledger.get(input.microvmIdentifier);
    return this.#tokens.create(shellScope(record), input.expirationInMinutes);
  }

  verifyToken(token: string): Promise<TokenCheck> {
    return this.#tokens.verify(token);
  }

  rotateTokenKey(): Promise<string> {
    return this.#tokens.rotateKey();
  }

  async endpointIdOf(microvmId: string): Promise<string | undefined> {
    return (await this.#ledger.find(microvmId))?.endpointId;
  }

  wake(microvmId: string, options: { signal?: AbortSignal }): Promise<Machine> {
    return this.#waking.wake(microvmId, options);
  }

  exchange(microvmId: string): UnderWay {
    return this.#live.exchange(microvmId);
  }

  activity(microvmId: string): void {
    this.#live.activity(microvmId);
  }

  async *logs(
    microvmId: string,
    options: { cursor?: number; follow?: boolean; signal?: AbortSignal },
  ): AsyncIterable<LogLine> {
    const hasEnded = async () => (await this.#ledger.get(microvmId)).state === 'TERMINATED';
    await hasEnded(); // throws for an unknown one
    yield* this.#logs.read(microvmId, { ...options, hasEnded });
  }

  async #sinkOf(microvmId: string): Promise<ResumableSink | undefined> {
    const { logs } = this.#o;
    const record = await this.#ledger.find(microvmId);
    if (logs === undefined || record === undefined) return undefined;
    const { imageArn, imageVersion, startedAt, logging } = record;
    const imageName = imageArn.split(':').at(-1) ?? '';
    const destination = destinationOf(logging, { imageName, imageVersion, id: microvmId, startedAt });
    if (destination === undefined) return undefined;
    const sink = logs.resumableSink(destination.group, destination.stream, microvmId);
    // What was printed before the snapshot was printed by the image, not by this microVM.
    return {
      next: () => sink.next(),
      write: ({ at, message }, next) => sink.write({ at: Math.max(at, startedAt), message }, next),
    };
  }

  async *flows(microvmId: string, options: { follow?: boolean; signal?: AbortSignal }): AsyncIterable<FlowRecord> {
    const hasEnded = async () => (await this.#ledger.get(microvmId)).state === 'TERMINATED';
    await hasEnded(); // throws for an unknown one
    yield* this.#flows.read(microvmId, { ...options, hasEnded });
  }

  async usersOfConnector(arn: string): Promise<number> {
    let users = 0;
    for await (const { body } of this.#ledger.inStates(HOLDING_STATES)) {
      if (body.egressNetworkConnectors.includes(arn)) users++;
    }
    return users;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#due[Symbol.dispose]();
    this.#tokens[Symbol.dispose]();
    this.#flows[Symbol.dispose]();
    this.#capacity[Symbol.dispose]();
    this.#checkpoints[Symbol.dispose]();
    for (const timer of this.#lingering) timer[Symbol.dispose]();
    this.#live.refuseAll('The server is stopping.');
    await this.#egress[Symbol.asyncDispose]();
    await this.#reconciler[Symbol.asyncDispose]();
    await this.#elapsed[Symbol.asyncDispose]();
  }

  /** Every change of a record passes here, in the tick it was written. */
  #moved(record: Microvm, before: Microvm | undefined, revision: number): void {
    if (before?.state === 'RUNNING') {
      this.#live.stopServing(record.id);
      this.#checkpoints.cancel(record.id);
    }
    switch (record.state) {
      case 'RUNNING':
        this.#serve(record, revision);
        break;
      case 'SUSPENDED':
        this.#egress.forget(record.id);
        this.#waking.slept(record, before);
        break;
      case 'EXITED':
      case 'TERMINATING':
        this.#live.refuse(record.id, `The MicroVM ${record.id} has ended.`);
        break;
      case 'TERMINATED':
        this.#logs.end(record.id);
        this.#memory.release(record.id);
        this.#egress.forget(record.id);
        this.#flows.end(record.id);
        this.#closeEndpointLater(record.id);
        break;
      case 'PENDING':
      case 'SUSPENDING':
      case 'RESUMING':
        break;
      default:
        record satisfies never;
    }
    this.#capacity.settle(record);
    this.#reconciler.kick(record);
    this.#due.consider(dueAt(record));
  }

  #serve(record: Running, revision: number): void {
    const maxIdleSeconds = record.idlePolicy?.maxIdleDurationSeconds ?? null;
    this.#live.serve(record.id, maxIdleSeconds === null ? null : maxIdleSeconds * 1000, () =>
      this.#idle(record.id, revision),
    );
    const live = this.#live.get(record.id);
    if (live !== undefined) this.#checkpoints.begin(live.machine, record);
  }

  /** Housekeeping: a disk that is full must not keep the server from starting. */
  async #forgetClaims(): Promise<void> {
    try {
      await this.#o.store.forgetClaims(this.#clock.now() - CLAIM_RETENTION_MS);
    } catch (error) {
      this.#log.warn({ error: messageOf(error) }, 'old client tokens could not be forgotten');
    }
  }

  /** @throws when it could not be written down */
  async #idle(id: string, revision: number): Promise<void> {
    try {
      await this.#ledger.apply(id, { type: 'suspend', cause: 'idle' }, { revision });
    } catch (error) {
      this.#log.error({ microvmId: id, error: messageOf(error) }, 'an idle microVM could not be suspended');
      throw error;
    }
  }

  /** Memory runs short: who was idle the longest makes room, of those that come back by themselves. */
  #relieve(): boolean {
    const isBusy = ({ machine }: Live) => Number(this.#live.isBusy(machine.id));
    const idle = this.#live
      .all()
      .filter(({ serving }) => serving)
      .toSorted((a, b) => isBusy(a) - isBusy(b) || a.lastActivityMs - b.lastActivityMs)[0];
    if (idle === undefined) return false;
    const { id } = idle.machine;
    this.#log.warn({ microvmId: id }, "the host's memory runs short: suspending the microVM that was idle the longest");
    this.#ledger.apply(id, { type: 'suspend', cause: 'pressure' }).catch((error: unknown) => {
      this.#log.error({ microvmId: id, error: messageOf(error) }, 'it could not be suspended');
    });
    return true;
  }

  async #command(id: string, event: Event): Promise<void> {
    const outcome = await this.#ledger.apply(id, event);
    if (outcome.kind === 'refused') throw outcome.error;
  }

  async #reopenEndpoint(record: Address): Promise<void> {
    const { id, endpointId, endpointPort: port, memoryMiB } = record;
    try {
      const opened = await this.#o.endpoints.open({ microvmId: id, endpointId, port, memoryMiB });
      // The operator chose another mode, domain or port since.
      if (opened.address !== record.endpoint) await this.#ledger.readdress(id, opened);
    } catch (error) {
      this.#log.error({ microvmId: id, port, error: messageOf(error) }, 'an endpoint could not be opened again');
    }
  }

  #closeEndpointLater(id: string): void {
    const timer = this.#clock.after(this.#o.endpointLingerMs ?? 60_000, () => {
      this.#lingering.delete(timer);
      this.#o.endpoints.close(id).catch((error: unknown) => {
        this.#log.warn({ microvmId: id, error: messageOf(error) }, 'an endpoint could not be closed');
      });
    });
    this.#lingering.add(timer);
  }
}
