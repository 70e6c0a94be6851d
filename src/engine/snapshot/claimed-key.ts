/**
 * `encryption.json` in the state folder: under which of the operator's keys it is. A server without that key could neither
 * read what is there nor say so before somebody's microVM fails to resume.
 */
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { DomainError } from '../../lib/index.ts';
import type { Keyring } from './encryption.ts';

const NAME = 'encryption.json';

/** Notes the key of a folder that has none yet. @throws DomainError `INVALID` when it is under another, or none is given */
export function claimKey(stateDir: string, keyring: Keyring | undefined): void {
  const file = path.join(stateDir, NAME);
  const known = existsSync(file) ? keyIdIn(readFileSync(file, 'utf8')) : undefined;
  if (known === undefined) {
    if (keyring === undefined) return;
    refuseRunning(path.join(stateDir, 'run'));
    const text = `${JSON.stringify({ generation: 1, keyId: keyring.keyId })}\n`;
    writeFileSync(`${file}.new`, text, { mode: 0o600, flush: true });
    renameSync(`${file}.new`, file);
    return;
  }
  if (keyring === undefined) {
    throw new DomainError(
      'INVALID',
      `The state folder is encrypted under the key ${known}: name the file with it by --encryption-key-file <file>.`,
    );
  }
  if (keyring.keyId !== known) {
    throw new DomainError(
      'INVALID',
      `The state folder is encrypted under the key ${known}, but --encryption-key-file holds ${keyring.keyId}.`,
    );
  }
}

/** They were started with folders on the disk and would not be found in those in memory. */
function refuseRunning(runDir: string): void {
  if (!existsSync(runDir) || readdirSync(runDir).length === 0) return;
  throw new DomainError(
    'INVALID',
    'MicroVMs of this state folder were left running without encryption: start once without the key and stop with --on-shutdown suspend.',
  );
}

function keyIdIn(text: string): string {
  const found = /"generation":1,"keyId":"([0-9a-f]{16})"/.exec(text)?.[1];
  if (found === undefined) {
    throw new DomainError('INVALID', 'encryption.json in the state folder is damaged: put the right one back.');
  }
  return found;
}
