/** The upkeep of images on disk, behind the images room's door: what takes how much, what may go, versions as files. */
import type { Engine } from '../../engine/index.ts';
import { DomainError, Slots } from '../../lib/index.ts';
import type { VersionRecord } from '../lifecycle.ts';
import type { ProvenanceFacts } from '../provenance/facts.ts';
import { type Statement, spdxOf, statementOf } from '../provenance/statement.ts';
import type { CreateImageInput, UpdatedImageView } from '../types.ts';
import { type DiskUse, diskUse } from './disk-use.ts';
import { type ExportOptions, exportVersion } from './export.ts';
import { collectGarbage, type Garbage, type GarbageOptions, type GarbageRequest } from './garbage.ts';
import { type ImportRequest, stageImport } from './import.ts';
import type { Resealed, Reseals } from './reseal.ts';
import { newestSnapshot } from './snapshots.ts';

export interface Upkeep {
  /**
   * What takes how much disk: the whole state folder, or one image and its microVMs. @param arn of one image
   * @throws DomainError INVALID, DENIED, NOT_FOUND
   */
  diskUse(arn: string | undefined, options: { signal?: AbortSignal }): Promise<DiskUse>;
  /** One at a time; callers wait for each other. @throws DomainError INVALID */
  collectGarbage(request: GarbageRequest, options: { signal?: AbortSignal }): Promise<Garbage>;
  /**
   * A version as one file: its configuration and its root disk, not encrypted. @throws DomainError INVALID, DENIED, NOT_FOUND,
   * CONFLICT (it is being built, or has no whole root disk)
   */
  exportVersion(
    imageIdentifier: string,
    imageVersion: string,
    options: { signal?: AbortSignal },
  ): AsyncIterable<Buffer>;
  /**
   * Reads an exported file to its end and makes an image, or its next version, of it; its snapshot is sealed on this host
   * like that of any build. @throws DomainError INVALID, CONFLICT, QUOTA, CAPACITY, and what `accept` throws
   */
  importVersion(
    source: AsyncIterable<Buffer>,
    request: ImportRequest,
    options: { signal?: AbortSignal },
  ): Promise<UpdatedImageView>;
  /**
   * Makes a version's snapshot anew from the root disk it kept, for this host's VMM and kernel: same version, and the old
   * snapshot serves until the new one is there. Goes on when the caller goes. @throws DomainError INVALID, DENIED, NOT_FOUND,
   * CONFLICT (not SUCCESSFUL, being resealed, or it could not be sealed)
   */
  reseal(imageIdentifier: string, imageVersion: string, options: { ifNeeded: boolean }): Promise<Resealed>;
  /**
   * How a version came to be and what its snapshot is made of now: an in-toto statement, and its packages as an SPDX document.
   * @throws DomainError INVALID, DENIED, NOT_FOUND, CONFLICT (it is being built, or nothing is known)
   */
  provenance(imageIdentifier: string, imageVersion: string): Promise<Provenance>;
}

export interface Provenance {
  readonly statement: Statement;
  readonly packages: object;
}

export interface UpkeepOptions extends GarbageOptions, ExportOptions {
  readonly engine: Pick<Engine, 'keptDisk' | 'facts'>;
  /** @throws DomainError */
  readonly check: (imageIdentifier: string) => string;
  /** Writes the records of a version whose root disk was imported. @throws DomainError */
  readonly addImported: (input: CreateImageInput, importId: string) => Promise<UpdatedImageView>;
  readonly reseals: Pick<Reseals, 'reseal' | 'prune'>;
  readonly provenanceOf: (version: VersionRecord) => Promise<ProvenanceFacts | undefined>;
  readonly stopping: AbortSignal;
}

/** Each takes a core and the disk's attention. */
const AT_ONCE = 2;

export function createUpkeep(o: UpkeepOptions): Upkeep {
  const slots = new Slots(AT_ONCE);
  const bounded = (signal: AbortSignal | undefined) =>
    signal === undefined ? o.stopping : AbortSignal.any([signal, o.stopping]);
  let last: Promise<unknown> = Promise.resolve();
  return {
    diskUse: async (arn, { signal }) => diskUse(o, arn === undefined ? undefined : o.check(arn), bounded(signal)),
    collectGarbage: async (request, { signal }) => {
      const mine = last.then(async () => {
        if (!request.dryRun) await o.reseals.prune();
        return collectGarbage(o, request, bounded(signal));
      });
      last = mine.catch(() => {});
      return mine;
    },
    reseal: (imageIdentifier, imageVersion, options) =>
      o.reseals.reseal(o.check(imageIdentifier), imageVersion, options),
    provenance: async (imageIdentifier, imageVersion) => {
      const { body } = await o.catalog.version(o.check(imageIdentifier), imageVersion);
      return provenanceOf(o, body);
    },
    async *exportVersion(imageIdentifier, imageVersion, options) {
      const signal = bounded(options.signal);
      const { body } = await o.catalog.version(o.check(imageIdentifier), imageVersion);
      using _slot = await slots.acquire({ signal });
      yield* exportVersion(o, body, signal);
    },
    importVersion: async (source, request, options) => {
      const signal = bounded(options.signal);
      using _slot = await slots.acquire({ signal });
      await using staged = await stageImport(o, source, request, signal);
      const view = await o.addImported(staged.input, staged.importId);
      staged.keep();
      return view;
    },
  };
}

async function provenanceOf(o: UpkeepOptions, version: VersionRecord): Promise<Provenance> {
  const { version: number, state } = version;
  if (state !== 'SUCCESSFUL' && state !== 'FAILED') {
    throw new DomainError('CONFLICT', `MicroVM Image version ${number} is in state: ${state}`);
  }
  const [facts, snapshot] = await Promise.all([o.provenanceOf(version), o.engine.facts(o.snapshotDirOf(version))]);
  if (facts === undefined || snapshot === undefined) {
    const why = 'its build failed, it was made before that was kept, or its files are damaged';
    throw new DomainError('CONFLICT', `Nothing is known of how version ${number} came to be: ${why}.`);
  }
  const statement = statementOf(version, facts, { snapshot, number: newestSnapshot(version) });
  return { statement, packages: spdxOf(version, facts) };
}
