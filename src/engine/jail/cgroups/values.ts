/** What is written into a machine's groups, in the words of either version. */
import type { VmmLimits } from '../../vmm/vmm.ts';
import type { Controller } from './find.ts';

/** How long a machine that used up its quota waits at most. */
const PERIOD_US = 100_000;

export interface Value {
  readonly file: string;
  readonly text: string;
  /** A kernel that has no such file lacks a refinement, not the limit. */
  readonly isOptional?: boolean;
}

/** @param device `major:minor` of the disk that holds the machines' files, where there is one */
export function valuesOf(
  version: 1 | 2,
  controller: Controller,
  limits: VmmLimits,
  device: string | undefined,
): readonly Value[] {
  return version === 1 ? v1(controller, limits, device) : v2(controller, limits, device);
}

function v1(controller: Controller, limits: VmmLimits, device: string | undefined): readonly Value[] {
  const quotaUs = Math.round(limits.cpus * PERIOD_US);
  switch (controller) {
    case 'cpu':
      return [
        { file: 'cpu.cfs_period_us', text: `${PERIOD_US}` },
        { file: 'cpu.cfs_quota_us', text: `${quotaUs}` },
        { file: 'cpu.cfs_burst_us', text: `${quotaUs}`, isOptional: true },
        { file: 'cpu.shares', text: `${clamp(Math.round(1024 * limits.cpuWeight), 2, 262_144)}` },
      ];
    case 'memory':
      return [{ file: 'memory.limit_in_bytes', text: `${limits.memoryBytes}` }];
    case 'pids':
      return [{ file: 'pids.max', text: `${limits.tasks}` }];
    case 'io':
      // Only what goes past the page cache is counted for the machine; its buffered writes are throttled by the VMM.
      return device === undefined
        ? []
        : [
            { file: 'blkio.throttle.read_bps_device', text: `${device} ${limits.io.bytesPerSecond}` },
            { file: 'blkio.throttle.write_bps_device', text: `${device} ${limits.io.bytesPerSecond}` },
            { file: 'blkio.throttle.read_iops_device', text: `${device} ${limits.io.requestsPerSecond}` },
            { file: 'blkio.throttle.write_iops_device', text: `${device} ${limits.io.requestsPerSecond}` },
          ];
  }
}

function v2(controller: Controller, limits: VmmLimits, device: string | undefined): readonly Value[] {
  const quotaUs = Math.round(limits.cpus * PERIOD_US);
  const { bytesPerSecond, requestsPerSecond } = limits.io;
  switch (controller) {
    case 'cpu':
      return [
        { file: 'cpu.max', text: `${quotaUs} ${PERIOD_US}` },
        { file: 'cpu.max.burst', text: `${quotaUs}`, isOptional: true },
        { file: 'cpu.weight', text: `${clamp(Math.round(100 * limits.cpuWeight), 1, 10_000)}` },
      ];
    case 'memory':
      return [
        { file: 'memory.max', text: `${limits.memoryBytes}` },
        { file: 'memory.oom.group', text: '1', isOptional: true },
      ];
    case 'pids':
      return [{ file: 'pids.max', text: `${limits.tasks}` }];
    case 'io':
      return [
        { file: 'io.weight', text: `${clamp(Math.round(100 * limits.cpuWeight), 1, 10_000)}`, isOptional: true },
        ...(device === undefined
          ? []
          : [
              {
                file: 'io.max',
                text: `${device} rbps=${bytesPerSecond} wbps=${bytesPerSecond} riops=${requestsPerSecond} wiops=${requestsPerSecond}`,
              },
            ]),
      ];
  }
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}
