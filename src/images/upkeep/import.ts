/**
 * A version from a file: staged under `imports/<id>` and proven chunk by chunk; only when all of it is there and whole are
 * records written, PENDING like any build, and the queue seals a snapshot from the imported root disk on this host.
 *
 * Invariant: an import that ends early leaves nothing, whoever ends it; at start goes what no record waits for.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, open, readFile, rm, statfs, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { BuiltDisk } from '../../engine/index.ts';
import { ARCHIVE_CHUNK_BYTES, type ArchiveReader, DomainError, readArchive } from '../../lib/index.ts';
import type { Catalog } from '../catalog.ts';
import { imageArn, type Owner } from '../image-arn.ts';
import type { ProvenanceFacts } from '../provenance/facts.ts';
import type { CreateImageInput } from '../types.ts';
import { CONFIG_MEMBERS, createBody, DISK_PART, type Exported, readAbout } from './exported.ts';
import type { Holds } from './holds.ts';
import { namesIn } from './space.ts';
import { IMPORTS_DIR } from './unowned.ts';

export interface ImportRequest {
  /** Default: as it was exported. */
  readonly name?: string | undefined;
  /** In place of the connectors it was exported with. */
  readonly egressNetworkConnectors?: readonly string[] | undefined;
  /** SHA-256 of the archive's manifest, in hexadecimal: the caller's word for what is in it. */
  readonly manifestDigest: string;
  /**
   * Checks the body of a CreateMicrovmImage that the file comes to, and that the caller may send it. @throws whatever the
   * caller is to be told
   */
  readonly accept: (body: Readonly<Record<string, unknown>>, imageArn: string) => Promise<CreateImageInput>;
}

export interface ImportOptions {
  readonly stateDir: string;
  readonly owner: Owner;
  readonly holds: Holds;
}

export interface Staged extends AsyncDisposable {
  readonly importId: string;
  readonly input: CreateImageInput;
  /** It has a record now. */
  keep(): void;
}

const BUILT_NAME = 'import.json';

interface Kept extends Pick<Exported, 'built'> {
  readonly provenance: ProvenanceFacts | undefined;
}

/** What the host keeps beside an import: the snapshot that is sealed from it needs room too. */
const SPARE_BYTES = 2 * 1024 ** 3;

/** Reads all of `source`. @throws DomainError `INVALID`, `CAPACITY`; what `accept` throws */
export async function stageImport(
  { stateDir, owner, holds }: ImportOptions,
  source: AsyncIterable<Buffer>,
  request: ImportRequest,
  signal: AbortSignal,
): Promise<Staged> {
  const reader = await readArchive(source);
  if (reader.head.digest !== request.manifestDigest) {
    throw new DomainError('INVALID', 'The file is not the one that was announced: its manifest has another digest.');
  }
  const exported = readAbout(reader.head.about);
  const body = bodyOf(exported, owner, request);
  const input = await request.accept(body, imageArn(owner, String(body.name)));
  const importId = randomUUID();
  const dir = path.join(stateDir, IMPORTS_DIR, importId);
  await using stack = new AsyncDisposableStack();
  stack.use(holds.take(importId));
  let isKept = false;
  stack.defer(async () => {
    if (!isKept) await rm(dir, { recursive: true, force: true });
  });
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await demandRoom(dir, reader);
  await writeDisk(path.join(dir, DISK_PART), reader, signal);
  const kept: Kept = { built: exported.built, provenance: provenanceOf(exported) };
  await writeFile(path.join(dir, BUILT_NAME), JSON.stringify(kept), { mode: 0o600, flush: true });
  const owned = stack.move();
  return {
    importId,
    input,
    keep: () => {
      isKept = true;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** What a version is made of that was imported. @throws DomainError `NOT_FOUND` */
export async function importedDisk(
  stateDir: string,
  importId: string,
): Promise<{ disk: BuiltDisk; provenance: ProvenanceFacts | undefined }> {
  const dir = path.join(stateDir, IMPORTS_DIR, importId);
  try {
    const { built, provenance } = JSON.parse(await readFile(path.join(dir, BUILT_NAME), 'utf8')) as Kept;
    return { disk: { ...built, diskPath: path.join(dir, DISK_PART) }, provenance };
  } catch (cause) {
    throw new DomainError('NOT_FOUND', 'What was imported is gone: import the file again.', { cause });
  }
}

/** Its build is over. */
export async function forgetImport(stateDir: string, importId: string): Promise<void> {
  await rm(path.join(stateDir, IMPORTS_DIR, importId), { recursive: true, force: true });
}

/** At start: removes what imports left that were cut off. */
export async function sweepImports(stateDir: string, catalog: Catalog): Promise<void> {
  for (const importId of await namesIn(path.join(stateDir, IMPORTS_DIR))) {
    if (!(await catalog.importing(importId))) await forgetImport(stateDir, importId);
  }
}

/** With the step that it takes now. */
function provenanceOf({ provenance, from, imageName, imageVersion }: Exported): ProvenanceFacts | undefined {
  if (provenance === undefined) return undefined;
  return { ...provenance, steps: [...provenance.steps, { kind: 'imported', from, imageName, imageVersion }] };
}

function bodyOf(exported: Exported, owner: Owner, request: ImportRequest): Record<string, unknown> {
  const unknown = Object.keys(exported.config).find((member) => !Object.hasOwn(CONFIG_MEMBERS, member));
  if (unknown !== undefined) {
    const what = JSON.stringify(unknown.slice(0, 100));
    throw new DomainError('INVALID', `The file cannot be imported: its configuration has the unknown member ${what}.`);
  }
  const { name = exported.imageName, egressNetworkConnectors } = request;
  return { ...createBody(exported, owner), name, ...(egressNetworkConnectors && { egressNetworkConnectors }) };
}

async function demandRoom(dir: string, { head }: ArchiveReader): Promise<void> {
  const needed = head.parts.reduce((sum, { chunks }) => sum + chunks.length * ARCHIVE_CHUNK_BYTES, 0);
  const { bsize, bavail } = await statfs(dir);
  if (bsize * bavail >= 2 * needed + SPARE_BYTES) return;
  const mib = (bytes: number) => Math.ceil(bytes / 1024 ** 2);
  const text = `Importing takes ${mib(2 * needed + SPARE_BYTES)} MiB on the server's disk, of which ${mib(bsize * bavail)} are free.`;
  throw new DomainError('CAPACITY', text);
}

async function writeDisk(file: string, reader: ArchiveReader, signal: AbortSignal): Promise<void> {
  const [part, more] = reader.head.parts;
  if (part?.name !== DISK_PART || more !== undefined || part.bytes === 0) {
    throw new DomainError('INVALID', 'The file cannot be imported: its only part must be a disk.');
  }
  await using disk = await open(file, 'wx', 0o600);
  try {
    await disk.truncate(part.bytes);
    for await (const { at, data } of reader.chunks()) {
      signal.throwIfAborted();
      const { bytesWritten } = await disk.write(data, 0, data.length, at);
      if (bytesWritten < data.length) throw full();
    }
    await disk.datasync();
  } catch (error) {
    const isFull = error instanceof Error && 'code' in error && (error.code === 'ENOSPC' || error.code === 'EDQUOT');
    throw isFull ? full() : error;
  }
}

function full(): DomainError {
  return new DomainError('CAPACITY', "The server's disk is full.");
}
