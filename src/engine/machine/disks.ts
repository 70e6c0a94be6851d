/** The four disks every machine has; those not given are empty. */
import type { Disk, DiskSerial } from '../vmm/vmm.ts';
import { SPARE_DISK_BYTES } from './context.ts';

const SERIALS: readonly DiskSerial[] = ['root', 'spare1', 'spare2', 'spare3'];

export function fourDisks(given: Partial<Record<DiskSerial, Disk['source']>>): Disk[] {
  return SERIALS.map((serial) => ({
    serial,
    source: given[serial] ?? { kind: 'empty', bytes: SPARE_DISK_BYTES },
  }));
}
