/** What cgroups can hold on this host, one item each. */
import type { HostCheck } from '../../host/inspect.ts';
import { CONTROLLERS, type Controller } from './find.ts';
import type { CgroupPlaces } from './places.ts';

const IDS = { cpu: 'cgroup-cpu', memory: 'cgroup-memory', pids: 'cgroup-pids', io: 'cgroup-io' } as const;

const HELD: Readonly<Record<Controller, string>> = {
  cpu: 'CPU of each microVM is capped at its vCPUs and weighed by its size',
  memory: 'memory of each VMM is capped at its guest and what it needs itself',
  pids: 'threads of each VMM are capped',
  io: 'disk I/O of each VMM is capped and weighed',
};

const NOT_HELD: Readonly<Record<Controller, string>> = {
  cpu: 'no cgroup for CPU: a busy microVM takes what its vCPUs get',
  memory: 'no cgroup for memory: a VMM that was taken over could use up the host',
  pids: 'no cgroup for processes: limits per user remain',
  io: 'no cgroup for disk I/O: VMMs throttle their guests themselves',
};

export function cgroupChecks({ version, folders }: CgroupPlaces): HostCheck[] {
  return CONTROLLERS.map((controller) => {
    const id = IDS[controller];
    if (folders[controller] === undefined) {
      return { id, ok: 'degraded', what: NOT_HELD[controller], remedy: REMEDY };
    }
    if (controller === 'io' && version === 1) {
      const what = 'cgroup v1 does not count buffered writes: VMMs throttle their guests themselves';
      return { id, ok: 'degraded', what, remedy: 'a host with cgroup v2' };
    }
    return { id, ok: 'yes', what: `${HELD[controller]} (cgroup v${version})`, remedy: '' };
  });
}

const REMEDY = 'run as root, or as a systemd service with Delegate=yes and DelegateSubgroup=rekindle-server';
