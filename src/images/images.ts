/**
 * The room behind its door: reading and writing of images, and the queue of builds. A create or update writes the records
 * and answers; the build runs in the order of the calls, a few at a time. Removal likewise (removal.ts).
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import type { Artifacts } from '../artifacts/index.ts';
import type { Connectors } from '../connectors/index.ts';
import { type Budget, type Engine, unboundedBudget } from '../engine/index.ts';
import {
  addTags,
  type Clock,
  DomainError,
  type Ids,
  type Logger,
  randomIds,
  removeTags,
  systemClock,
  type Tags,
} from '../lib/index.ts';
import type { Logs } from '../logs/index.ts';
import type { Store } from '../store/index.ts';
import { BuildLogs } from './build-log.ts';
import { BuildQueue } from './build-queue.ts';
import type { RoleSource } from './build-role.ts';
import { Catalog, type Change, type Changed, versionId } from './catalog.ts';
import { claimedOf, claimOf, earlierOf } from './claims.ts';
import { refuseDamaged, takeDamage } from './damage.ts';
import { checkImageArn, imageArn, type Owner } from './image-arn.ts';
import { imageUnused } from './in-use.ts';
import { imageMoved, imageUpdating, isBuilding, type VersionRecord, versionMoved } from './lifecycle.ts';
import { managedImages } from './managed.ts';
import { newImage, newVersion } from './new-records.ts';
import { type ProvenanceFacts, readFacts } from './provenance/facts.ts';
import { proveAhead } from './proving.ts';
import { type ImageQuotas, newImageConditions, newVersionConditions } from './quotas.ts';
import { ImageReads } from './reads.ts';
import { Removals } from './removal.ts';
import type {
  CreatedImageView,
  CreateImageInput,
  Images,
  LaunchableVersion,
  UpdatedImageView,
  UpdateImageInput,
  VersionConfig,
  VersionStatus,
  VersionView,
} from './types.ts';
import { Holds } from './upkeep/holds.ts';
import { sweepImports } from './upkeep/import.ts';
import { Reseals } from './upkeep/reseal.ts';
import { newestSnapshot, snapshotName } from './upkeep/snapshots.ts';
import { createUpkeep } from './upkeep/upkeep.ts';
import { busy, changeable, VersionChanges } from './version-changes.ts';
import { configOf, memoryMiBOf } from './version-config.ts';
import { createdViewOf, updatedViewOf } from './views.ts';

export interface ImagesOptions {
  readonly store: Store;
  readonly engine: Engine;
  readonly artifacts: Pick<Artifacts, 'fetchZip'>;
  readonly connectors: Pick<Connectors, 'requireActive' | 'egress' | 'egressDefaults'>;
  /** Undefined: no role has credentials. */
  readonly roles?: RoleSource | undefined;
  readonly stateDir: string;
  readonly region: string;
  readonly accountId: string;
  readonly log: Logger;
  /** Where builds log to, besides the files of their own. */
  readonly logs?: Pick<Logs, 'sink'>;
  readonly clock?: Clock;
  readonly ids?: Ids;
  /** Default 1: a build wants the whole machine. */
  readonly concurrentBuilds?: number;
  /** What the host can carry; default unbounded. */
  readonly budget?: Budget;
  /** Bounds the Dockerfile's run; default an hour. GUESS: build-time-limit */
  readonly buildTimeoutMs?: number;
  /** How long the machine of a build waits for its owner's next one; default not at all. */
  readonly builderKeepMs?: number;
  /** Default: none. */
  readonly quotas?: ImageQuotas;
}

export function createImages(options: ImagesOptions): Images {
  return new ImagesRoom(options);
}

class ImagesRoom implements Images {
  readonly managed: Images['managed'];
  readonly get: Images['get'];
  readonly list: Images['list'];
  readonly getVersion: Images['getVersion'];
  readonly listVersions: Images['listVersions'];
  readonly getBuild: Images['getBuild'];
  readonly listBuilds: Images['listBuilds'];
  readonly buildLog: Images['buildLog'];
  readonly upkeep: Images['upkeep'];
  readonly #holds = new Holds();
  readonly #stopping = new AbortController();
  readonly #o: ImagesOptions;
  readonly #owner: Owner;
  readonly #clock: Clock;
  readonly #ids: Ids;
  readonly #catalog: Catalog;
  readonly #versions: VersionChanges;
  readonly #logs: BuildLogs;
  readonly #queue: BuildQueue;
  readonly #removals: Removals;
  readonly #reseals: Reseals;
  readonly #damage: Disposable;

