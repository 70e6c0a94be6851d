/**
 * The queue of builds: in the order of the calls, a few at a time, each with a share of the host for as long as it works.
 * While there is none a build stays PENDING and its log says why. Each ends in a record that says how, whatever happens;
 * only a stopping server leaves that to its next start.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { BUILDER_MEMORY_MIB, type Budget, type Need, needOf } from '../engine/index.ts';
import { messageOf, Slots, withDeadline } from '../lib/index.ts';
import { destinationOf, LineSink, type Logs } from '../logs/index.ts';
import type { BuildLogs, BuildLogWriter } from './build-log.ts';
import { type BuilderOptions, runBuild } from './builder.ts';
import type { Catalog } from './catalog.ts';
import { failureReason, INTERRUPTED } from './failure-reason.ts';
import type { VersionRecord } from './lifecycle.ts';
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
  readonly #slots: Slots;
  readonly #stop = new AbortController();
  readonly #running = new Set<Promise<void>>();

  constructor(options: BuildQueueOptions) {
    this.#o = options;
    this.#slots = new Slots(options.concurrentBuilds);
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
    this.#o.logs.expect(version.buildId);
    const build = this.#build(version).catch((error: unknown) => this.#giveUp(version, error));
    this.#running.add(build);
    void build.finally(() => this.#running.delete(build));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error('the server is stopping'));
    await Promise.allSettled([...this.#running]);
  }

  /** What should not happen (no room for the log, say) still ends the build. */
  async #giveUp(version: VersionRecord, error: unknown): Promise<void> {
    const { catalog, clock, logs } = this.#o;
    logs.end(version.buildId);
    if (this.#stop.signal.aborted) return;
    const log = this.#o.log.child({ buildId: version.buildId });
    log.error({ error: messageOf(error) }, 'a build could not be carried out');
    const failed = { type: 'failed', reason: failureReason(error, version.config), codeBytes: null } as const;
    try {
      await catalog.record(version.imageArn, version.version, failed, clock.now());
    } catch (again) {
      log.error({ error: messageOf(again) }, 'nor could its failure be kept; the next start does that');
    }
  }

  async #build(version: VersionRecord): Promise<void> {
    const { imageArn: arn, version: number } = version;
    const { catalog, clock, logs } = this.#o;
    const { signal } = this.#stop;
    using _slot = await this.#slots.acquire({ signal });
    // Disposed last, so that who followed the log finds the outcome written.
    await using buildLog = await logs.writer(version.buildId, this.#linesOf(version));
    using _share = await this.#share(version, buildLog);
    if (!(await catalog.record(arn, number, { type: 'started' }, clock.now()))) return;
    const startedMs = clock.monotonicMs();
    const outcome = await runBuild(this.#o, version, buildLog, signal);
    const event =
      outcome.kind === 'succeeded'
        ? ({ type: 'succeeded', sizes: outcome.sizes } as const)
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
  async #share({ buildId, config, ...version }: VersionRecord, buildLog: BuildLogWriter): Promise<Disposable> {
    const { budget, clock } = this.#o;
    const id = `build-${buildId}`;
    const need: Need = { ...needOf(Math.max(BUILDER_MEMORY_MIB, memoryMiBOf(config))), diskMiB: DISK_MIB };
    const log = this.#o.log.child({ buildId, imageArn: version.imageArn, imageVersion: version.version });
    const onShort = (why: string) => {
      buildLog.write(`[rekindle] waiting for room on this host: ${why}\n`);
      log.info({ why }, 'a build waits for room on this host');
    };
    const wait = (signal: AbortSignal) => budget.wait(id, need, { signal, onShort });
    await withDeadline('waiting for room on this host', SHARE_TIMEOUT_MS, wait, { signal: this.#stop.signal, clock });
    return { [Symbol.dispose]: () => budget.release(id) };
  }
}
