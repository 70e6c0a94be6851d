/** The four disks every machine has; those not given are empty. */
import path from 'node:path';
import type { Disk, DiskSerial } from '../vmm/vmm.ts';
import { SPARE_DISK_BYTES } from './context.ts';

const SERIALS: readonly DiskSerial[] = ['root', 'spare1', 'spare2', 'spare3'];

export function fourDisks(given: Partial<Record<DiskSerial, Disk['source']>>): Disk[] {
  return SERIALS.map((serial) => ({
    serial,
    source: given[serial] ?? { kind: 'empty', bytes: SPARE_DISK_BYTES },
  }));
}

/** The root disk of a machine restored from a sealed snapshot. */
export function overlayOf(
  snapshotDir: string,
  overlay: string,
  passphrases: { readonly overlay?: string | undefined; readonly changes?: string | undefined } = {},
): Extract<Disk['source'], { kind: 'overlay' }> {
  const { overlay: passphrase, changes } = passphrases;
  return {
    kind: 'overlay',
    path: overlay,
    ...(passphrase !== undefined && { passphrase }),
    layerPaths: [path.join(snapshotDir, 'changes')],
    ...(changes !== undefined && { layerPassphrases: [changes] }),
    basePath: path.join(snapshotDir, 'disk'),
  };
}
