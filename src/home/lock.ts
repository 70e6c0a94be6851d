/**
 * One server per state folder. The lock is an SQLite file held under an exclusive transaction: the kernel lets go of it
 * when the process ends, however it ends, so there is nothing stale to clean up and no pid to guess from.
 */
import { chmodSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { DomainError } from '../lib/index.ts';

/** Takes the folder for this process until the result is disposed. @throws DomainError CONFLICT when another process has it */
export function lockHome(stateDir: string, holder: () => number | undefined): Disposable {
  const path = join(stateDir, 'lock');
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    chmodSync(path, 0o600);
    database.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE');
  } catch (error) {
    database.close();
    if (!isBusy(error)) throw error;
    const pid = holder();
    const who = pid === undefined ? 'Another process' : `Process ${pid}`;
    throw new DomainError(
      'CONFLICT',
      `${who} already serves this state folder. Stop it first, or give this server a folder of its own with --state.`,
      { cause: error },
    );
  }
  return { [Symbol.dispose]: () => database.close() };
}

/** Whether a server holds the folder now. */
export function isLocked(stateDir: string): boolean {
  try {
    lockHome(stateDir, () => undefined)[Symbol.dispose]();
    return false;
  } catch (error) {
    return error instanceof DomainError;
  }
}

const SQLITE_BUSY = 5;

function isBusy(error: unknown): boolean {
  return error instanceof Error && 'errcode' in error && (Number(error.errcode) & 0xff) === SQLITE_BUSY;
}
