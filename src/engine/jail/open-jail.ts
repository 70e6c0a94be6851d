/** The jail of one server: this host's plan, with the groups its machines live in. */
import type { HostAbilities } from '../host/host.ts';
import type { Runtime } from '../runtime.ts';
import { Cgroups } from './cgroups/groups.ts';
import { Jail } from './jail.ts';
import type { JailPlan } from './plan.ts';

/** The host as if it allowed no jail at all: what a bench compares with. */
export function withoutJail(host: HostAbilities): HostAbilities {
  const plan: JailPlan = { kind: 'none', parts: new Set(), seccomp: false };
  return { ...host, jail: { plan, places: { version: 2, folders: {} } } };
}

/** @param stateDir names the server among those of the host */
export async function openJail(runtime: Runtime, stateDir: string, host: HostAbilities): Promise<Jail> {
  const { plan, places } = host.jail;
  const cgroups = await Cgroups.open(places, stateDir);
  return new Jail({ plan, runtime, accelerator: host.report.accelerator, cgroups });
}
