/** Cold boots: a kernel becomes a running guest with its link up. Never happens for a microVM. */
import { type GuestLink, openLink } from '../../guest/index.ts';
import { limitsOf } from '../jail/limits.ts';
import { kernelLine } from '../vmm/qemu/command-line.ts';
import type { Disk, Vmm, VmmNetwork } from '../vmm/vmm.ts';
import { type EngineContext, newSecret } from './context.ts';
import { fourDisks } from './disks.ts';
import { whileAlive } from './with-vmm.ts';

/** 2 to 6 s under software emulation, several times that on a busy host. */
const BOOT_TIMEOUT_MS = 120_000;
/** The agent opens its port late; what was written before waits in the socket. */
const BOOT_PATIENCE_MS = 5000;
const MOUNT_TIMEOUT_MS = 120_000;

export interface BootRequest {
  readonly id: string;
  readonly runDir: string;
  /** Made by the VMM; holds the guest's memory. */
  readonly ramPath: string;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly root: Disk['source'];
  readonly erasesFreedMemory?: boolean;
  readonly network: VmmNetwork;
}

export interface Booted {
  readonly vmm: Vmm;
  readonly link: GuestLink;
  readonly secret: string;
}

/** The root disk is not mounted yet. The caller owns both parts of the result. @throws MachineError */
export async function bootMachine(
  { driver, runtime, ids }: EngineContext,
  request: BootRequest,
  options: { signal?: AbortSignal | undefined },
): Promise<Booted> {
  await using stack = new AsyncDisposableStack();
  const vmm = stack.use(
    await driver.start(
      {
        id: request.id,
        runDir: request.runDir,
        memoryMiB: request.memoryMiB,
        cpus: request.cpus,
        ram: { path: request.ramPath, sharing: 'shared' },
        disks: fourDisks({ root: request.root }),
        network: request.network,
        boot: {
          kernel: runtime.guest.kernel,
          initramfs: runtime.guest.initramfs,
          kernelLine: kernelLine(runtime.tscKhz, driver.accelerator, {
            erasesFreedMemory: request.erasesFreedMemory ?? false,
          }),
        },
        limits: limitsOf(request),
      },
      options,
    ),
  );
  return await whileAlive(vmm, options.signal, async (signal) => {
    const secret = newSecret(ids);
    const link = await openLink({
      socketPath: vmm.linkSocketPath,
      secret,
      patienceMs: BOOT_PATIENCE_MS,
      timeoutMs: BOOT_TIMEOUT_MS,
      signal,
    });
    stack.use(link);
    stack.move();
    return { vmm, link, secret };
  });
}

/** Checks the root disk, too. @throws MachineError */
export async function mountRoot({ link }: Booted, signal: AbortSignal): Promise<void> {
  await link.mountRoot({ timeoutMs: MOUNT_TIMEOUT_MS, signal });
}
