/** Which accelerator and capabilities machines on this host get; probed once when the engine is made. */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { HostReport } from '../engine.ts';
import type { CgroupPlaces } from '../jail/cgroups/places.ts';
import type { JailPlan } from '../jail/plan.ts';
import type { Runtime } from '../runtime.ts';
import { inspect } from './inspect.ts';

export interface HostAbilities {
  readonly report: HostReport;
  readonly deltaSave: boolean;
  readonly jail: { readonly plan: JailPlan; readonly places: CgroupPlaces };
}

export async function probeHost(runtime: Runtime, stateDir: string): Promise<HostAbilities> {
  const { checks, plan, places } = await inspect({ runtime, stateDir, isDry: false });
  const isFine = (id: string) => checks.find((check) => check.id === id)?.ok === 'yes';
  const cpus = availableParallelism();
  return {
    report: {
      accelerator: isFine('accelerator') ? 'kvm' : 'tcg',
      vmmVersion: `QEMU ${runtime.qemu.version}`,
      cpus,
      remarks: checks.filter((check) => check.ok !== 'yes').map((check) => check.what),
    },
    deltaSave: isFine('ptrace'),
    jail: { plan, places },
  };
}

/** What `-cpu host` makes a snapshot depend on; the same everywhere under TCG. */
export function cpuFingerprint(accelerator: 'kvm' | 'tcg'): string {
  if (accelerator === 'tcg') return 'tcg';
  const text = readFileSync('/proc/cpuinfo', 'latin1');
  const field = (name: string) => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(text)?.[1] ?? '';
  return [field('vendor_id'), field('cpu family'), field('model'), field('stepping'), field('flags')].join('/');
}
