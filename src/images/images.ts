/**
 * The room behind its door: reading and writing of images, and the queue of builds. A create writes the records and
 * answers; the build runs in the order of the calls, a few at a time.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import type { Artifacts } from '../artifacts/index.ts';
import type { Engine } from '../engine/index.ts';
import {
  type Clock,
  DomainError,
  type Ids,
  type Logger,
  messageOf,
  randomIds,
  Slots,
  systemClock,
} from '../lib/index.ts';
import { type Claim, fingerprintOf, type Page, type PageKey, type Row, readPage, type Store } from '../store/index.ts';
import { BuildLogs } from './build-log.ts';
import { runBuild } from './builder.ts';
import { Catalog } from './catalog.ts';
import { failureReason, INTERRUPTED } from './failure-reason.ts';
import { checkImageArn, imageArn, type Owner } from './image-arn.ts';
import type { BuildRecord, ImageRecord, VersionRecord } from './lifecycle.ts';
import { managedImages } from './managed.ts';
import type {
  BuildSummary,
  BuildView,
  CreatedImageView,
  CreateImageInput,
  ImageSummary,
  Images,
  ImageView,
  LaunchableVersion,
  PageRequest,
  VersionView,
} from './types.ts';
import { configOf, memoryMiBOf } from './version-config.ts';
import { buildSummaryOf, buildViewOf, createdViewOf, imageSummaryOf, imageViewOf, versionViewOf } from './views.ts';

export interface ImagesOptions {
  readonly store: Store;
  readonly engine: Engine;
  readonly artifacts: Pick<Artifacts, 'fetchZip'>;
  readonly stateDir: string;
  readonly region: string;
  readonly accountId: string;
  readonly log: Logger;
  readonly clock?: Clock;
  readonly ids?: Ids;
  /** Default 1: a build wants the whole machine. */
  readonly concurrentBuilds?: number;
  /** Bounds the Dockerfile's run; default an hour. GUESS: build-time-limit */
  readonly buildTimeoutMs?: number;
}

/** Listed in this order. Source: recorded. */
const GENERATIONS = ['4', '3'] as const;
const CREATE_SCOPE = 'CreateMicrovmImage';

export function createImages(options: ImagesOptions): Images {
  return new ImagesRoom(options);
}

class ImagesRoom implements Images {
  readonly managed: Images['managed'];
  readonly #o: ImagesOptions;
  readonly #owner: Owner;
  readonly #clock: Clock;
  readonly #ids: Ids;
  readonly #catalog: Catalog;
  readonly #logs: BuildLogs;
  readonly #slots: Slots;
  readonly #stop = new AbortController();
  readonly #running = new Set<Promise<void>>();

  constructor(options: ImagesOptions) {
    this.#o = options;
    this.#owner = { region: options.region, accountId: options.accountId };
    this.#clock = options.clock ?? systemClock;
    this.#ids = options.ids ?? randomIds;
    this.#catalog = new Catalog(options.store);
    this.#logs = new BuildLogs(path.join(options.stateDir, 'logs', 'builds'), options.log);
    this.#slots = new Slots(options.concurrentBuilds ?? 1);
    this.managed = managedImages(options.region);
  }

