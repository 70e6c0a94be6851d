/**
 * A version's snapshot made anew for this host's VMM and kernel, from the root disk it kept: same version, same
 * configuration. The old snapshot is launched until the new one is whole and on record, and stays for as long as a microVM
 * that was launched from it is left.
 *
 * Invariant: which snapshots a version has is what its record says. What a crash left beside them goes at the next start.
 */
import { rm, rmdir } from 'node:fs/promises';
import path from 'node:path';
import { type Budget, type Engine, needOf } from '../../engine/index.ts';
import { type Clock, DomainError, type Ids, type Logger, messageOf, Slots, withDeadline } from '../../lib/index.ts';
import type { Store } from '../../store/index.ts';
import { type BuilderOptions, sealAgain } from '../builder.ts';
import { type Catalog, versionId } from '../catalog.ts';
import { failureReason } from '../failure-reason.ts';
import { HOLDING_STATES, snapshotUsedBy } from '../in-use.ts';
import type { VersionRecord } from '../lifecycle.ts';
import { memoryMiBOf } from '../version-config.ts';
import type { Holds } from './holds.ts';
import { newestSnapshot, snapshotsOf } from './snapshots.ts';
import { inImage, type Places } from './unowned.ts';

export interface Resealed {
  readonly imageArn: string;
  readonly imageVersion: string;
  /** Number of the snapshot that is launched now. */
  readonly snapshot: number;
  /** False: the one there was fits, and it was to be made only if needed. */
  readonly isNew: boolean;
}

export interface ResealOptions extends Places {
  readonly catalog: Catalog;
  readonly store: Store;
  readonly engine: Pick<Engine, 'fit' | 'deleteSnapshot'>;
  readonly holds: Holds;
  readonly budget: Budget;
  readonly builder: BuilderOptions;
  readonly clock: Clock;
  readonly ids: Ids;
  readonly log: Logger;
  readonly stopping: AbortSignal;
  readonly snapshotDir: (version: VersionRecord, snapshot: number) => string;
}

const SHARE_TIMEOUT_MS = 3_600_000;
/** Root disk and snapshot, as for a build. */
const DISK_MIB = 2048;
const PAGE = 500;
/** Of what the app and the seal said, for the server's log when it fails. */
const EVIDENCE_LENGTH = 8192;

export class Reseals implements AsyncDisposable {
  readonly #o: ResealOptions;
  /** A seal takes the whole host, as a build does. */
  readonly #slots = new Slots(1);
  readonly #running = new Map<string, Promise<unknown>>();

  constructor(options: ResealOptions) {
    this.#o = options;
  }

