/**
 * A host with one server on it, for sequences: the room under test on the fake engine and a real store. A killed server is one
 * whose calls to the outside never come back and whose timers never fire; nothing of it is closed.
 */
import type { RequestListener } from 'node:http';
import { createFakeDisk, createFakeEngine, type FakeDisk, type FakeEngine, restartHost } from '../../engine/index.ts';
import type { Hooks } from '../../images/index.ts';
import { type Clock, type Ids, type Logger, TestClock } from '../../lib/index.ts';
import { type RecordKind, type Records, releaseClaims, type Store, type Write } from '../../store/index.ts';
import { createMicrovms, type Microvms } from '../index.ts';
import type { Sequence } from './steps.ts';

export const IMAGE = 'arn:aws:lambda:us-east-1:000000000000:microvm-image:demo';
const SNAPSHOT = '/snapshots/demo';
const INTERNET = 'arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:INTERNET_EGRESS';
export const DISK_FULL = 'database or disk is full';
export const HOOK_SECONDS = 2;
export const CHECKPOINT_MS = 40_000;
const HOOKS: Hooks = {
  port: 9000,
  microvmHooks: {
    run: 'ENABLED',
    resume: 'ENABLED',
    suspend: 'ENABLED',
    terminate: 'ENABLED',
    runTimeoutInSeconds: HOOK_SECONDS,
    resumeTimeoutInSeconds: HOOK_SECONDS,
    suspendTimeoutInSeconds: HOOK_SECONDS,
    terminateTimeoutInSeconds: HOOK_SECONDS,
  },
};

/** One server process. */
export interface Server {
  readonly microvms: Microvms;
  readonly engine: FakeEngine;
  /** The API is admitted. */
  started: boolean;
  readonly life: { alive: boolean };
}

export interface Change {
  readonly id: string;
  readonly from: string | null;
  readonly to: string;
}

export class World {
  readonly clock: TestClock;
  readonly disk: FakeDisk = createFakeDisk();
  /** Every change of state that was written, by whichever server. */
  readonly changes: Change[] = [];
  readonly #states = new Map<string, string>();
  readonly #runningSince = new Map<string, number>();
  readonly #ranMs = new Map<string, number>();
  /** What must not have happened. */
  readonly objections: string[] = [];
  readonly #store: Store;
  readonly #options: Omit<Sequence, 'steps'>;
  readonly #taken: Disposable[] = [];
  readonly #startedMs: number;
  /** Asleep or off. */
  #awayMs = 0;
  #ids = 0;
  #serverSince = 0;
  /** What the app's hooks answer; 0: never. */
  hookStatus = 200;
  /** Time awake at which it last fell asleep. */
  sleptMs = Number.NEGATIVE_INFINITY;
  diskFull = false;
  /** What was written and not flushed, newest last: how to undo it. */
  readonly #unflushed: (() => Promise<void>)[] = [];
  server: Server | undefined;

  constructor(store: Store, options: Omit<Sequence, 'steps'>) {
    this.#store = store;
    this.#options = options;
    // A hook is an exchange of several turns.
    this.clock = new TestClock({ turns: options.hooks ? 80 : 10 });
    this.#startedMs = this.clock.monotonicMs();
  }

  get hasCheckpoints(): boolean {
    return this.#options.checkpoints === true;
  }

  async open(): Promise<void> {
    const life = { alive: true };
    const engine = createFakeEngine({
      disk: this.disk,
      anySnapshot: true,
      adopts: this.#options.adopts,
      app: () => this.#answerHook,
      now: () => this.clock.now(),
    });
    const clock = mortalClock(this.clock, life);
    const microvms = await createMicrovms({
      store: this.#mortalStore(life),
      engine,
      clock,
      ids: this.#seededIds(),
      stateDir: '/dev/null',
      region: 'us-east-1',
      log: this.#log(life),
      connectors: {
        requireActive: async () => {},
        egress: async () => ({ policy: { rules: [], dns: 'off' }, limits: {} }),
        egressDefaults: () => ({ implicit: 'internet', internet: 'allow' }),
        onEgressChange: () => ({ [Symbol.dispose]: () => {} }),
      },
      images: {
        resolve: async () => ({
          imageArn: IMAGE,
          imageVersion: '1.0',
          snapshotDir: SNAPSHOT,
          memoryMiB: 512,
          hooks: this.#options.hooks ? HOOKS : null,
          egressNetworkConnectors: [INTERNET],
          unchanged: releaseClaims('nothing'),
        }),
        snapshotDir: () => SNAPSHOT,
      },
      endpoints: { open: async () => ({ address: 'localhost:1', port: 1 }), close: async () => {} },
      collectLogsAfterMs: 1e12,
      concurrentLaunches: 2,
      concurrentSuspends: 2,
      checkpointSeconds: this.hasCheckpoints ? CHECKPOINT_MS / 1000 : 0,
    });
    const server: Server = { microvms, engine, started: false, life };
    this.server = server;
    microvms.start().then(
      () => {
        server.started = life.alive;
        this.#serverSince = this.awakeMs;
      },
      (error: unknown) => this.objections.push(`the server did not start: ${String(error)}`),
    );
  }

