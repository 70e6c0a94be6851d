/** What is written into a machine's groups, in the words of either version. */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { VmmLimits } from '../../vmm/vmm.ts';
import type { Controller } from './find.ts';

/** How long a machine that used up its quota waits at most. */
const PERIOD_US = 100_000;

export interface Value {
  readonly file: string;
  readonly text: string;
  /** Without it the limit still holds, by this file's neighbours or by the VMM's own throttle. */
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

/** Of CPU time, against other machines. */
export function weightOf(version: 1 | 2, cpuWeight: number): Value {
  return version === 1
    ? { file: 'cpu.shares', text: `${clamp(Math.round(1024 * cpuWeight), 2, 262_144)}` }
    : { file: 'cpu.weight', text: `${clamp(Math.round(100 * cpuWeight), 1, 10_000)}` };
}

/** @throws when the kernel refuses one that is not optional */
export async function writeValues(group: string, values: readonly Value[]): Promise<void> {
  for (const { file, text, isOptional } of values) {
    await writeFile(path.join(group, file), text).catch((error: unknown) => {
      if (isOptional !== true) throw error;
    });
  }
}

function v1(controller: Controller, limits: VmmLimits, device: string | undefined): readonly Value[] {
  const quotaUs = Math.round(limits.cpus * PERIOD_US);
  switch (controller) {
    case 'cpu':
      return [
        { file: 'cpu.cfs_period_us', text: `${PERIOD_US}` },
        { file: 'cpu.cfs_quota_us', text: `${quotaUs}` },
        { file: 'cpu.cfs_burst_us', text: `${quotaUs}`, isOptional: true },
        weightOf(1, limits.cpuWeight),
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
            optional('blkio.throttle.read_bps_device', `${device} ${limits.io.bytesPerSecond}`),
            optional('blkio.throttle.write_bps_device', `${device} ${limits.io.bytesPerSecond}`),
            optional('blkio.throttle.read_iops_device', `${device} ${limits.io.requestsPerSecond}`),
            optional('blkio.throttle.write_iops_device', `${device} ${limits.io.requestsPerSecond}`),
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
        weightOf(2, limits.cpuWeight),
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
              optional(
                'io.max',
                `${device} rbps=${bytesPerSecond} wbps=${bytesPerSecond} riops=${requestsPerSecond} wiops=${requestsPerSecond}`,
              ),
            ]),
      ];
  }
}

function optional(file: string, text: string): Value {
  return { file, text, isOptional: true };
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}
