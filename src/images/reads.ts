/** What can be read of images, versions and builds, as views. */
import { DomainError } from '../lib/index.ts';
import { type Page, type PageKey, type PageTokens, type Row, readPage } from '../store/index.ts';
import type { BuildLogs } from './build-log.ts';
import type { Catalog } from './catalog.ts';
import type { BuildSummary, BuildView, ImageSummary, ImageView, PageRequest, VersionView } from './types.ts';
import { buildSummaryOf, buildViewOf, imageSummaryOf, imageViewOf, versionViewOf } from './views.ts';

export interface ImageReadsOptions {
  readonly catalog: Catalog;
  readonly pageTokens: PageTokens;
  readonly logs: BuildLogs;
  /** The ARN that a caller's identifier means. @throws DomainError `INVALID` */
  readonly check: (identifier: string) => string;
}

export class ImageReads {
  readonly #o: ImageReadsOptions;

  constructor(options: ImageReadsOptions) {
    this.#o = options;
  }

  async get(imageIdentifier: string): Promise<ImageView> {
    const row = await this.#o.catalog.image(this.#o.check(imageIdentifier));
    return imageViewOf(row.body);
  }

  /** The page is cut first and filtered afterwards, so it may be empty and still have a token (recorded). */
  async list(request: PageRequest & { readonly nameFilter?: string }): Promise<Page<ImageSummary>> {
    const { nameFilter = '' } = request;
    const page = await this.#page(
      request,
      `images ${nameFilter}`,
      (query) => this.#o.catalog.images.list(query),
      imageSummaryOf,
    );
    return { ...page, items: page.items.filter((image) => image.name.includes(nameFilter)) };
  }

  async getVersion(imageIdentifier: string, imageVersion: string): Promise<VersionView> {
    const row = await this.#o.catalog.version(this.#o.check(imageIdentifier), imageVersion);
    return versionViewOf(row.body);
  }

  async listVersions(imageIdentifier: string, request: PageRequest): Promise<Page<VersionView>> {
    const { id: group } = await this.#o.catalog.image(this.#o.check(imageIdentifier));
    const list = (query: { after?: PageKey; limit: number }) => this.#o.catalog.versions.list({ ...query, group });
    return this.#page(request, `versions ${group}`, list, versionViewOf);
  }

  async getBuild(imageIdentifier: string, imageVersion: string, buildId: string): Promise<BuildView> {
    const { body: version } = await this.#o.catalog.version(this.#o.check(imageIdentifier), imageVersion);
    const build = (await this.#o.catalog.builds.get(buildId))?.body;
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
    const { body: version } = await this.#o.catalog.version(this.#o.check(imageIdentifier), imageVersion);
    const { architecture, chipset, chipsetGeneration } = request;
    const keys = { group: version.imageArn, subgroup: imageVersion };
    const scope = `builds ${JSON.stringify([keys, architecture, chipset, chipsetGeneration])}`;
    const list = (query: { after?: PageKey; limit: number }) => this.#o.catalog.builds.list({ ...query, ...keys });
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
    const { body: version } = await this.#o.catalog.version(this.#o.check(imageIdentifier), imageVersion);
    yield* this.#o.logs.read(version.buildId, options);
  }

  #page<Body, Item>(
    request: PageRequest,
    scope: string,
    list: (query: { after?: PageKey; limit: number }) => Promise<readonly Row<Body>[]>,
    itemOf: (body: Body) => Item,
  ): Promise<Page<Item>> {
    return readPage(this.#o.pageTokens, request, scope, list, itemOf);
  }
}
