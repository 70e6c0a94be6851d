/**
 * Where things are inside the jail. Its root is made by set-up with an empty file or folder at each of these places; what
 * a machine needs is mounted on them, the rest stays empty.
 */
import type { DiskSerial } from '../vmm/vmm.ts';

export const QEMU = '/bin/qemu';
export const PRLIMIT = '/bin/prlimit';
export const SETPRIV = '/bin/setpriv';
export const LIBRARIES = '/lib';
export const FIRMWARE = '/firmware';

/** The VMM's working folder: its sockets, the state it loads and writes. */
export const RUN = '/run/vm';
/** The gateway's folder for this machine. */
export const NET = '/net';
export const RAM = '/ram';
export const KERNEL = '/boot/kernel';
export const INITRAMFS = '/boot/initramfs';
/** All that QEMU opens. */
export const DEVICES = ['/dev/null', '/dev/urandom'] as const;
export const KVM = '/dev/kvm';

const SERIALS: readonly DiskSerial[] = ['root', 'spare1', 'spare2', 'spare3'];

export function diskPlace(serial: DiskSerial): string {
  return `/disks/${serial}`;
}

export function basePlace(serial: DiskSerial): string {
  return `/disks/${serial}-base`;
}

/** Between a disk and its base. @throws RangeError when there are more than the jail has places for */
export function layerPlace(serial: DiskSerial, index: number): string {
  if (index >= LAYERS) throw new RangeError(`a disk has ${index + 1} layers above its base`);
  return `/disks/${serial}-layer${index}`;
}

const LAYERS = 2;

export const JAIL_FOLDERS: readonly string[] = [RUN, NET];
export const JAIL_FILES: readonly string[] = [
  ...[RAM, KERNEL, INITRAMFS, KVM, ...DEVICES],
  ...SERIALS.flatMap((serial) => [
    ...[diskPlace(serial), basePlace(serial)],
    ...Array.from({ length: LAYERS }, (_, index) => layerPlace(serial, index)),
  ]),
];
