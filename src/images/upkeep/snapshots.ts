/**
 * The snapshots of one version: the first lies in `snapshot`, those made anew in `snapshot-<n>`; what is being written has more
 * to its name. Launches take the newest; an earlier one stays while a microVM that was launched from it is left.
 */
import type { VersionRecord } from '../lifecycle.ts';

type Snapshots = Pick<VersionRecord, 'snapshots'>;

/** Newest first. */
export function snapshotsOf({ snapshots }: Snapshots): readonly number[] {
  return snapshots ?? [1];
}

export function newestSnapshot(version: Snapshots): number {
  return snapshotsOf(version)[0] ?? 1;
}

export function snapshotName(snapshot: number): string {
  return snapshot === 1 ? 'snapshot' : `snapshot-${snapshot}`;
}

/** Undefined: no sealed snapshot is called so. */
export function snapshotNumber(name: string): number | undefined {
  const [, digits] = /^snapshot(?:-([1-9]\d*))?$/.exec(name) ?? [undefined, undefined];
  if (name === 'snapshot') return 1;
  return digits === undefined ? undefined : Number(digits);
}