  constructor(options: ImagesOptions) {
    this.#o = options;
    this.#owner = { region: options.region, accountId: options.accountId };
    this.#clock = options.clock ?? systemClock;
    this.#ids = options.ids ?? randomIds;
    this.#catalog = new Catalog(options.store);
    this.#versions = new VersionChanges({
      catalog: this.#catalog,
      store: options.store,
      clock: this.#clock,
      log: options.log,
    });
    this.#logs = new BuildLogs(path.join(options.stateDir, 'logs', 'builds'), options.log);
    const common = {
      catalog: this.#catalog,
      engine: options.engine,
      logs: this.#logs,
      clock: this.#clock,
      log: options.log,
      snapshotDirOf: (version: VersionRecord) =>
        this.snapshotDir(version.imageArn, version.version, newestSnapshot(version)),
    };
    const budget = options.budget ?? unboundedBudget();
    const builder = {
      ...common,
      snapshotDirNow: async (arn: string, version: string) =>
        common.snapshotDirOf((await this.#catalog.version(arn, version)).body),
      provenanceNow: async (arn: string, version: string) =>
        this.#provenance((await this.#catalog.version(arn, version)).body),
      artifacts: options.artifacts,
      events: options.logs,
      connectors: options.connectors,
      roles: options.roles,
      region: options.region,
      accountId: options.accountId,
      stateDir: options.stateDir,
      workDir: path.join(options.stateDir, 'builds'),
      buildTimeoutMs: options.buildTimeoutMs ?? 3_600_000,
      builderKeepMs: options.builderKeepMs ?? 0,
      budget,
    };
    this.#queue = new BuildQueue({
      ...builder,
      concurrentBuilds: options.concurrentBuilds ?? 1,
    });
    this.#reseals = new Reseals({
      ...common,
      stateDir: options.stateDir,
      owner: this.#owner,
      store: options.store,
      holds: this.#holds,
      ids: this.#ids,
      budget,
      builder,
      stopping: this.#stopping.signal,
      snapshotDir: (version, snapshot) => this.snapshotDir(version.imageArn, version.version, snapshot),
    });
    this.#removals = new Removals({
      ...common,
      imageDir: (arn) => this.#imageDir(arn),
      cancelBuild: (buildId) => this.#queue.cancel(buildId),
    });
    this.managed = managedImages(options.region);
    const { pageTokens } = options.store;
    const check = (identifier: string) => this.#check(identifier);
    const reads = new ImageReads({ catalog: this.#catalog, pageTokens, logs: this.#logs, check });
    this.get = (image) => reads.get(image);
    this.list = (request) => reads.list(request);
    this.getVersion = (image, version) => reads.getVersion(image, version);
    this.listVersions = (image, request) => reads.listVersions(image, request);
    this.getBuild = (image, version, build) => reads.getBuild(image, version, build);
    this.listBuilds = (image, version, request) => reads.listBuilds(image, version, request);
    this.buildLog = (image, version, follow) => reads.buildLog(image, version, follow);
    this.upkeep = createUpkeep({
      stateDir: options.stateDir,
      owner: this.#owner,
      engine: options.engine,
      snapshotDirOf: common.snapshotDirOf,
      addImported: (input, importId) => this.#addImported(input, importId),
      reseals: this.#reseals,
      provenanceOf: (version) => this.#provenance(version),
      store: options.store,
      catalog: this.#catalog,
      holds: this.#holds,
      now: () => this.#clock.now(),
      check,
      deleteVersion: async (arn, version) => this.#removals.removeVersion(await this.#versions.deleting(arn, version)),
      stopping: this.#stopping.signal,
    });
    const known = { ...options, catalog: this.#catalog, clock: this.#clock, owner: this.#owner };
    this.#damage = options.engine.onDamage((damage) => void takeDamage(damage, known));
  }

  async start(): Promise<void> {
    await this.#queue.resume();
    await sweepImports(this.#o.stateDir, this.#catalog);
    await this.#reseals.recover();
    await this.#removals.resume();
  }

  proveAhead(): Promise<void> {
    return proveAhead({
      ...this.#o,
      catalog: this.#catalog,
      snapshotDirOf: async (arn) => (await this.resolve(arn)).snapshotDir,
      signal: this.#stopping.signal,
    });
  }

  async create(input: CreateImageInput): Promise<CreatedImageView> {
    const { name, tags = {}, clientToken: token, principal, ...rest } = input;
    const arn = imageArn(this.#owner, name);
    const at = this.#clock.now();
    const claim = claimOf(
      'CreateMicrovmImage',
      token,
      { ...rest, name, tags },
      versionId(arn, '1.0'),
      this.#clock.now(),
    );
    const earlier = await earlierOf(this.#o.store, this.#catalog, claim);
    if (earlier !== undefined) return createdViewOf(earlier.image, earlier.version);
    const config = await this.#configOf(rest, principal);
    const image = newImage(this.#ids, { arn, name, tags: addTags({}, tags), at });
    const next = newVersion(this.#ids, image, config, at, askedBy(principal));
    let isTaken = false;
    const result = await this.#recording(arn, async () => {
      // Only after the write was refused: a client token that was used meanwhile speaks first.
      if (isTaken && (await this.#catalog.images.get(arn)) !== undefined) {
        throw new DomainError('INVALID', `A MicroVM image with the name '${name}' already exists in this account`);
      }
      isTaken = true;
      return {
        answer: createdViewOf(image, next.version),
        conditions: newImageConditions(this.#o.quotas ?? {}, this.#catalog),
        writes: [this.#catalog.newImage(image), ...this.#catalog.newVersion(next)],
        claim,
      };
    });
    if (result.kind === 'claimed') {
      const first = await claimedOf(this.#catalog, claim, result.claim);
      return createdViewOf(first.image, first.version);
    }
    this.#announceBuild('image created', next.version);
    return result.answer;
  }

  async update(input: UpdateImageInput): Promise<UpdatedImageView> {
    const { imageIdentifier, clientToken: token, principal, ...rest } = input;
    const arn = this.#check(imageIdentifier);
    const claimFor = (version: string) =>
      claimOf('UpdateMicrovmImage', token, { ...rest, imageIdentifier }, versionId(arn, version), this.#clock.now());
    const earlier = await earlierOf(this.#o.store, this.#catalog, claimFor(''));
    if (earlier !== undefined) return updatedViewOf(earlier.image, earlier.version);
    const config = await this.#configOf(rest, principal);
    const result = await this.#recording(arn, async () => {
      const seen = await this.#catalog.image(arn);
      const at = this.#clock.now();
      const image = imageUpdating(seen.body, at);
      if (image === undefined) {
        const first = await earlierOf(this.#o.store, this.#catalog, claimFor(''));
        if (first === undefined) throw busy(seen.body);
        return { answer: { ...first, isNew: false }, writes: [] };
      }
      const next = newVersion(this.#ids, image, config, at, askedBy(principal));
      return {
        answer: { image, version: next.version, isNew: true },
        conditions: newVersionConditions(this.#o.quotas ?? {}, this.#catalog, arn),
        writes: [this.#catalog.saveImage(seen, image), ...this.#catalog.newVersion(next)],
        claim: claimFor(next.version.version),
      };
    });
    if (result.kind === 'claimed') {
      const first = await claimedOf(this.#catalog, claimFor(''), result.claim);
      return updatedViewOf(first.image, first.version);
    }
    const { image, version, isNew } = result.answer;
    if (isNew) this.#announceBuild('image updating', version);
    return updatedViewOf(image, version);
  }

  async rebuild(imageIdentifier: string, imageVersion: string): Promise<UpdatedImageView> {
    const arn = this.#check(imageIdentifier);
    const result = await this.#recording(arn, async () => {
      const seen = await changeable(this.#catalog, arn);
      const { body: from } = await this.#catalog.version(arn, imageVersion);
      if (from.state !== 'SUCCESSFUL' && from.state !== 'FAILED') {
        throw new DomainError('CONFLICT', `MicroVM Image version ${imageVersion} is in state: ${from.state}`);
      }
      const at = this.#clock.now();
      const image = imageUpdating(seen.body, at);
      if (image === undefined) throw busy(seen.body);
      const origin = { ...askedBy(from.principal), rebuildOf: imageVersion };
      const next = newVersion(this.#ids, image, from.config, at, origin);
      return {
        answer: { image, version: next.version },
        conditions: newVersionConditions(this.#o.quotas ?? {}, this.#catalog, arn),
        writes: [this.#catalog.saveImage(seen, image), ...this.#catalog.newVersion(next)],
      };
    });
    assert(result.kind === 'done');
    const { image, version } = result.answer;
    this.#announceBuild('image rebuilding', version);
    return updatedViewOf(image, version);
  }

  /** Asked again while DELETING it answers the same, as the model calls it idempotent. GUESS: delete-again */
  async delete(imageIdentifier: string): Promise<{ imageIdentifier: string; state: 'DELETING' }> {
    const arn = this.#check(imageIdentifier);
    const answer = { imageIdentifier: arn, state: 'DELETING' } as const;
    if ((await this.#catalog.image(arn)).body.state === 'DELETING') return answer;
    await this.#catalog.change(async () => {
      const seen = await this.#catalog.image(arn);
      const at = this.#clock.now();
      const image = imageMoved(seen.body, 'delete', at);
      const all = await this.#catalog.versionsOf(arn);
      // A build is called off; a version that is being deleted is not interfered with.
      const isFree = seen.body.state !== 'UPDATING' || all.some(({ body }) => isBuilding(body));
      if (image === undefined || !isFree) {
        throw new DomainError('INVALID', `Cannot delete MicroVM image in its current state: ${seen.body.state}`);
      }
      const versions = all.flatMap((row) => {
        const version = versionMoved(row.body, 'delete', at);
        return version === undefined ? [] : [this.#catalog.saveVersion(row, version)];
      });
      return {
        answer,
        conditions: [imageUnused(this.#o.store, arn)],
        writes: [this.#catalog.saveImage(seen, image), ...versions],
      };
    });
    this.#o.log.info({ imageArn: arn }, 'image being deleted');
    this.#removals.removeImage(arn);
    return answer;
  }

  async tags(imageIdentifier: string): Promise<Tags> {
    return (await this.#catalog.image(this.#check(imageIdentifier))).body.tags;
  }

  tag(imageIdentifier: string, tags: Tags): Promise<void> {
    return this.#retag(imageIdentifier, (now) => addTags(now, tags));
  }

  untag(imageIdentifier: string, keys: readonly string[]): Promise<void> {
    return this.#retag(imageIdentifier, (now) => removeTags(now, keys));
  }

  updateVersion(imageIdentifier: string, imageVersion: string, status: VersionStatus): Promise<VersionView> {
    return this.#versions.setStatus(this.#check(imageIdentifier), imageVersion, status);
  }

  async deleteVersion(
    imageIdentifier: string,
    imageVersion: string,
  ): Promise<{ imageIdentifier: string; imageVersion: string; state: 'DELETING' }> {
    const arn = this.#check(imageIdentifier);
    void this.#removals.removeVersion(await this.#versions.deleting(arn, imageVersion));
    return { imageIdentifier: arn, imageVersion, state: 'DELETING' };
  }

  /** By the version alone: an image in UPDATE_FAILED can still be launched. GUESS: launch-beside-failed-update */
  async resolve(imageIdentifier: string, imageVersion?: string): Promise<LaunchableVersion> {
    const arn = checkImageArn(this.#owner, imageIdentifier, 'run');
    const image = (await this.#catalog.images.get(arn))?.body;
    const wanted = imageVersion ?? image?.latestActiveVersion ?? null;
    const row = wanted === null ? undefined : await this.#catalog.versions.get(versionId(arn, wanted));
    const version = row?.body;
    await refuseDamaged(this.#catalog, row);
    if (
      row === undefined ||
      image?.state === 'DELETING' ||
      version?.state !== 'SUCCESSFUL' ||
      version.status !== 'ACTIVE'
    ) {
      const which = imageVersion === undefined ? '' : ` and version ${imageVersion}`;
      throw new DomainError('NOT_FOUND', `No active version found for MicroVM image ${arn}${which}`);
    }
    return {
      imageArn: arn,
      imageVersion: version.version,
      snapshotDir: this.snapshotDir(arn, version.version, newestSnapshot(version)),
      ...(version.snapshots !== undefined && { snapshot: newestSnapshot(version) }),
      memoryMiB: memoryMiBOf(version.config),
      hooks: version.config.hooks,
      egressNetworkConnectors: version.config.egressNetworkConnectors,
      unchanged: this.#catalog.versions.unchanged(row),
    };
  }

  snapshotDir(arn: string, version: string, snapshot = 1): string {
    return path.join(this.#imageDir(arn), version, snapshotName(snapshot));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort(new Error('the server is stopping'));
    this.#damage[Symbol.dispose]();
    await Promise.all([
      this.#queue[Symbol.asyncDispose](),
      this.#removals[Symbol.asyncDispose](),
      this.#reseals[Symbol.asyncDispose](),
    ]);
  }

  /** Undefined when nothing is known. */
  #provenance({ imageArn, version, provenance }: VersionRecord): Promise<ProvenanceFacts | undefined> {
    return readFacts(path.join(this.#imageDir(imageArn), version), provenance);
  }

  #imageDir(arn: string): string {
    return path.join(this.#o.stateDir, 'images', arn.slice(arn.lastIndexOf(':') + 1));
  }

  async #configOf(input: Parameters<typeof configOf>[1], principal: string | undefined): Promise<VersionConfig> {
    const config = configOf(this.#o.region, input, this.#o.connectors.egressDefaults());
    this.#o.roles?.demandPass(config.buildRoleArn, principal);
    await this.#o.connectors.requireActive(config.egressNetworkConnectors);
    return config;
  }

  #announceBuild(what: string, version: VersionRecord): void {
    const { imageArn: arn, version: imageVersion, buildId } = version;
    this.#o.log.info({ imageArn: arn, imageVersion, buildId }, what);
    this.#queue.add(version);
  }

  /** The image with its first version, or the next version of the one there is, made of what was imported. */
  async #addImported(input: CreateImageInput, importId: string): Promise<UpdatedImageView> {
    const { name, principal, tags: _tags, clientToken: _token, ...rest } = input;
    const arn = imageArn(this.#owner, name);
    const config = await this.#configOf(rest, principal);
    const origin = { ...askedBy(principal), importId };
    const result = await this.#recording(arn, async () => {
      const seen = await this.#catalog.images.get(arn);
      const at = this.#clock.now();
      const image =
        seen === undefined ? newImage(this.#ids, { arn, name, tags: {}, at }) : imageUpdating(seen.body, at);
      if (seen !== undefined && image === undefined) throw busy(seen.body);
      assert(image);
      const next = newVersion(this.#ids, image, config, at, origin);
      const quotas = this.#o.quotas ?? {};
      return {
        answer: { image, version: next.version },
        conditions:
          seen === undefined
            ? newImageConditions(quotas, this.#catalog)
            : newVersionConditions(quotas, this.#catalog, arn),
        writes: [
          seen === undefined ? this.#catalog.newImage(image) : this.#catalog.saveImage(seen, image),
          ...this.#catalog.newVersion(next),
        ],
      };
    });
    assert(result.kind === 'done', 'there was no client token');
    const { image, version } = result.answer;
    this.#announceBuild('version imported', version);
    return updatedViewOf(image, version);
  }

  /** Writes records of a name or number that was free: what is left under it from before is not cleared away meanwhile. */
  #recording<T>(arn: string, decide: () => Promise<Change<T>>): Promise<Changed<T>> {
    return this.#holds.withImage(arn, () => this.#catalog.change(decide));
  }

  async #retag(imageIdentifier: string, change: (tags: Tags) => Tags): Promise<void> {
    const arn = this.#check(imageIdentifier);
    await this.#catalog.change(async () => {
      const seen = await this.#catalog.image(arn);
      const image = { ...seen.body, tags: change(seen.body.tags) };
      return { answer: undefined, writes: [this.#catalog.saveImage(seen, image)] };
    });
  }

  #check(identifier: string): string {
    return checkImageArn(this.#owner, identifier, 'image');
  }
}

function askedBy(principal: string | undefined): Pick<VersionRecord, 'principal'> {
  return principal === undefined ? {} : { principal };
}
