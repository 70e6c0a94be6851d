/**
 * What still uses an image. The images room knows of microVMs only that their rows are grouped by image ARN and version
 * and end in one state; a condition of this file is part of the very write that begins a removal, so that no launch can
 * slip in between (a launch in turn depends on its version being unchanged).
 */
import { DomainError } from '../lib/index.ts';
import type { Store } from '../store/index.ts';
import type { Condition } from './quotas.ts';

/** States of microVM rows that need their version's snapshot: all but TERMINATED (compared by the microVMs' tests). */
export const HOLDING_STATES: readonly string[] = [
  'PENDING',
  'RUNNING',
  'EXITED',
  'SUSPENDING',
  'SUSPENDED',
  'RESUMING',
  'TERMINATING',
];

/** Which of the version's snapshots a microVM was launched from, by its row's body (tried through the whole server in cli/disk.test.ts). */
export function snapshotUsedBy(body: unknown): number {
  const { snapshot } = body as { readonly snapshot?: unknown };
  return typeof snapshot === 'number' ? snapshot : 1;
}

/** Source of the text: recorded. */
export function imageUnused(store: Store, arn: string): Condition {
  return {
    write: store.records('microvms').fewer(1, { group: arn, states: HOLDING_STATES }),
    refusal: () => new DomainError('INVALID', 'Cannot delete microvm image with running microvms.'),
  };
}

/** That it is refused is reported, in which words is not. GUESS: version-in-use-text */
export function versionUnused(store: Store, arn: string, version: string): Condition {
  return {
    write: store.records('microvms').fewer(1, { group: arn, subgroup: version, states: HOLDING_STATES }),
    refusal: () => new DomainError('INVALID', 'Cannot delete microvm image version with running microvms.'),
  };
}
