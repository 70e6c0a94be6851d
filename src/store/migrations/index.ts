/**
 * Numbered steps from an empty database to the present layout: entry n brings version n to n+1. A step that was ever
 * released is never changed.
 */
import { records } from './0001-records.ts';
import { connectors } from './0002-connectors.ts';
import { identities } from './0003-identities.ts';
import { clocks } from './0004-clocks.ts';
import { revocations } from './0005-revocations.ts';
import { tokenKeys } from './0006-token-keys.ts';

export const MIGRATIONS: readonly (readonly string[])[] = [
  records,
  connectors,
  identities,
  clocks,
  revocations,
  tokenKeys,
];