  kill(): void {
    if (this.server === undefined) return;
    this.server.life.alive = false;
    this.server.engine.abandon();
    this.server = undefined;
    this.#taken.length = 0;
  }

  async stop(): Promise<void> {
    const { server } = this;
    if (server === undefined) return;
    this.server = undefined;
    this.release();
    const stopping = async () => {
      await server.microvms[Symbol.asyncDispose]();
      await server.engine[Symbol.asyncDispose]();
    };
    await this.#within(stopping(), 'the server did not stop');
    server.life.alive = false;
  }

  /** The record's own state, finer than the one shown. */
  stateOf(id: string): string | undefined {
    return this.#states.get(id);
  }

  /** Time awake at which its record last became RUNNING, and at which its idle clock began. */
  runningSince(id: string): number {
    return this.#runningSince.get(id) ?? 0;
  }

  watchedSince(id: string): number {
    return Math.max(this.runningSince(id), this.#serverSince);
  }

  /** How long it had been running at its end. */
  ranMs(id: string): number {
    return this.#ranMs.get(id) ?? 0;
  }

  /** Of every record that was written. */
  ids(): readonly string[] {
    return [...this.#states.keys()];
  }

  /** Time that passed while the host was awake. */
  get awakeMs(): number {
    return this.clock.monotonicMs() - this.#startedMs;
  }

  /** All time that passed. */
  get elapsedMs(): number {
    return this.awakeMs + this.#awayMs;
  }

  advance(ms: number): Promise<void> {
    return this.clock.advance(ms);
  }

  sleepHost(ms: number): void {
    this.#awayMs += ms;
    this.sleptMs = this.awakeMs;
    this.clock.sleepHost(ms);
  }

  /** No process outlives it. */
  rebootHost(offMs: number): void {
    this.kill();
    this.#awayMs += offMs;
    restartHost(this.disk);
    this.clock.rebootHost(offMs);
  }

  /** The same by a loss of power: what was written to the store without a flush is forgotten, or the newest of it. */
  async losePower(offMs: number, isAll: boolean): Promise<void> {
    this.rebootHost(offMs);
    const lost = isAll ? this.#unflushed.length : Math.ceil(this.#unflushed.length / 2);
    for (const undo of this.#unflushed.splice(-lost || this.#unflushed.length).reverse()) await undo();
    this.#unflushed.length = 0;
  }

  /** Holds and failures last until they are used up, taken back, or their server ends. */
  take(what: Disposable): void {
    this.#taken.push(what);
  }

  release(): void {
    for (const what of this.#taken.splice(0)) what[Symbol.dispose]();
  }

  async goOn(rounds: number): Promise<void> {
    for (let i = 0; i < rounds; i++) await new Promise((resolve) => setImmediate(resolve));
  }

  async #within(work: Promise<unknown>, objection: string): Promise<void> {
    let done = false;
    work.then(
      () => {
        done = true;
      },
      (error: unknown) => {
        done = true;
        this.objections.push(`${objection}: ${String(error)}`);
      },
    );
    for (let i = 0; i < 100 && !done; i++) {
      await this.goOn(20);
      if (!done) await this.advance(1000);
    }
    if (!done) this.objections.push(objection);
  }

  #answerHook: RequestListener = (request, response) => {
    request.resume();
    if (this.hookStatus === 0) return;
    response.statusCode = this.hookStatus;
    response.end();
  };

  #seededIds(): Ids {
    return {
      uuid: () => `${this.#options.seed}-${++this.#ids}`,
      bytes: (length) => Buffer.alloc(length, 7),
    };
  }

  #mortalStore(life: { alive: boolean }): Store {
    const inner = this.#store;
    const unlessDead = async <T>(work: () => Promise<T>): Promise<T> => {
      if (!life.alive) return new Promise(() => {});
      const result = await work();
      return life.alive ? result : new Promise(() => {});
    };
    return {
      pageTokens: inner.pageTokens,
      records: <Body>(kind: RecordKind): Records<Body> => {
        const rows = inner.records<Body>(kind);
        return {
          ...shared(rows),
          get: (id) => unlessDead(() => rows.get(id)),
          list: (query) => unlessDead(() => rows.list(query)),
          inStates: (states, options) => unlessDead(() => rows.inStates(states, options)),
          due: (at, limit) => unlessDead(() => rows.due(at, limit)),
          nextDueAt: () => unlessDead(() => rows.nextDueAt()),
        };
      },
      write: (writes, claim, options) =>
        unlessDead(async () => {
          if (this.diskFull) throw new Error(DISK_FULL);
          const undo = options?.survives === 'process' ? await this.#undoOf(writes) : undefined;
          const result = await inner.write(writes, claim, options);
          if (result.kind !== 'written') return result;
          // A flush carries with it what was written before.
          if (undo === undefined) this.#unflushed.length = 0;
          else this.#unflushed.push(undo);
          for (const write of writes) this.#note(write);
          return result;
        }),
      findClaim: (scope, token) => unlessDead(() => inner.findClaim(scope, token)),
      forgetClaims: (at) => unlessDead(() => inner.forgetClaims(at)),
      secret: (name, length) => unlessDead(() => inner.secret(name, length)),
      [Symbol.asyncDispose]: async () => {},
    };
  }