  async start(): Promise<void> {
    for (const version of await this.#catalog.versionsIn(['IN_PROGRESS'])) {
      const failed = { type: 'failed', reason: INTERRUPTED, codeBytes: null } as const;
      await this.#catalog.record(version.imageArn, version.version, failed, this.#clock.now());
      const snapshotDir = this.#snapshotDirOf(version);
      await this.#o.engine.deleteSnapshot(snapshotDir);
      await rm(path.dirname(snapshotDir), { recursive: true, force: true });
    }
    await rm(this.#workDir, { recursive: true, force: true });
    for (const version of await this.#catalog.versionsIn(['PENDING'])) this.#enqueue(version);
  }

  async create(input: CreateImageInput): Promise<CreatedImageView> {
    const claim = this.#claimFor(input);
    const earlier = claim && (await this.#o.store.findClaim(claim.scope, claim.token));
    if (claim && earlier) return this.#replay(claim, earlier);
    const { image, version, builds } = this.#firstVersion(input);
    const result = await this.#catalog.create(image, version, builds, claim);
    if (result.kind === 'claimed' && claim) return this.#replay(claim, result.claim);
    if (result.kind === 'conflict') {
      throw new DomainError('INVALID', `A MicroVM image with the name '${input.name}' already exists in this account`);
    }
    this.#o.log.info({ imageArn: image.arn, imageVersion: version.version, buildId: version.buildId }, 'image created');
    this.#enqueue(version);
    return createdViewOf(image, version);
  }

  async get(imageIdentifier: string): Promise<ImageView> {
    const row = await this.#catalog.image(this.#check(imageIdentifier));
    return imageViewOf(row.body);
  }

  /** The page is cut first and filtered afterwards, so it may be empty and still have a token (recorded). */
  async list(request: PageRequest & { readonly nameFilter?: string }): Promise<Page<ImageSummary>> {
    const { nameFilter = '' } = request;
    const page = await this.#page(
      request,
      `images ${nameFilter}`,
      (query) => this.#catalog.images.list(query),
      imageSummaryOf,
    );
    return { ...page, items: page.items.filter((image) => image.name.includes(nameFilter)) };
  }

  async getVersion(imageIdentifier: string, imageVersion: string): Promise<VersionView> {
    const row = await this.#catalog.version(this.#check(imageIdentifier), imageVersion);
    return versionViewOf(row.body);
  }

  async listVersions(imageIdentifier: string, request: PageRequest): Promise<Page<VersionView>> {
    const { id: group } = await this.#catalog.image(this.#check(imageIdentifier));
    const list = (query: { after?: PageKey; limit: number }) => this.#catalog.versions.list({ ...query, group });
    return this.#page(request, `versions ${group}`, list, versionViewOf);
  }

  async getBuild(imageIdentifier: string, imageVersion: string, buildId: string): Promise<BuildView> {
    const { body: version } = await this.#catalog.version(this.#check(imageIdentifier), imageVersion);
    const build = (await this.#catalog.builds.get(buildId))?.body;
    if (build?.imageArn === version.imageArn && build.version === imageVersion) return buildViewOf(build);
    // GUESS: unknown-build-text
    throw new DomainError(
      'NOT_FOUND',
      `MicroVMImage build not found for MicroVMImage: ${version.imageArn}, Version: ${imageVersion}, Build: ${buildId}`,
    );
  }

  async listBuilds(
    imageIdentifier: string,
    imageVersion: string,
    request: PageRequest & { architecture?: string; chipset?: string; chipsetGeneration?: string },
  ): Promise<Page<BuildSummary>> {
    const { body: version } = await this.#catalog.version(this.#check(imageIdentifier), imageVersion);
    const { architecture, chipset, chipsetGeneration } = request;
    const keys = { group: version.imageArn, subgroup: imageVersion };
    const scope = `builds ${JSON.stringify([keys, architecture, chipset, chipsetGeneration])}`;
    const list = (query: { after?: PageKey; limit: number }) => this.#catalog.builds.list({ ...query, ...keys });
    const page = await this.#page(request, scope, list, buildSummaryOf);
    const fits = (build: BuildSummary) =>
      (architecture === undefined || build.architecture === architecture) &&
      (chipset === undefined || build.chipset === chipset) &&
      (chipsetGeneration === undefined || build.chipsetGeneration === chipsetGeneration);
    return { ...page, items: page.items.filter(fits) };
  }

  async *buildLog(
    imageIdentifier: string,
    imageVersion: string,
    options: { follow?: boolean; signal?: AbortSignal },
  ): AsyncIterable<Buffer> {
    const { body: version } = await this.#catalog.version(this.#check(imageIdentifier), imageVersion);
    yield* this.#logs.read(version.buildId, options);
  }

  /** By the version alone: an image in UPDATE_FAILED can still be launched. GUESS: launch-beside-failed-update */
  async resolve(imageIdentifier: string, imageVersion?: string): Promise<LaunchableVersion> {
    const arn = checkImageArn(this.#owner, imageIdentifier, 'run');
    const image = (await this.#catalog.images.get(arn))?.body;
    const wanted = imageVersion ?? image?.latestActiveVersion ?? null;
    const version = wanted === null ? undefined : (await this.#catalog.versions.get(`${arn}#${wanted}`))?.body;
    if (image?.state === 'DELETING' || version?.state !== 'SUCCESSFUL' || version.status !== 'ACTIVE') {
      const which = imageVersion === undefined ? '' : ` and version ${imageVersion}`;
      throw new DomainError('NOT_FOUND', `No active version found for MicroVM image ${arn}${which}`);
    }
    return {
      imageArn: arn,
      imageVersion: version.version,
      snapshotDir: this.#snapshotDirOf(version),
      memoryMiB: memoryMiBOf(version.config),
      hooks: version.config.hooks,
      egressNetworkConnectors: version.config.egressNetworkConnectors,
    };
  }

  snapshotDir(arn: string, version: string): string {
    const name = arn.slice(arn.lastIndexOf(':') + 1);
    return path.join(this.#o.stateDir, 'images', name, version, 'snapshot');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error('the server is stopping'));
    await Promise.allSettled([...this.#running]);
  }

  get #workDir(): string {
    return path.join(this.#o.stateDir, 'builds');
  }

  #snapshotDirOf(version: VersionRecord): string {
    return this.snapshotDir(version.imageArn, version.version);
  }

  #enqueue(version: VersionRecord): void {
    this.#logs.expect(version.buildId);
    const build = this.#build(version).catch((error: unknown) => this.#giveUp(version, error));
    this.#running.add(build);
    void build.finally(() => this.#running.delete(build));
  }

  /** What should not happen (no room for the log, say) still ends the build. */
  async #giveUp(version: VersionRecord, error: unknown): Promise<void> {
    this.#logs.end(version.buildId);
    if (this.#stop.signal.aborted) return;
    const log = this.#o.log.child({ buildId: version.buildId });
    log.error({ error: messageOf(error) }, 'a build could not be carried out');
    const failed = { type: 'failed', reason: failureReason(error, version.config), codeBytes: null } as const;
    try {
      await this.#catalog.record(version.imageArn, version.version, failed, this.#clock.now());
    } catch (again) {
      log.error({ error: messageOf(again) }, 'nor could its failure be kept; the next start does that');
    }
  }

  async #build(version: VersionRecord): Promise<void> {
    const { imageArn: arn, version: number } = version;
    const { signal } = this.#stop;
    using _slot = await this.#slots.acquire({ signal });
    if (!(await this.#catalog.record(arn, number, { type: 'started' }, this.#clock.now()))) {
      this.#logs.end(version.buildId);
      return;
    }
    // Disposed last, so that who followed the log finds the outcome written.
    await using buildLog = await this.#logs.writer(version.buildId);
    const startedMs = this.#clock.monotonicMs();
    const outcome = await runBuild(
      {
        engine: this.#o.engine,
        artifacts: this.#o.artifacts,
        clock: this.#clock,
        log: this.#o.log,
        region: this.#o.region,
        accountId: this.#o.accountId,
        workDir: this.#workDir,
        snapshotDirOf: (record) => this.#snapshotDirOf(record),
        buildTimeoutMs: this.#o.buildTimeoutMs ?? 3_600_000,
      },
      version,
      buildLog,
      signal,
    );
    const event =
      outcome.kind === 'succeeded'
        ? ({ type: 'succeeded', sizes: outcome.sizes } as const)
        : ({ type: 'failed', reason: outcome.reason, codeBytes: outcome.codeBytes } as const);
    await this.#catalog.record(arn, number, event, this.#clock.now());
    this.#o.log.info(
      {
        imageArn: arn,
        imageVersion: number,
        outcome: outcome.kind,
        tookMs: Math.round(this.#clock.monotonicMs() - startedMs),
      },
      'build ended',
    );
  }

  #firstVersion(input: CreateImageInput): { image: ImageRecord; version: VersionRecord; builds: BuildRecord[] } {
    const { name, tags, clientToken: _token, ...rest } = input;
    const config = configOf(this.#o.region, rest);
    const arn = imageArn(this.#owner, name);
    const at = this.#clock.now();
    const builds = GENERATIONS.map(
      (chipsetGeneration): BuildRecord => ({
        buildId: this.#ids.uuid(),
        imageArn: arn,
        version: '1.0',
        chipsetGeneration,
        state: 'PENDING',
        createdAt: at,
      }),
    );
    const [{ buildId } = { buildId: '' }] = builds;
    return {
      image: {
        arn,
        id: this.#ids.uuid(),
        name,
        state: 'CREATING',
        latestActiveVersion: null,
        latestFailedVersion: null,
        lastMajor: 1,
        tags: tags ?? {},
        createdAt: at,
        updatedAt: at,
      },
      version: {
        imageArn: arn,
        imageName: name,
        version: '1.0',
        config,
        buildId,
        state: 'PENDING',
        createdAt: at,
        updatedAt: at,
      },
      builds,
    };
  }

  #claimFor(input: CreateImageInput): Claim | undefined {
    const { clientToken: token, ...parameters } = input;
    if (token === undefined) return undefined;
    const fingerprint = fingerprintOf(parameters);
    const resource = imageArn(this.#owner, input.name);
    return { scope: CREATE_SCOPE, token, fingerprint, resource, createdAt: this.#clock.now() };
  }

  async #replay(asked: Claim, earlier: Claim): Promise<CreatedImageView> {
    if (asked.fingerprint !== earlier.fingerprint) {
      throw new DomainError('CONFLICT', 'The clientToken was already used with different parameters.');
    }
    const [image, version] = [
      await this.#catalog.image(earlier.resource),
      await this.#catalog.version(earlier.resource, '1.0'),
    ];
    return createdViewOf(image.body, version.body);
  }

  #check(identifier: string): string {
    return checkImageArn(this.#owner, identifier, 'image');
  }

  #page<Body, Item>(
    request: PageRequest,
    scope: string,
    list: (query: { after?: PageKey; limit: number }) => Promise<readonly Row<Body>[]>,
    itemOf: (body: Body) => Item,
  ): Promise<Page<Item>> {
    return readPage(this.#o.store.pageTokens, request, scope, list, itemOf);
  }
}
