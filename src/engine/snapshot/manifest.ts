/**
 * What a sealed snapshot is made of and what a host needs to load it. A snapshot that does not fit is refused with the
 * reason; loading it anyway would crash the VMM or, worse, the guest later.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { MachineError } from '../../lib/index.ts';
import type { BuiltDisk, ContainerConfig } from '../engine.ts';
import { cpuFingerprint } from '../host/host.ts';
import type { VmmDriver } from '../vmm/vmm.ts';
import { type DataKey, type Keyring, otherKey, type WrappedKey } from './encryption.ts';
import { decodeSelfChecked, encodeSelfChecked } from './self-checked.ts';

export const FORMAT_GENERATION = 3;

export interface Part {
  readonly bytes: number;
  /** See `digestFile`. */
  readonly sha256: string;
}

export interface Manifest {
  readonly generation: number;
  readonly vmm: { readonly name: string; readonly version: string; readonly accelerator: 'kvm' | 'tcg' };
  readonly machine: VmmDriver['machine'];
  readonly hostCpu: string;
  readonly runtimeStamp: string;
  readonly kernelRelease: string;
  /** SHA-256 of the files it booted from. Absent in manifests from before they were kept. */
  readonly guest?: { readonly kernel: string; readonly initramfs: string };
  /** Guest memory: four times the size class. */
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly network: 'none' | 'user';
  readonly link: { readonly generation: number; readonly secret: string };
  readonly container: ContainerConfig | null;
  /** What the build said of `disk`. */
  readonly built: Omit<BuiltDisk, 'diskPath'> | null;
  /** Present when `ram`, `state` and `changes` are encrypted: their key, the numbers of their own, and the private members. */
  readonly encryption?: {
    readonly wrapped: WrappedKey;
    readonly ramId: string;
    readonly stateId: string;
    readonly sealed: string;
  };
  /** The key, opened; in memory only. */
  readonly key?: DataKey;
  readonly parts: { readonly ram: Part; readonly state: Part; readonly disk: Part; readonly changes: Part };
}

/** What of a manifest is nobody's business. */
type Private = Pick<Manifest, 'container' | 'built'> & { readonly secret: string };

/** Of the layer of changes. */
export function changesPassphrase(key: DataKey): string {
  return key.forFile('changes', Buffer.alloc(0)).toString('base64');
}

export function describeMachine(driver: VmmDriver): Pick<Manifest, 'generation' | 'vmm' | 'machine' | 'hostCpu'> {
  return {
    generation: FORMAT_GENERATION,
    vmm: { name: driver.name, version: driver.version, accelerator: driver.accelerator },
    machine: driver.machine,
    hostCpu: cpuFingerprint(driver.accelerator),
  };
}

export function encodeManifest({ key, ...manifest }: Manifest): string {
  const { encryption } = manifest;
  if (key === undefined || encryption === undefined) return encodeSelfChecked(manifest);
  const hidden: Private = { secret: manifest.link.secret, container: manifest.container, built: manifest.built };
  return encodeSelfChecked({
    ...manifest,
    link: { ...manifest.link, secret: '' },
    container: null,
    built: null,
    encryption: { ...encryption, sealed: key.sealText(JSON.stringify(hidden), 'manifest') },
  });
}

/** @throws MachineError `unsupported` without its key, `corrupt` */
function reveal(manifest: Manifest, keyring: Keyring | undefined): Manifest {
  const { encryption } = manifest;
  if (encryption === undefined) return manifest;
  if (keyring === undefined) throw otherKey(encryption.wrapped.keyId);
  const key = keyring.open(encryption.wrapped, KEY_OWNER);
  const text = key.openText(encryption.sealed, 'manifest');
  if (text === undefined) throw new MachineError('corrupt', "the snapshot's manifest is damaged");
  const { secret, container, built } = JSON.parse(text) as Private;
  return { ...manifest, link: { ...manifest.link, secret }, container, built, key };
}

/** Which folder it is in may change. */
export const KEY_OWNER = 'snapshot';

/**
 * @throws MachineError `failed` when there is no sealed snapshot, `corrupt` when the manifest is not as it was written,
 * `unsupported` when the snapshot does not fit this host
 */
export async function readManifest(snapshotDir: string, driver: VmmDriver, keyring?: Keyring): Promise<Manifest> {
  const manifest = await readForeignManifest(snapshotDir, keyring);
  const misfit = misfitOf(manifest, driver);
  if (misfit !== undefined) {
    throw new MachineError('unsupported', `the snapshot cannot run on this host: ${misfit}; build the version again`);
  }
  return manifest;
}

/**
 * The manifest of a snapshot that need not fit this host: of another VMM or CPU, but of this format.
 * @throws MachineError as `readManifest` does
 */
export async function readForeignManifest(snapshotDir: string, keyring?: Keyring): Promise<Manifest> {
  let text: string;
  try {
    text = await readFile(path.join(snapshotDir, 'manifest.json'), 'utf8');
  } catch (cause) {
    throw new MachineError('failed', 'the snapshot is missing or was never sealed', { cause });
  }
  const manifest = decodeSelfChecked(text) as Manifest | undefined;
  if (manifest === undefined) throw unreadable(text);
  if (manifest.generation !== FORMAT_GENERATION) {
    const why = `its format is of generation ${manifest.generation}`;
    throw new MachineError('unsupported', `the snapshot cannot run on this host: ${why}; build the version again`);
  }
  return reveal(manifest, keyring);
}

/** Snapshots of the first generation did not vouch for their manifests. */
function unreadable(text: string): MachineError {
  if (/^\{\s*"generation": 1,/.test(text) && !/\n {2}"sha256": "[0-9a-f]{64}"\n\}\n$/.test(text)) {
    return new MachineError('unsupported', 'the snapshot is of an earlier format; build the version again');
  }
  return new MachineError('corrupt', "the snapshot's manifest is damaged");
}

/** Why the snapshot does not fit, or undefined when it does. */
export function misfitOf(manifest: Manifest, driver: VmmDriver): string | undefined {
  const here = describeMachine(driver);
  if (manifest.generation !== here.generation) return `its format is of generation ${manifest.generation}`;
  const { vmm, machine } = manifest;
  if (vmm.name !== here.vmm.name || vmm.version !== here.vmm.version) {
    return `it was made by ${vmm.name} ${vmm.version}, this host has ${here.vmm.name} ${here.vmm.version}`;
  }
  if (vmm.accelerator !== here.vmm.accelerator) return `it was made under ${vmm.accelerator}`;
  if (machine.type !== here.machine.type || machine.devices !== here.machine.devices) return 'its devices are others';
  if (machine.cpuModel !== here.machine.cpuModel) return `it was made for the CPU model ${machine.cpuModel}`;
  if (manifest.hostCpu !== here.hostCpu) return 'it was made on another kind of CPU';
  return undefined;
}