  async #undoOf(writes: readonly Write[]): Promise<() => Promise<void>> {
    const before: (() => Promise<void>)[] = [];
    for (const write of writes) {
      if (write.op !== 'save') continue;
      const rows = this.#store.records<object>(write.kind);
      const row = await rows.get(write.row.id);
      if (row === undefined) continue;
      before.push(async () => {
        const { revision = 0 } = (await rows.get(row.id)) ?? {};
        await this.#store.write([rows.save({ ...row, revision })]);
        if (write.kind === 'microvms') this.#states.set(row.id, row.state);
      });
    }
    return async () => {
      for (const undo of before) await undo();
    };
  }

  #note(write: Write): void {
    if ((write.op !== 'insert' && write.op !== 'save') || write.kind !== 'microvms') return;
    const { id, state } = write.row;
    this.changes.push({ id, from: this.#states.get(id) ?? null, to: state });
    this.#states.set(id, state);
    if (state === 'RUNNING') this.#runningSince.set(id, this.awakeMs);
    if (state === 'TERMINATING') this.#ranMs.set(id, this.awakeMs - this.watchedSince(id));
  }

  #log(life: { alive: boolean }): Logger {
    const note = (fields: object) => {
      if (!life.alive) return;
      if ('error' in fields && String(fields.error).includes('runs already')) {
        this.objections.push('a machine was started beside another of the same microVM');
      }
    };
    const log: Logger = { debug: note, info: note, warn: note, error: note, child: () => log };
    return log;
  }
}

/** What only makes values. */
function shared<Body>(rows: Records<Body>): Pick<Records<Body>, 'insert' | 'save' | 'delete' | 'unchanged' | 'fewer'> {
  return {
    insert: (row) => rows.insert(row),
    save: (row) => rows.save(row),
    delete: (row) => rows.delete(row),
    unchanged: (row) => rows.unchanged(row),
    fewer: (than, where) => rows.fewer(than, where),
  };
}

function mortalClock(inner: Clock, life: { alive: boolean }): Clock {
  return {
    now: () => inner.now(),
    monotonicMs: () => inner.monotonicMs(),
    sinceBoot: () => inner.sinceBoot(),
    after: (delayMs, callback) => inner.after(delayMs, () => life.alive && callback()),
  };
}
