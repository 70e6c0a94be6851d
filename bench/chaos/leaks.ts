/** What is left of microVMs and builds that are over: processes, folders, sockets, groups, mounts, ports, open files. */
import { readdirSync, readFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { gatewaysOf, listeningPorts, openFiles, processesNaming, residentMiB, vmmsOf } from './processes.ts';
import type { World } from './world.ts';

/** What was told to go may still be on its way when the API has answered. */
const GRACE_MS = 5000;
const POLL_MS = 200;
/** Sockets, databases, logs of a server without microVMs; each live one adds a dozen. */
const BASE_FILES = 120;
const FILES_EACH = 24;
const MOST_RESIDENT_MIB = 700;
/** Image, builder's cache, records; each microVM's overlay and delta. */
const BASE_MIB = 4096;
const MIB_EACH = 512;
const CGROUPS = '/sys/fs/cgroup';
const MICROVM = /microvm-[0-9a-f]{8}-[0-9a-f-]{27}/;

export interface Living {
  /** Have a machine. */
  readonly running: readonly string[];
  /** Have something on disk and a port. */
  readonly kept: readonly string[];
  /** Were there in this round; the ports of those that ended linger for a minute. */
  readonly all: readonly string[];
}

/** No build is under way. What sleeps may be on its way up though its state does not say so: who lives is asked each time. */
export async function leaksOf(world: World, lives: () => Promise<Living>): Promise<string[]> {
  const deadline = performance.now() + GRACE_MS;
  for (;;) {
    const living = await lives();
    const found = [
      ...processes(world, living),
      ...folders(world, living),
      ...sockets(world, living),
      ...groups(world, living),
      ...(await holdings(world, living)),
    ];
    if (found.length === 0 || performance.now() > deadline) return found;
    await delay(POLL_MS);
  }
}

function processes(world: World, { running }: Living): string[] {
  const objections: string[] = [];
  let servers = 0;
  for (const { pid, command } of processesNaming(world.stateDir)) {
    const id = MICROVM.exec(command)?.[0];
    if (id !== undefined && running.includes(id)) continue;
    if (id === undefined && / serve /.test(command)) servers++;
    else if (id !== undefined || /qemu-system/.test(command)) {
      objections.push(`process ${pid} is nobody's: ${command.slice(0, 200)}`);
    }
  }
  if (servers !== 1) objections.push(`${servers} servers run`);
  for (const [id, pid] of vmmsOf(world.stateDir)) {
    if (!running.includes(id)) objections.push(`the VMM ${pid} of ${id} is nobody's`);
  }
  const gateways = gatewaysOf(world.stateDir);
  if (gateways.length > 1) objections.push(`${gateways.length} gateways run: ${gateways.join(', ')}`);
  return objections;
}

function folders({ stateDir, images }: World, { running, kept }: Living): string[] {
  const names = [...images.values()].filter(({ isGone }) => !isGone).map(({ arn }) => arn.split(':').at(-1) ?? '');
  const expected: [string, readonly string[]][] = [
    ['run', running],
    ['gateway/net', running],
    ['microvms', kept],
    ['builds', []],
    ['images', ['chaos', ...names]],
  ];
  return expected.flatMap(([kind, owners]) =>
    namesIn(join(stateDir, kind))
      .filter((name) => !owners.includes(name))
      .map((name) => `${kind}/${name} is nobody's`),
  );
}

function sockets({ stateDir }: World, { running }: Living): string[] {
  return readFileSync('/proc/net/unix', 'latin1')
    .split('\n')
    .filter((line) => line.includes(stateDir))
    .filter((line) => {
      const id = MICROVM.exec(line)?.[0];
      return id !== undefined && !running.includes(id);
    })
    .map((line) => `socket ${line.split(' ').at(-1)} is nobody's`);
}

/** cgroups of version 1 have a tree for each controller, those of version 2 one for all. */
function groups({ ids }: World, { running }: Living): string[] {
  const roots = [CGROUPS, ...namesIn(CGROUPS).map((name) => join(CGROUPS, name))].map((root) => join(root, 'rekindle'));
  const objections: string[] = [];
  for (const server of roots.flatMap((root) => namesIn(root).map((name) => join(root, name)))) {
    const names = namesIn(server);
    for (const name of names) {
      if (ids.has(name) && !running.includes(name)) objections.push(`group ${join(server, name)} is nobody's`);
    }
  }
  return objections;
}

async function holdings({ server, stateDir, disk }: World, { kept, all }: Living): Promise<string[]> {
  const objections: string[] = [];
  const ports = listeningPorts(server.pid).length;
  // API, object store, one endpoint each.
  if (ports < 2 + kept.length) objections.push(`only ${ports} ports for ${kept.length} microVMs`);
  const most = 2 + all.length + LINGERING_PORTS;
  if (ports > most) objections.push(`${ports} ports for ${kept.length} microVMs`);
  const files = openFiles(server.pid);
  if (files > BASE_FILES + FILES_EACH * (all.length + LINGERING_PORTS)) {
    objections.push(`the server has ${files} files open for ${kept.length} microVMs`);
  }
  const resident = residentMiB(server.pid);
  if (resident > MOST_RESIDENT_MIB) objections.push(`the server holds ${resident} MiB`);
  const mounts = readFileSync('/proc/self/mounts', 'latin1')
    .split('\n')
    .filter((line) => line.includes(stateDir));
  for (const mount of mounts) objections.push(`mount ${mount}`);
  const { blocks, bfree, bsize } = await statfs(disk.dir);
  const usedMiB = Math.round(((blocks - bfree) * bsize) / 1024 ** 2);
  if (usedMiB > BASE_MIB + MIB_EACH * kept.length) {
    objections.push(`${usedMiB} MiB are used for ${kept.length} microVMs`);
  }
  return objections;
}

/** Of earlier rounds' microVMs, whose ports stay for a minute. */
const LINGERING_PORTS = 16;

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
}
