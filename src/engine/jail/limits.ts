/** What one machine may take from its host, derived from its size: the same for microVMs, seal boots and builders. */
import type { VmmLimits } from '../vmm/vmm.ts';

const MIB = 1024 * 1024;
/** One vCPU comes with 2 GiB of baseline memory; the guest sees four times both. */
const PEAK_MIB_PER_BASELINE_CPU = 4 * 2048;
/** Emulation's translated code. QEMU's own default is an eighth of the host's memory, at most 1 GiB. */
export const TRANSLATION_MIB = 256;
/** QEMU's heap, libraries and stacks: 60 MiB measured with two vCPUs, most of it shared. */
const VMM_MIB = 256;
/** QEMU's own threads: up to 64 that wait for disks, main loop, RCU, and short-lived ones; it aborts when it gets none. */
const VMM_TASKS = 96;
/**
 * Requests of all disks together. An ordinary SSD serves several machines at this rate; without a limit one machine fills
 * the host's dirty pages and everyone waits for the disk.
 */
const IO = { bytesPerSecond: 256 * MIB, requestsPerSecond: 10_000 } as const;

/** @param size what the guest sees */
export function limitsOf(size: { readonly memoryMiB: number; readonly cpus: number }): VmmLimits {
  return {
    cpus: size.cpus,
    cpuWeight: size.memoryMiB / PEAK_MIB_PER_BASELINE_CPU,
    memoryBytes: (size.memoryMiB + TRANSLATION_MIB + VMM_MIB) * MIB,
    tasks: size.cpus + VMM_TASKS,
    io: IO,
  };
}
