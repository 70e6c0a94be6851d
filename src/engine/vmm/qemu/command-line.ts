/**
 * The one device list of all machines, as QEMU's arguments. A snapshot loads only into the devices it was made with, so
 * every change here is a new `DEVICES_GENERATION`.
 */
import path from 'node:path';
import type { Inside } from '../../jail/jail.ts';
import { TRANSLATION_MIB } from '../../jail/limits.ts';
import type { Disk, VmmConfig } from '../vmm.ts';
import { diskKeys, keyId } from './disk-keys.ts';

export const MACHINE_TYPE = 'microvm';
/** virtio-serial, four virtio-blk, RNG, balloon, NIC. */
export const DEVICES_GENERATION = 'mmio-3';

/**
 * x86-64-v2: 17 to 24 % faster than `max` under TCG on gzip and sha256. `arat` says that the timer never stops: without it
 * the guest has no high-resolution timers and ticks 250 times a second when idle (4.8 % of a core instead of 1.2 %).
 */
const TCG_CPU = 'qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf_lm,+arat';

export const LINK_PORT = 'rekindle.link';
/** Relative to the run folder, which is QEMU's working folder: a socket's path is limited to 107 bytes. */
export const QMP_SOCKET = 'qmp.sock';
export const LINK_SOCKET = 'link.sock';
/** The guest's console. Who is connected gets what is printed; a later server connects again. */
export const CONSOLE_SOCKET = 'console.sock';
/** Inherited: the other end of the control channel. */
const CONTROL_FD = 3;

export function cpuModel(accelerator: 'kvm' | 'tcg'): string {
  return accelerator === 'kvm' ? 'host' : TCG_CPU;
}

export function commandLine({ config, dataDirs, seccomp }: Inside, accelerator: 'kvm' | 'tcg'): string[] {
  const { boot } = config;
  return [
    ...['-name', config.id],
    ...dataDirs.flatMap((dir) => ['-L', dir]),
    // Without a started vCPU: the guest runs when its VMM is where it belongs.
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-S'],
    ...['-M', `${MACHINE_TYPE},acpi=on,memory-backend=mem,suppress-vmdesc=on`],
    ...['-accel', accelerator === 'tcg' ? `tcg,thread=multi,tb-size=${TRANSLATION_MIB}` : accelerator],
    ...(seccomp ? ['-sandbox', SANDBOX] : []),
    ...['-cpu', cpuModel(accelerator), '-smp', `${config.cpus}`, '-m', `${config.memoryMiB}M`],
    ...['-object', JSON.stringify(memory(config))],
    ...(boot === 'restore'
      ? ['-incoming', 'defer', '-global', 'migration.send-configuration=off']
      : ['-kernel', boot.kernel, '-initrd', boot.initramfs, '-append', boot.kernelLine]),
    ...['-chardev', `socket,id=control,fd=${CONTROL_FD}`, '-mon', 'chardev=control,mode=control'],
    ...['-chardev', `socket,id=qmp,path=${QMP_SOCKET},server=on,wait=off`, '-mon', 'chardev=qmp,mode=control'],
    ...['-chardev', `socket,id=console,path=${CONSOLE_SOCKET},server=on,wait=off`, '-serial', 'chardev:console'],
    ...['-device', 'virtio-serial-device'],
    ...['-chardev', `socket,id=link,path=${LINK_SOCKET},server=on,wait=off`],
    ...['-device', `virtserialport,chardev=link,name=${LINK_PORT}`],
    ...['-object', JSON.stringify(throttle(config))],
    ...config.disks.flatMap(disk),
    ...['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-device,rng=rng'],
    ...['-device', 'virtio-balloon-device,free-page-reporting=on'],
    ...['-netdev', JSON.stringify(netdev(config)), '-device', NIC],
  ];
}

/** Nothing old, no other user, no other program, no other scheduling: QEMU's own filter of system calls. */
const SANDBOX = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny';

export const NIC_ID = 'nic';
/**
 * The NIC of every machine. Without the control queue a guest can change neither its address nor filters, nor is it asked
 * to announce itself after each restore.
 */
const NIC = [
  `virtio-net-device,id=${NIC_ID},netdev=net,mac=02:52:4b:00:00:02`,
  ...['ctrl_vq', 'ctrl_rx', 'ctrl_vlan', 'ctrl_rx_extra', 'ctrl_mac_addr', 'ctrl_guest_offloads', 'guest_announce'].map(
    (feature) => `${feature}=off`,
  ),
].join(',');
/** From the end of a gateway to its successor; a connect to what is not there costs next to nothing. */
const RECONNECT_MS = 250;

function netdev({ network, runDir }: VmmConfig): object {
  // A hub with nobody else on it.
  if (network === 'down') return { type: 'hubport', id: 'net', hubid: 0 };
  // Relative to the working folder: a socket's path is limited to 107 bytes.
  const socket = path.join(path.relative(runDir, network.socketDir), 'net.sock');
  return {
    type: 'stream',
    id: 'net',
    server: false,
    addr: { type: 'unix', path: socket },
    'reconnect-ms': RECONNECT_MS,
  };
}

