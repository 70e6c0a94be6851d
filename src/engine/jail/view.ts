/**
 * Translates a machine's files between the host and its jail: the one place that knows both paths of a thing.
 *
 * Files are mounted one by one, never the folder they are in: a VMM that was taken over cannot make, move or link anything
 * beside them, so the server may go on trusting the folders it works in.
 */
import path from 'node:path';
import type { Disk, VmmConfig } from '../vmm/vmm.ts';
import { basePlace, DEVICES, diskPlace, INITRAMFS, KERNEL, KVM, layerPlace, NET, RAM, RUN } from './places.ts';

export interface Mount {
  readonly kind: 'read' | 'write' | 'device';
  readonly from: string;
  readonly to: string;
}

export interface View {
  /** As the VMM sees it: every path is one of the jail. */
  readonly config: VmmConfig;
  /** As the host knows it. */
  readonly outside: VmmConfig;
  readonly mounts: readonly Mount[];
}

/** @param folder on the host, becomes the VMM's working folder */
export function viewOf(config: VmmConfig, options: { folder: string; accelerator: 'kvm' | 'tcg' }): View {
  const { ram, network, boot } = config;
  const mounts: Mount[] = [];
  const mount = (kind: Mount['kind'], from: string, to: string) => {
    mounts.push({ kind, from: path.resolve(from), to });
    return to;
  };
  for (const device of DEVICES) mount('device', device, device);
  if (options.accelerator === 'kvm') mount('device', KVM, KVM);
  const seen: VmmConfig = {
    ...config,
    runDir: mount('write', options.folder, RUN),
    ram: { ...ram, path: mount(ram.sharing === 'shared' ? 'write' : 'read', ram.path, RAM) },
    disks: config.disks.map(({ serial, source }) => ({ serial, source: diskIn(serial, source, mount) })),
    network: typeof network === 'string' ? network : { ...network, socketDir: mount('read', network.socketDir, NET) },
    boot:
      boot === 'restore'
        ? boot
        : {
            ...boot,
            kernel: mount('read', boot.kernel, KERNEL),
            initramfs: mount('read', boot.initramfs, INITRAMFS),
          },
  };
  return { config: seen, outside: config, mounts };
}

function diskIn(
  serial: Disk['serial'],
  source: Disk['source'],
  mount: (kind: Mount['kind'], from: string, to: string) => string,
): Disk['source'] {
  if (source.kind === 'empty') return source;
  const place = mount('write', source.path, diskPlace(serial));
  if (source.kind === 'raw') return { ...source, path: place };
  return {
    ...source,
    path: place,
    layerPaths: (source.layerPaths ?? []).map((layer, index) => mount('read', layer, layerPlace(serial, index))),
    basePath: mount('read', source.basePath, basePlace(serial)),
  };
}

/** Files the VMM writes to; its working folder is not among them. */
export function writtenFiles({ ram, disks }: VmmConfig): string[] {
  const written = ram.sharing === 'shared' ? [ram.path] : [];
  return [...written, ...disks.flatMap(({ source }) => (source.kind === 'empty' ? [] : [source.path]))];
}