  /** Once, after builds were taken up: clears away what a crash left half made, and says which versions do not fit. */
  async recover(): Promise<void> {
    const { catalog, holds, stateDir, log } = this.#o;
    for (const { name } of await catalog.everyImage()) {
      for await (const stray of inImage(this.#o, catalog, holds, name)) {
        // Below a version: anything else is for whoever collects garbage.
        if (stray.path.split(path.sep).length < 4) continue;
        await rm(path.join(stateDir, stray.path), { recursive: true, force: true });
        log.info({ path: stray.path }, 'a snapshot that was not finished was removed');
      }
    }
    await this.prune();
    for (const version of await catalog.versionsIn(['SUCCESSFUL'])) await this.#tellFit(version);
  }

  /** @throws DomainError `NOT_FOUND`, `CONFLICT` */
  async reseal(arn: string, imageVersion: string, { ifNeeded }: { ifNeeded: boolean }): Promise<Resealed> {
    const id = versionId(arn, imageVersion);
    if (this.#running.has(id)) {
      throw new DomainError('CONFLICT', `The snapshot of version ${imageVersion} is being made anew already.`);
    }
    const work = this.#reseal(arn, imageVersion, ifNeeded);
    this.#running.set(id, work);
    try {
      return await work;
    } finally {
      this.#running.delete(id);
    }
  }

  /** Lets go of earlier snapshots that no microVM needs any more. */
  async prune(): Promise<void> {
    for (const version of await this.#o.catalog.versionsIn(['SUCCESSFUL'])) {
      if (snapshotsOf(version).length > 1) await this.#prune(version.imageArn, version.version);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#running.values()]);
  }

  async #reseal(arn: string, imageVersion: string, ifNeeded: boolean): Promise<Resealed> {
    const { catalog, engine, holds, snapshotDir, stopping: signal } = this.#o;
    const about = { imageArn: arn, imageVersion };
    using _slot = await this.#slots.acquire({ signal });
    using _hold = holds.take(versionId(arn, imageVersion));
    const { body: version } = await catalog.version(arn, imageVersion);
    demandSuccessful(version);
    const now = newestSnapshot(version);
    const from = snapshotDir(version, now);
    if (ifNeeded && (await engine.fit(from)).kind === 'fits') return { ...about, snapshot: now, isNew: false };
    const snapshot = now + 1;
    const into = snapshotDir(version, snapshot);
    await engine.deleteSnapshot(into);
    await this.#seal(version, from, into);
    try {
      await catalog.change(async () => {
        const seen = await catalog.version(arn, imageVersion);
        demandSuccessful(seen.body);
        const snapshots = [snapshot, ...snapshotsOf(seen.body)];
        const body = { ...seen.body, snapshots, updatedAt: this.#o.clock.now() };
        return { answer: undefined, writes: [catalog.saveVersion(seen, body)] };
      });
    } catch (error) {
      // It was deleted, or found damaged, meanwhile.
      await engine.deleteSnapshot(into);
      await rmdir(path.dirname(into)).catch(() => {});
      throw error;
    }
    this.#o.log.info({ ...about, snapshot }, 'version sealed anew');
    await this.#prune(arn, imageVersion);
    return { ...about, snapshot, isNew: true };
  }

  async #seal(version: VersionRecord, from: string, into: string): Promise<void> {
    const { builder, budget, ids, clock, stopping: signal } = this.#o;
    const { imageArn, version: imageVersion, config } = version;
    const buildId = ids.uuid();
    const log = this.#o.log.child({ imageArn, imageVersion, buildId });
    const share = `build-${buildId}`;
    const need = { ...needOf(memoryMiBOf(config)), diskMiB: DISK_MIB };
    const onShort = (why: string) => log.info({ why }, 'a version waits for room on this host to be sealed anew');
    let said = '';
    const say = (text: string) => {
      said = (said + text).slice(-EVIDENCE_LENGTH);
    };
    try {
      const wait = (bounded: AbortSignal) => budget.wait(share, need, { signal: bounded, onShort });
      await withDeadline('waiting for room on this host', SHARE_TIMEOUT_MS, wait, { signal, clock });
      await sealAgain(builder, { ...version, buildId }, { from, into }, say, signal);
    } catch (error) {
      log.warn(
        { error: messageOf(error), evidence: said },
        'a version could not be sealed anew; its old snapshot stays',
      );
      signal.throwIfAborted();
      const reason = failureReason(error, config);
      throw new DomainError('CONFLICT', `Version ${imageVersion} could not be sealed anew and is as it was: ${reason}`);
    } finally {
      budget.release(share);
    }
  }

  /** New launches take the newest since it is on record, so who needs an earlier one can only become fewer. */
  async #prune(arn: string, imageVersion: string): Promise<void> {
    const { catalog, engine, holds, snapshotDir } = this.#o;
    using _hold = holds.take(versionId(arn, imageVersion));
    const used = await this.#used(arn, imageVersion);
    const { body: before } = await catalog.version(arn, imageVersion);
    const isKept = (snapshot: number) => snapshot === newestSnapshot(before) || used.has(snapshot);
    const gone = snapshotsOf(before).filter((snapshot) => !isKept(snapshot));
    if (gone.length === 0) return;
    await catalog.change(async () => {
      const seen = await catalog.version(arn, imageVersion);
      const snapshots = snapshotsOf(seen.body).filter((snapshot) => !gone.includes(snapshot));
      return { answer: undefined, writes: [catalog.saveVersion(seen, { ...seen.body, snapshots })] };
    });
    for (const snapshot of gone) await engine.deleteSnapshot(snapshotDir(before, snapshot));
    this.#o.log.info({ imageArn: arn, imageVersion, gone }, 'earlier snapshots removed');
  }

  async #used(group: string, subgroup: string): Promise<Set<number>> {
    const records = this.#o.store.records<unknown>('microvms');
    const used = new Set<number>();
    for (let afterId = ''; ; ) {
      const rows = await records.inStates(HOLDING_STATES, { afterId, limit: PAGE });
      for (const row of rows) {
        if (row.group === group && row.subgroup === subgroup) used.add(snapshotUsedBy(row.body));
      }
      const last = rows.at(-1);
      if (last === undefined || rows.length < PAGE) return used;
      afterId = last.id;
    }
  }

  async #tellFit(version: VersionRecord): Promise<void> {
    const { engine, snapshotDir, log } = this.#o;
    const { imageArn, imageName, version: imageVersion } = version;
    const fit = await engine.fit(snapshotDir(version, newestSnapshot(version)));
    if (fit.kind === 'fits') return;
    const command = `rekindle images reseal ${imageName}:${imageVersion}`;
    const fields = { imageArn, imageVersion, why: fit.why, command };
    if (fit.kind === 'misfit') log.warn(fields, 'a version cannot be launched on this host until it is sealed anew');
    else log.info(fields, 'a version would be better sealed anew');
  }
}

/** What is damaged has a next version made of it instead. @throws DomainError `CONFLICT` */
function demandSuccessful({ state, version }: VersionRecord): void {
  if (state === 'SUCCESSFUL') return;
  throw new DomainError('CONFLICT', `MicroVM Image version ${version} is in state: ${state}`);
}