function memory({ memoryMiB, ram }: VmmConfig): object {
  const backend = { 'qom-type': 'memory-backend-file', id: 'mem', size: memoryMiB * 1024 * 1024, 'mem-path': ram.path };
  // rom=off: the guest may write, into its private copy, though the file is opened read-only. reserve: the peak is four times
  // what a microVM is given and mostly never touched; a host smaller than the largest peak would refuse to promise it.
  return ram.sharing === 'shared'
    ? { ...backend, share: true }
    : { ...backend, share: false, readonly: true, rom: 'off', reserve: false };
}

const THROTTLE = 'disks';

/** Here and not by cgroups, because there is nobody else who can hold back buffered writes on every host. */
function throttle({ limits: { io } }: VmmConfig): object {
  const limits = { 'bps-total': io.bytesPerSecond, 'iops-total': io.requestsPerSecond };
  return { 'qom-type': 'throttle-group', id: THROTTLE, limits };
}

/** Formats are always explicit: a guest that writes a qcow2 header to its raw disk must not be believed. */
function disk({ serial, source }: Disk): string[] {
  const node = `disk-${serial}`;
  return [
    ...diskKeys({ serial, source }).flatMap(({ id, file }) => [
      '-object',
      JSON.stringify({ 'qom-type': 'secret', id, file }),
    ]),
    '-blockdev',
    JSON.stringify(source.kind === 'empty' ? nothing(node, source.bytes) : throttled(serial, source)),
    '-device',
    `virtio-blk-device,drive=${node},serial=${serial},werror=report,rerror=report`,
  ];
}

function nothing(node: string, bytes: number): object {
  return { driver: 'null-co', 'node-name': node, size: bytes, 'read-zeroes': true };
}

type Source = Exclude<Disk['source'], { kind: 'empty' }>;

function throttled(serial: Disk['serial'], source: Source): object {
  return {
    driver: 'throttle',
    'node-name': `disk-${serial}`,
    'throttle-group': THROTTLE,
    file: blockdev(serial, `disk-${serial}-image`, source),
  };
}

function blockdev(serial: Disk['serial'], node: string, source: Source): object {
  if (source.kind === 'raw')
    return { driver: 'raw', 'node-name': node, discard: 'unmap', cache: CACHE, file: file(source.path) };
  return {
    driver: 'qcow2',
    'node-name': node,
    discard: 'unmap',
    cache: CACHE,
    file: file(source.path),
    ...(source.passphrase !== undefined && encryption(keyId(serial))),
    backing: backing(serial, node, source),
  };
}

function encryption(id: string): object {
  return { encrypt: { format: 'luks', 'key-secret': id } };
}

/** What is below an overlay, down to the raw disk; only read. */
function backing(
  serial: Disk['serial'],
  node: string,
  { layerPaths = [], layerPassphrases, basePath }: Extract<Disk['source'], { kind: 'overlay' }>,
): object {
  const read = (at: number, path: string) => ({
    'node-name': `${node}-base${at}`,
    'read-only': true,
    file: { ...file(path), 'read-only': true },
  });
  return layerPaths.reduceRight<object>(
    (below, path, at) => ({
      driver: 'qcow2',
      ...read(at, path),
      ...(layerPassphrases !== undefined && encryption(keyId(serial, at))),
      backing: below,
    }),
    { driver: 'raw', ...read(layerPaths.length, basePath) },
  );
}

/** What a machine wrote matters on disk only when it is suspended or sealed, and then the engine syncs it. */
const CACHE = { 'no-flush': true };

/**
 * `drop-cache` is for disks that another host wrote to until now. Here it would evict what all machines of a version share
 * from the page cache, at every launch of one.
 */
function file(path: string): object {
  return { driver: 'file', filename: path, discard: 'unmap', cache: CACHE, 'drop-cache': false };
}

/**
 * The kernel's command line. Without `tsc_early_khz` the kernel calibrates the TSC against a timer this machine does not
 * have and hangs on a busy host; without `tsc=reliable` its watchdog takes a busy host for a broken TSC and counts ticks from
 * then on, so that the guest's clock runs slow; `lpj` spares the delay loop's calibration (the kernel runs at 250 Hz). A
 * panic ends the VMM at once by a triple fault (`reboot=t`): every other way of the kernel's leads to devices this machine
 * does not have, and then nowhere.
 * `erasesFreedMemory` costs the erasing of all memory at boot (docs/decisions/0005-credentials-and-snapshots.md).
 */
export function kernelLine(
  tscKhz: number,
  accelerator: 'kvm' | 'tcg',
  { erasesFreedMemory = false }: { erasesFreedMemory?: boolean } = {},
): string {
  return [
    ...[
      'console=ttyS0',
      'quiet',
      'panic=-1',
      'reboot=t',
      'audit=0',
      '8250.nr_uarts=1',
      'cryptomgr.notests',
      'rcupdate.rcu_expedited=1',
    ],
    ...['init_on_alloc=0', 'random.trust_cpu=on', `lpj=${tscKhz * 4}`, `tsc_early_khz=${tscKhz}`, 'tsc=reliable'],
    ...(erasesFreedMemory ? ['init_on_free=1'] : []),
    // Emulation runs no guest code speculatively: there the barriers only cost (a seventh of a first answer).
    ...(accelerator === 'tcg' ? ['mitigations=off'] : []),
  ].join(' ');
}
