/**
 * Keeps the state folder to its user: what it holds signs requests, opens endpoints and is the memory of microVMs.
 *
 * What was open is closed and told, because whoever could read it until now may have; what belongs to somebody else is refused,
 * because they may open it again at any time.
 */
import { chmodSync, lstatSync, readdirSync, type Stats } from 'node:fs';
import { join } from 'node:path';
import { DomainError } from '../lib/index.ts';

/** Beside the folder's own mode, which nobody gets past. Folders with all they hold. */
const SECRETS = [
  ...[
    'credentials.json',
    'store.sqlite',
    'store.sqlite-wal',
    'store.sqlite-shm',
    'server.json',
    'encryption.json',
    'lock',
  ],
  ...['tls', 'microvms', 'run', 'logs'],
];
const OPEN_TO_OTHERS = 0o077;
/** Nothing inside these is looked at one by one: there may be tens of thousands. */
const DEPTH = 1;

/**
 * Sentences about what was open until now. @throws DomainError `DENIED` when something belongs to another user
 */
export function makePrivate(stateDir: string, uid = process.geteuid?.() ?? 0): string[] {
  const root = lstatSync(stateDir);
  refuseForeign(root, uid, 'The state folder');
  const wasOpen = close(stateDir, root);
  const opened = SECRETS.flatMap((name) => closeAll(stateDir, name, uid, DEPTH));
  // In a closed folder nobody got that far.
  if (!wasOpen) return [];
  const remark =
    'the state folder was open to other users of this host and has been closed: they may have read its keys';
  return opened.length === 0 ? [remark] : [remark, `closed with it: ${opened.slice(0, 5).join(', ')}`];
}

/** Paths below the state folder that were open. */
function closeAll(stateDir: string, name: string, uid: number, depth: number): string[] {
  const path = join(stateDir, name);
  const found = lstatSync(path, { throwIfNoEntry: false });
  // A link is only a name: what it leads to is where somebody put it on purpose.
  if (found === undefined || found.isSymbolicLink()) return [];
  const isOurs = found.uid === uid;
  if (depth === DEPTH) refuseForeign(found, uid, `${name} in the state folder`);
  const opened = isOurs && close(path, found) ? [name] : [];
  // What VMMs write to is theirs while they live.
  if (!found.isDirectory() || depth === 0 || name === 'microvms' || name === 'run') return opened;
  return [...opened, ...readdirSync(path).flatMap((inner) => closeAll(stateDir, join(name, inner), uid, depth - 1))];
}

function close(path: string, found: Stats): boolean {
  if ((found.mode & OPEN_TO_OTHERS) === 0) return false;
  chmodSync(path, found.mode & 0o700);
  return true;
}

function refuseForeign(found: Stats, uid: number, what: string): void {
  if (found.uid === uid) return;
  throw new DomainError(
    'DENIED',
    `${what} belongs to user id ${found.uid}, this server runs as ${uid}. Run it as that user, give the files to this one (chown -R), or choose another folder with --state.`,
  );
}
