/**
 * A version as one file: its configuration and its root disk as it was built, proven against the digests of its snapshot.
 *
 * Memory and device state stay here. They fit only hosts with this VMM and CPU, know the image's name and version by heart
 * (the app's environment), may hold what the app read while it started, and a VMM is not to be fed a state from a file.
 */
import { open } from 'node:fs/promises';
import path from 'node:path';
import type { Engine } from '../../engine/index.ts';
import { DomainError, writeArchive } from '../../lib/index.ts';
import type { Owner } from '../image-arn.ts';
import type { VersionRecord } from '../lifecycle.ts';
import { readFacts } from '../provenance/facts.ts';
import { aboutOf, DISK_PART } from './exported.ts';

export interface ExportOptions {
  readonly engine: Pick<Engine, 'keptDisk'>;
  readonly owner: Owner;
  readonly now: () => number;
  readonly snapshotDirOf: (version: VersionRecord) => string;
}

/** @throws DomainError `CONFLICT` when it has no root disk that is whole */
export async function* exportVersion(
  o: ExportOptions,
  version: VersionRecord,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const { version: number, state } = version;
  if (state !== 'SUCCESSFUL' && state !== 'FAILED') {
    throw new DomainError('CONFLICT', `MicroVM Image version ${number} is in state: ${state}`);
  }
  const kept = await o.engine.keptDisk(o.snapshotDirOf(version));
  if (kept === undefined) {
    const why = state === 'FAILED' ? 'its build failed before it had one, or it is damaged' : 'it is damaged';
    throw new DomainError('CONFLICT', `Version ${number} has no whole root disk to export: ${why}.`);
  }
  // Read through one handle: a version that is deleted meanwhile is exported whole none the less.
  await using file = await open(kept.diskPath, 'r');
  const read = async (at: number, length: number) => {
    signal.throwIfAborted();
    const buffer = Buffer.allocUnsafeSlow(length);
    for (let have = 0; have < length; ) {
      const { bytesRead } = await file.read(buffer, have, length - have, at + have);
      if (bytesRead === 0) throw new DomainError('CONFLICT', 'The root disk became shorter while it was read.');
      have += bytesRead;
    }
    return buffer;
  };
  const { bytes, chunks, config, usedBytes } = kept;
  const provenance = await readFacts(path.dirname(o.snapshotDirOf(version)), version.provenance);
  const about = aboutOf(version, o.owner, { built: { config, usedBytes }, ...(provenance && { provenance }) }, o.now());
  yield* writeArchive(about, [{ name: DISK_PART, bytes, chunks, read }]);
}
