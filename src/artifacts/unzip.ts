/**
 * Unpacks a zip under guard: the whole directory is checked first (zip-plan.ts), then folders, files and at last links are
 * written, so that no write can go through a link.
 *
 * Invariant: the target folder holds the whole archive, or does not exist.
 */
import { constants } from 'node:fs';
import { chmod, mkdir, open, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { type Entry, fromFdPromise, type ZipFile } from 'yauzl';
import { messageOf } from '../lib/index.ts';
import { ArtifactError, invalid } from './errors.ts';
import { checkLinks } from './zip-links.ts';
import { DEFAULT_UNZIP_LIMITS, type PlannedEntry, planZip, type UnzipLimits, type ZipPlan } from './zip-plan.ts';

export interface UnzipOptions {
  readonly limits?: UnzipLimits;
  readonly signal?: AbortSignal | undefined;
  /** Told how much is about to be written; what it throws keeps it from being. */
  readonly admit?: (bytes: number) => void;
}

/**
 * Unpacks the archive behind `fd` (which stays open) into `toDir`, which must not exist yet.
 * @throws ArtifactError `archive-invalid`, `archive-too-large`, `dockerfile-missing`; the signal's reason; what `admit` throws
 */
export async function unzip(fd: number, toDir: string, options: UnzipOptions = {}): Promise<void> {
  const zip = await openZip(fd);
  const plan = await readPlan(zip, options.limits ?? DEFAULT_UNZIP_LIMITS);
  // A link is none: it may lead to anything, and BuildKit is given the file alone.
  if (plan.entries.get('Dockerfile')?.kind !== 'file') {
    throw new ArtifactError('dockerfile-missing', 'The code artifact has no file named Dockerfile at its root.');
  }
  options.admit?.(plan.totalBytes);
  await mkdir(toDir);
  try {
    await write(zip, plan, toDir, options.signal);
  } catch (error) {
    await rm(toDir, { recursive: true, force: true });
    throw error;
  }
}

async function openZip(fd: number): Promise<ZipFile> {
  try {
    // Names are checked in the plan, with a message of ours; the descriptor belongs to the caller.
    return await fromFdPromise(fd, { autoClose: false, validateEntrySizes: true });
  } catch (error) {
    throw invalid('its directory is missing or damaged', error);
  }
}

async function readPlan(zip: ZipFile, limits: UnzipLimits): Promise<ZipPlan> {
  try {
    return await planZip(zip, limits);
  } catch (error) {
    throw error instanceof ArtifactError ? error : invalid(messageOf(error), error);
  }
}

async function write(zip: ZipFile, plan: ZipPlan, toDir: string, signal: AbortSignal | undefined): Promise<void> {
  const entries = [...plan.entries.values()];
  const links = new Map<string, string>();
  for (const path of plan.folders) {
    signal?.throwIfAborted();
    await mkdir(join(toDir, path));
  }
  for (const planned of entries) {
    signal?.throwIfAborted();
    if (planned.kind === 'file') await writeFile(zip, planned, toDir, signal);
    if (planned.kind === 'link') links.set(planned.path, await readLink(zip, planned.entry));
  }
  checkLinks(links);
  for (const [path, target] of links) await symlink(target, join(toDir, path));
  for (const { path, kind, mode } of entries) if (kind === 'folder') await chmod(join(toDir, path), mode);
}

async function writeFile(
  zip: ZipFile,
  { path, mode, entry }: PlannedEntry,
  toDir: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  await using handle = await open(join(toDir, path), flags);
  for await (const chunk of contentOf(zip, entry)) {
    signal?.throwIfAborted();
    await handle.appendFile(chunk);
  }
  // After the umask, which would otherwise take bits away.
  await handle.chmod(mode);
  const modifiedAt = entry.getLastModDate();
  if (Number.isFinite(modifiedAt.getTime())) await handle.utimes(modifiedAt, modifiedAt);
}

async function readLink(zip: ZipFile, entry: Entry): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of contentOf(zip, entry)) chunks.push(chunk);
  const target = Buffer.concat(chunks).toString('utf8');
  if (target === '' || target.includes('\0')) throw invalid(`the link '${entry.fileName}' has no usable target`);
  return target;
}

/** An entry's bytes, unpacked, their length and CRC-32 checked (yauzl leaves the latter to its callers). */
async function* contentOf(zip: ZipFile, entry: Entry): AsyncGenerator<Buffer> {
  let sum = 0;
  try {
    const stream: AsyncIterable<Buffer> = await zip.openReadStreamPromise(entry);
    for await (const chunk of stream) {
      sum = crc32(chunk, sum);
      yield chunk;
    }
  } catch (error) {
    throw invalid(`'${entry.fileName}' is damaged`, error);
  }
  if (sum !== entry.crc32) throw invalid(`'${entry.fileName}' does not match its checksum`);
}
