/**
 * Opens the database file: journal mode, durability, the lock against a second server, migrations.
 *
 * WAL with `synchronous=FULL` makes a commit durable (2-3 ms on the reference machine; NORMAL 0.1 ms, but loses the last
 * commits with the host). Exclusive locking keeps a second server off the same state folder.
 */
import { chmodSync, closeSync, openSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { messageOf } from '../../lib/index.ts';
import { MIGRATIONS } from '../migrations/index.ts';
import { StoreError } from '../store.ts';

/** @throws StoreError when the file is in use, unreadable or of a newer version */
export function openDatabase(path: string): DatabaseSync {
  closeSync(openSync(path, 'a', 0o600));
  chmodSync(path, 0o600);
  const db = new DatabaseSync(path);
  try {
    db.exec('PRAGMA locking_mode=EXCLUSIVE');
    db.exec('PRAGMA journal_mode=WAL');
    db.exec('PRAGMA synchronous=FULL');
    migrate(db);
    // Takes the write lock for good, now rather than at the first request.
    db.exec('BEGIN IMMEDIATE; COMMIT');
    return db;
  } catch (error) {
    db.close();
    if (error instanceof StoreError) throw error;
    const reason = messageOf(error);
    throw new StoreError(
      reason.includes('locked')
        ? 'The state folder is in use by another server: stop that one or choose another folder with --state.'
        : `The store in the state folder cannot be opened (${reason}): restore it from a backup or choose another folder with --state.`,
      { cause: error },
    );
  }
}

function migrate(db: DatabaseSync): void {
  const version = Number(db.prepare('PRAGMA user_version').get()?.user_version);
  if (version > MIGRATIONS.length) {
    throw new StoreError(
      `The store has layout ${version}, this Rekindle knows layouts up to ${MIGRATIONS.length}: ` +
        'use the newer Rekindle that wrote it, or choose another folder with --state.',
    );
  }
  for (const [index, steps] of MIGRATIONS.entries()) {
    if (index < version) continue;
    db.exec('BEGIN IMMEDIATE');
    try {
      for (const step of steps) db.exec(step);
      db.exec(`PRAGMA user_version=${index + 1}`);
      db.exec('COMMIT');
    } catch (error) {
      db.exec('ROLLBACK');
      throw error;
    }
  }
}
