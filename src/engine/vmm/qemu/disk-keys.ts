/**
 * Passphrases of a disk's encrypted files: QEMU's name for each, and the file in its working folder that it reads each from
 * while it starts. None is ever an argument: those can be read by everybody.
 */
import type { Disk } from '../vmm.ts';

export interface DiskKey {
  readonly id: string;
  readonly file: string;
  readonly passphrase: string;
}

export function diskKeys({ serial, source }: Disk): DiskKey[] {
  if (source.kind !== 'overlay') return [];
  const own =
    source.passphrase === undefined
      ? []
      : [{ id: keyId(serial), file: `${serial}.key`, passphrase: source.passphrase }];
  const layers = (source.layerPassphrases ?? []).map((passphrase, layer) => ({
    id: keyId(serial, layer),
    file: `${serial}.layer${layer}.key`,
    passphrase,
  }));
  return [...own, ...layers];
}

/** @param layer below the disk's own file */
export function keyId(serial: Disk['serial'], layer?: number): string {
  return layer === undefined ? `key-${serial}` : `key-${serial}-layer${layer}`;
}
