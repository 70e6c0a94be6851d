/**
 * What unpacking a zip would write, checked as a whole before a byte is written.
 *
 * Invariant: in a plan every path is relative and normal, no path goes through a file or a link of the archive, no two
 * entries share a path, every link resolves inside the root. Zips are hostile: the guest's owner made them.
 */
import { posix } from 'node:path';
import { type Entry, validateFileName, type ZipFile } from 'yauzl';
import { ArtifactError, invalid } from './errors.ts';
import { MAX_LINKS_BYTES } from './zip-links.ts';

export interface UnzipLimits {
  /** Also of folders that are only part of a name. */
  readonly maxEntries: number;
  /** Names, extra fields and comments of all entries, which are held in memory. */
  readonly maxDirectoryBytes: number;
  /** Sum of what all files unpack to. */
  readonly maxTotalBytes: number;
  /** Total unpacked bytes per byte of archive; applies above `ratioFreeBytes`. Deflate reaches 1032. */
  readonly maxRatio: number;
  readonly ratioFreeBytes: number;
}

/** The service's limits are not public; its build VM has about 7.2 GB of free disk. GUESS: artifact-limits */
export const DEFAULT_UNZIP_LIMITS: UnzipLimits = {
  maxEntries: 100_000,
  maxDirectoryBytes: 64 * 1024 ** 2,
  maxTotalBytes: 4 * 1024 ** 3,
  maxRatio: 400,
  ratioFreeBytes: 64 * 1024 ** 2,
};

export interface PlannedEntry {
  readonly kind: 'file' | 'folder' | 'link';
  readonly path: string;
  /** Permission bits, readable and (folders) writable for the owner. */
  readonly mode: number;
  readonly entry: Entry;
}

export interface ZipPlan {
  readonly entries: ReadonlyMap<string, PlannedEntry>;
  /** All that are to be made, also those that only lead to others; each after the one it is in. */
  readonly folders: readonly string[];
  /** Sum of what all files unpack to. */
  readonly totalBytes: number;
}

const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const S_IFDIR = 0o040000;
const S_IFLNK = 0o120000;
const MADE_BY_UNIX = 3;
const MAX_NAME_BYTES = 255;
const MAX_PATH_BYTES = 3500;
const MAX_LINK_BYTES = 4096;

/** Reads the archive's directory. @throws ArtifactError `archive-invalid`, `archive-too-large` */
export async function planZip(zip: ZipFile, limits: UnzipLimits): Promise<ZipPlan> {
  if (zip.entryCount > limits.maxEntries) throw tooLarge(`${zip.entryCount} entries; ${limits.maxEntries} are allowed`);
  const plan = new Map<string, PlannedEntry>();
  let totalBytes = 0;
  let linksBytes = 0;
  let directoryBytes = 0;
  for await (const entry of zip.eachEntry()) {
    directoryBytes += entry.fileNameLength + entry.extraFieldLength + entry.fileCommentLength;
    if (directoryBytes > limits.maxDirectoryBytes) throw tooLarge('its directory alone is huge');
    const planned = planEntry(entry);
    if (planned.path === '') continue;
    const known = plan.get(planned.path);
    if (known !== undefined && !(known.kind === 'folder' && planned.kind === 'folder')) {
      throw invalid(`'${planned.path}' stands in it twice`);
    }
    plan.set(planned.path, planned);
    if (planned.kind === 'link') linksBytes += entry.uncompressedSize;
    if (linksBytes > MAX_LINKS_BYTES) throw tooLarge(`its links lead to more than ${MAX_LINKS_BYTES} bytes of names`);
    totalBytes += entry.uncompressedSize;
    if (totalBytes > limits.maxTotalBytes) throw tooLarge(`it unpacks to more than ${limits.maxTotalBytes} bytes`);
  }
  if (totalBytes > limits.ratioFreeBytes && totalBytes > limits.maxRatio * zip.fileSize) {
    throw tooLarge(`it unpacks to more than ${limits.maxRatio} times its size`);
  }
  return { entries: plan, folders: foldersOf(plan, limits), totalBytes };
}

function planEntry(entry: Entry): PlannedEntry {
  const name = entry.fileName;
  const refusal = validateFileName(name);
  if (refusal !== null) throw invalid(refusal);
  if (name.includes('\0')) throw invalid('a name holds a NUL byte');
  if (entry.isEncrypted()) throw invalid(`'${name}' is encrypted`);
  if (!entry.canDecodeFileData()) throw invalid(`'${name}' uses compression method ${entry.compressionMethod}`);
  const path = posix.normalize(name).replace(/^\.$|^\.\/|\/$/g, '');
  if (Buffer.byteLength(path) > MAX_PATH_BYTES || path.split('/').some((p) => Buffer.byteLength(p) > MAX_NAME_BYTES)) {
    throw invalid(`a name is too long: '${path.slice(0, 80)}...'`);
  }
  const kind = kindOf(entry, name);
  if (path === '' && kind !== 'folder') throw invalid('an entry has no name');
  if (kind === 'link' && entry.uncompressedSize > MAX_LINK_BYTES) throw invalid(`the link '${path}' is too long`);
  return { kind, path, mode: modeOf(entry, kind), entry };
}

function unixMode(entry: Entry): number {
  return entry.versionMadeBy >>> 8 === MADE_BY_UNIX ? entry.externalFileAttributes >>> 16 : 0;
}

function kindOf(entry: Entry, name: string): PlannedEntry['kind'] {
  const type = unixMode(entry) & S_IFMT;
  if (name.endsWith('/')) {
    if (type === 0 || type === S_IFDIR) return 'folder';
  } else {
    if (type === 0 || type === S_IFREG) return 'file';
    if (type === S_IFLNK) return 'link';
  }
  throw invalid(`'${name}' is neither a file, a folder nor a link`);
}

/** Permissions as archived, without setuid and its like; the owner can always read, and write what must be removed. */
function modeOf(entry: Entry, kind: PlannedEntry['kind']): number {
  const permissions = unixMode(entry) & 0o777;
  if (kind === 'folder') return permissions === 0 ? 0o755 : permissions | 0o700;
  return permissions === 0 ? 0o644 : permissions | 0o600;
}

/** Finds every folder once, so that deep names cost what they are worth. */
function foldersOf(plan: ReadonlyMap<string, PlannedEntry>, { maxEntries }: UnzipLimits): string[] {
  const folders = new Set<string>();
  let others = 0;
  for (const { path, kind } of plan.values()) {
    if (kind === 'folder') folders.add(path);
    else others += 1;
  }
  const led = new Set<string>();
  for (const { path } of plan.values()) {
    for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) {
      const parent = path.slice(0, at);
      if (led.has(parent)) break;
      const known = plan.get(parent);
      if (known !== undefined && known.kind !== 'folder') throw invalid(`'${path}' lies below a ${known.kind}`);
      led.add(parent);
      folders.add(parent);
      if (folders.size + others > maxEntries) throw tooLarge(`more than ${maxEntries} files and folders`);
    }
  }
  return [...folders].sort((a, b) => a.length - b.length);
}

function tooLarge(what: string): ArtifactError {
  return new ArtifactError('archive-too-large', `The code artifact is too large: ${what}.`);
}
