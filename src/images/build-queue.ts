/**
 * The queue of builds: a few at a time, their principals in turn, each with a share of the host for as long as it works.
 * While there is none a build stays PENDING and its log says why. Each ends in a record that says how, whatever happens;
 * only a stopping server leaves that to its next start.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { BUILDER_MEMORY_MIB, type Budget, type Need, needOf } from '../engine/index.ts';
import { messageOf, withDeadline } from '../lib/index.ts';
import { destinationOf, LineSink, type Logs } from '../logs/index.ts';
import { askerOf } from './asker.ts';
import type { BuildLogs, BuildLogWriter } from './build-log.ts';
import { type BuilderOptions, runBuild } from './builder.ts';
import type { Catalog } from './catalog.ts';
import { failureReason, INTERRUPTED } from './failure-reason.ts';
import type { VersionRecord } from './lifecycle.ts';
import { Turns } from './turns.ts';
import { memoryMiBOf } from './version-config.ts';

export interface BuildQueueOptions extends BuilderOptions {
  readonly catalog: Catalog;
  readonly logs: BuildLogs;
  /** Where builds log to besides. */
  readonly events?: Pick<Logs, 'sink'> | undefined;
  readonly concurrentBuilds: number;
  readonly budget: Budget;
}

/** Longest wait for a share of the host; a build that begins after it was forgotten helps nobody. */
const SHARE_TIMEOUT_MS = 3_600_000;
/** Root disk, snapshot and what the cache of layers grows by, of a build of ordinary size. */
const DISK_MIB = 2048;

export class BuildQueue implements AsyncDisposable {
  readonly #o: BuildQueueOptions;
  readonly #turns: Turns;
  readonly #stop = new AbortController();
  /** By build. */
  readonly #running = new Map<string, { readonly off: AbortController; readonly ended: Promise<void> }>();

  constructor(options: BuildQueueOptions) {
    this.#o = options;
    this.#turns = new Turns(options.concurrentBuilds);
  }

  /** Fails what an earlier server left in progress and takes up what it had not begun. */
  async resume(): Promise<void> {
    const { catalog, clock } = this.#o;
    for (const version of await catalog.versionsIn(['IN_PROGRESS'])) {
      const failed = { type: 'failed', reason: INTERRUPTED, codeBytes: null } as const;
      await catalog.record(version.imageArn, version.version, failed, clock.now());
      const snapshotDir = this.#o.snapshotDirOf(version);
      await this.#o.engine.deleteSnapshot(snapshotDir);
      await rm(path.dirname(snapshotDir), { recursive: true, force: true });
    }
    await rm(this.#o.workDir, { recursive: true, force: true });
    for (const version of await catalog.versionsIn(['PENDING'])) this.add(version);
  }

  /** The version was written as PENDING. */
  add(version: VersionRecord): void {
    const { buildId } = version;
    this.#o.logs.expect(buildId);
    const off = new AbortController();
    const signal = AbortSignal.any([this.#stop.signal, off.signal]);
    const ended = this.#build(version, signal).catch((error: unknown) => this.#giveUp(version, signal, error));
    this.#running.set(buildId, { off, ended });
    void ended.finally(() => this.#running.delete(buildId));
  }

  /** Its version is DELETING. Resolves when nothing of it goes on; its records are left as they are. */
  async cancel(buildId: string): Promise<void> {
    const build = this.#running.get(buildId);
    build?.off.abort(new Error('its version is being deleted'));
    await build?.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error('the server is stopping'));
    await Promise.allSettled([...this.#running.values()].map(({ ended }) => ended));
  }

  /** What should not happen (no room for the log, say) still ends the build. */
  async #giveUp(version: VersionRecord, signal: AbortSignal, error: unknown): Promise<void> {
    const { catalog, clock, logs } = this.#o;
    logs.end(version.buildId);
    const log = this.#o.log.child({ buildId: version.buildId });
    if (signal.aborted) return log.info({ why: messageOf(signal.reason) }, 'build called off');
    log.error({ error: messageOf(error) }, 'a build could not be carried out');
    const failed = { type: 'failed', reason: failureReason(error, version.config), codeBytes: null } as const;
    try {
      await catalog.record(version.imageArn, version.version, failed, clock.now());
    } catch (again) {
      log.error({ error: messageOf(again) }, 'nor could its failure be kept; the next start does that');
    }
  }

  async #build(version: VersionRecord, signal: AbortSignal): Promise<void> {
    using slot = new DisposableStack();
    slot.use(await this.#turns.acquire(askerOf(version, this.#o.accountId), { signal }));
    const rehearse = await this.#buildLogged(version, slot, signal);
    await rehearse?.();
  }

  /** Returns what is left to do with the share of the host that `slot` has then. */
  async #buildLogged(
    version: VersionRecord,
    slot: DisposableStack,
    signal: AbortSignal,
  ): Promise<(() => Promise<void>) | undefined> {
    const { imageArn: arn, version: number } = version;
    const { catalog, clock, logs } = this.#o;
    // Disposed last, so that who followed the log finds the outcome written.
    await using buildLog = await logs.writer(version.buildId, this.#linesOf(version));
    slot.use(await this.#share(version, buildLog, signal));
    if (!(await catalog.record(arn, number, { type: 'started' }, clock.now()))) return undefined;
    const startedMs = clock.monotonicMs();
    const outcome = await runBuild(this.#o, version, buildLog, signal);
    const event =
      outcome.kind === 'succeeded'
        ? ({ type: 'succeeded', sizes: outcome.sizes, provenance: outcome.provenance } as const)
        : ({ type: 'failed', reason: outcome.reason, codeBytes: outcome.codeBytes } as const);
    await catalog.record(arn, number, event, clock.now());
    this.#o.log.info(
      {
        imageArn: arn,
        imageVersion: number,
        outcome: outcome.kind,
        tookMs: Math.round(clock.monotonicMs() - startedMs),
      },
      'build ended',
    );
    return outcome.kind === 'succeeded' ? outcome.rehearse : undefined;
  }

  #linesOf(version: VersionRecord): LineSink | undefined {
    const { clock, events } = this.#o;
    const source = {
      imageName: version.imageName,
      imageVersion: version.version,
      id: version.buildId,
      startedAt: clock.now(),
    };
    const destination = destinationOf(version.config.logging, source);
    if (events === undefined || destination === undefined) return undefined;
    return new LineSink(events.sink(destination.group, destination.stream), () => clock.now());
  }

  /** A build's machines run one after another: their share is that of the largest. @throws DomainError `CAPACITY`, MachineError */
  async #share(
    { buildId, config, ...version }: VersionRecord,
    buildLog: BuildLogWriter,
    signal: AbortSignal,
  ): Promise<Disposable> {
    const { budget, clock } = this.#o;
    const id = `build-${buildId}`;
    const need: Need = { ...needOf(Math.max(BUILDER_MEMORY_MIB, memoryMiBOf(config))), diskMiB: DISK_MIB };
    const log = this.#o.log.child({ buildId, imageArn: version.imageArn, imageVersion: version.version });
    const onShort = (why: string) => {
      buildLog.write(`[rekindle] waiting for room on this host: ${why}\n`);
      log.info({ why }, 'a build waits for room on this host');
    };
    const wait = (bounded: AbortSignal) => budget.wait(id, need, { signal: bounded, onShort });
    await withDeadline('waiting for room on this host', SHARE_TIMEOUT_MS, wait, { signal, clock });
    return { [Symbol.dispose]: () => budget.release(id) };
  }
}
