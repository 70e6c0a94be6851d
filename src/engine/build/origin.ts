/**
 * Where a root disk came from and what is in it, as the builder guest says: read from a guest that ran somebody's RUN steps, and
 * from files of other servers, so every size and shape is checked.
 */
import { MachineError } from '../../lib/index.ts';

/** Something a build was made of, as BuildKit resolved it. */
export interface Dependency {
  /** A package URL for images, else the URL. */
  readonly uri: string;
  /** By algorithm, in hexadecimal. */
  readonly digest: Readonly<Record<string, string>>;
}

/** An installed package, as the database of its package manager says. */
export interface InstalledPackage {
  readonly type: 'deb' | 'apk' | 'rpm';
  readonly name: string;
  /** As its manager writes it, with an epoch before a colon. */
  readonly version: string;
  readonly arch: string;
}

export interface DiskOrigin {
  /** SHA-256 of the root file system's listing (docs/PROVENANCE.md). */
  readonly rootfs: string;
  readonly dependencies: readonly Dependency[];
  /** Version of BuildKit. */
  readonly buildkit: string;
  readonly packages: readonly InstalledPackage[];
  /** Package databases, or what of them, could not be read. */
  readonly unread: readonly string[];
}

const MAX_DEPENDENCIES = 256;
const MAX_URI_LENGTH = 2048;
const MAX_PACKAGES = 10_000;
const MAX_UNREAD = 16;
const MAX_UNREAD_LENGTH = 512;
const WORD = /^[!-~]{1,128}$/;

/** @throws MachineError `protocol` */
export function readOrigin(value: unknown): DiskOrigin {
  const { rootfs, dependencies, buildkit, packages, unread } = record(value);
  return {
    rootfs: matching(rootfs, /^[0-9a-f]{64}$/),
    dependencies: list(dependencies, MAX_DEPENDENCIES).map(dependency),
    buildkit: matching(buildkit, WORD),
    packages: list(packages, MAX_PACKAGES).map(installed),
    unread: list(unread, MAX_UNREAD).map((text) => matching(text, new RegExp(`^[^]{1,${MAX_UNREAD_LENGTH}}$`))),
  };
}

function dependency(value: unknown): Dependency {
  const { uri, digest } = record(value);
  const digests = Object.entries(record(digest ?? {})).map(
    ([name, hex]) => [matching(name, /^[A-Za-z0-9]{1,32}$/), matching(hex, /^[0-9a-f]{32,128}$/)] as const,
  );
  return { uri: matching(uri, new RegExp(`^[^]{1,${MAX_URI_LENGTH}}$`)), digest: Object.fromEntries(digests) };
}

function installed(value: unknown): InstalledPackage {
  const { type, name, version, arch } = record(value);
  if (type !== 'deb' && type !== 'apk' && type !== 'rpm') throw bad();
  return { type, name: matching(name, WORD), version: matching(version, WORD), arch: matching(arch, WORD) };
}

function list(value: unknown, most: number): unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value) || value.length > most) throw bad();
  return value;
}

function matching(value: unknown, shape: RegExp): string {
  if (typeof value === 'string' && shape.test(value)) return value;
  throw bad();
}

function record(value: unknown): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ...value };
  throw bad();
}

function bad(): MachineError {
  return new MachineError('protocol', 'the builder gave an origin of a wrong shape');
}
