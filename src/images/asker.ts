/**
 * For whom a build is: whose turn it takes in the queue, and whose layers and cache mounts it may use. Sessions of one role are
 * one: their names are often made up for each run.
 */
import type { VersionRecord } from './lifecycle.ts';

const SESSION = /^(arn:[^:]*:sts::[^:]*:assumed-role\/[^/]+)\/.*$/;

/** Records from before it was kept who asked are the account's. */
export function askerOf({ principal }: Pick<VersionRecord, 'principal'>, accountId: string): string {
  return principal?.replace(SESSION, '$1') ?? accountId;
}
