/** `microvms/<id>/key.json`: the key of everything this machine writes to the disk, under the operator's. */
import { readFile, writeFile } from 'node:fs/promises';
import { MachineError } from '../../lib/index.ts';
import { type DataKey, type Keyring, otherKey, type WrappedKey } from '../snapshot/encryption.ts';
import { decodeSelfChecked, encodeSelfChecked } from '../snapshot/self-checked.ts';

interface KeyFile extends WrappedKey {
  readonly generation: 1;
}

/** Undefined without a key of the operator's: nothing is encrypted then. Not synced: a launch is nothing to keep. */
export async function makeMachineKey(
  keyring: Keyring | undefined,
  id: string,
  file: string,
): Promise<DataKey | undefined> {
  if (keyring === undefined) return undefined;
  const { key, wrapped } = keyring.make(ownerOf(id));
  const content: KeyFile = { generation: 1, ...wrapped };
  await writeFile(file, encodeSelfChecked(content), { mode: 0o600, flag: 'wx' });
  return key;
}

/** Undefined for a machine that was launched without. @throws MachineError `unsupported` without its key, `corrupt` */
export async function openMachineKey(
  keyring: Keyring | undefined,
  id: string,
  file: string,
): Promise<DataKey | undefined> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
  const found = decodeSelfChecked(text) as KeyFile | undefined;
  if (found === undefined) throw new MachineError('corrupt', 'the encryption key of this machine is damaged');
  if (keyring === undefined) throw otherKey(found.keyId);
  return keyring.open(found, ownerOf(id));
}

/** What QEMU is given to open the machine's overlay. */
export function overlayPassphrase(key: DataKey): string {
  return key.forFile('overlay', Buffer.alloc(0)).toString('base64');
}

function ownerOf(id: string): string {
  return `machine ${id}`;
}
