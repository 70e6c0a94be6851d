/** Whether a sealed snapshot can be launched on this host, told before somebody's launch fails. */
import { type MachineError, messageOf } from '../../lib/index.ts';
import type { SnapshotFit } from '../engine.ts';
import type { VmmDriver } from '../vmm/vmm.ts';
import type { Keyring } from './encryption.ts';
import { type Manifest, misfitOf, readForeignManifest } from './manifest.ts';

export async function snapshotFit(
  snapshotDir: string,
  here: { driver: VmmDriver; keyring: Keyring | undefined; kernelRelease: string },
): Promise<SnapshotFit> {
  let manifest: Manifest;
  try {
    manifest = await readForeignManifest(snapshotDir, here.keyring);
  } catch (error) {
    return { kind: 'misfit', why: messageOf(error as MachineError) };
  }
  const misfit = misfitOf(manifest, here.driver);
  if (misfit !== undefined) return { kind: 'misfit', why: misfit };
  const { kernelRelease } = manifest;
  if (kernelRelease === here.kernelRelease) return { kind: 'fits' };
  return { kind: 'older', why: `its guests run the kernel ${kernelRelease}, this server has ${here.kernelRelease}` };
}
