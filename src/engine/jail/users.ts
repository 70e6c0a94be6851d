/**
 * User ids for VMMs: drawn anew for every start from a range nobody else uses, so that what an earlier machine's process may
 * have left belongs to nobody.
 */
import { stat } from 'node:fs/promises';
import { randomIds } from '../../lib/index.ts';
import type { JailUser } from './bubblewrap.ts';
import { KVM } from './places.ts';

const FIRST = 0x4000_0000;
const COUNT = 0x1000_0000;

/** Also the group's. */
export function randomUser(): number {
  return FIRST + (randomIds.bytes(4).readUInt32BE() % COUNT);
}

/** @param accelerator with KVM it may open /dev/kvm */
export async function jailUser(accelerator: 'kvm' | 'tcg'): Promise<JailUser> {
  const uid = randomUser();
  if (accelerator === 'tcg') return { uid, groups: [] };
  const { mode, gid } = await stat(KVM);
  const isOpenToAll = (mode & 0o006) === 0o006;
  return { uid, groups: isOpenToAll ? [] : [gid] };
}
