/** What goes wrong: each fault strikes a running world and says how it is undone. */
import { setTimeout as delay } from 'node:timers/promises';
import type { ModelMicrovm } from './model.ts';
import { gatewaysOf, isAlive, processesNaming, vmmsOf } from './processes.ts';
import type { Random } from './random.ts';
import type { World } from './world.ts';

export const FAULTS = [
  'kill-server',
  'kill-server-at-start',
  'stop-server',
  'pause-server',
  'kill-vm',
  'pause-vm',
  'kill-gateway',
  'pause-gateway',
  'kill-builder',
  'fill-disk',
  'jump-clock',
] as const;
export type Fault = (typeof FAULTS)[number];

export interface Harm {
  /** Undoes what does not heal by itself. */
  undo(): Promise<void>;
  /** May go on while others strike. */
  readonly canLast: boolean;
  /** It does. */
  onLast?(): void;
}

const HEALS: Harm = { undo: async () => {}, canLast: true };
const START_TAKES_MS = 1500;
const BUILDER_COMES_WITHIN_MS = 10_000;
const BUILD_TAKES_MS = 5000;
const LEAVE_AT_MOST_MIB = 24;
/** Node gives its answers the date of up to a second ago, which an SDK's client takes for the server's time. */
const DATE_IS_KEPT_MS = 1100;
const HOUR = 3600;
const JUMPS = [-30 * 24 * HOUR, -24 * HOUR, -HOUR, -90, -2, 2, 90, HOUR, 24 * HOUR, 365 * 24 * HOUR] as const;

/** Undefined when there was nothing to strike. */
export async function strike(world: World, fault: Fault, random: Random): Promise<Harm | undefined> {
  const { pid } = world.server;
  switch (fault) {
    case 'kill-server':
      kill(pid, 'SIGKILL');
      return { undo: () => world.revive(), canLast: false };
    case 'kill-server-at-start':
      kill(pid, 'SIGKILL');
      await world.stillbirth(random.below(START_TAKES_MS));
      return { undo: () => world.revive(), canLast: false };
    case 'stop-server': {
      // One signal only: a second one would say not to wait.
      const ended = world.server.stop();
      const undo = async () => {
        const code = await ended;
        if (code !== 0) world.findings.push(`the server ended with ${code} when it was asked to`);
        await world.revive();
      };
      return { undo, canLast: false };
    }
    case 'pause-server':
      return paused([pid]);
    case 'kill-vm': {
      const [model, vmm] = anyMachine(world, random);
      if (model === undefined || vmm === undefined) return undefined;
      model.mayDie = true;
      kill(vmm, 'SIGKILL');
      world.note(`killed the machine of ${model.id}`);
      return HEALS;
    }
    case 'pause-vm': {
      const [model, vmm] = anyMachine(world, random);
      if (model === undefined || vmm === undefined) return undefined;
      world.note(`paused the machine of ${model.id}`);
      // A server that starts meanwhile gives up a VMM that does not answer.
      const onLast = () => {
        model.mayDie = true;
      };
      return { ...paused([vmm]), canLast: true, onLast };
    }
    case 'kill-gateway': {
      const pids = gatewayAndHolder(world);
      if (pids.length === 0) return undefined;
      const [first = 0, ...rest] = pids;
      for (const one of random.chance(0.5) ? pids : [random.pick([first, ...rest])]) kill(one, 'SIGKILL');
      return HEALS;
    }
    case 'pause-gateway': {
      const pids = gatewayAndHolder(world);
      return pids.length === 0 ? undefined : { ...paused(pids), canLast: true };
    }
    case 'kill-builder': {
      await world.beginBuild();
      const early = await world.builder(BUILDER_COMES_WITHIN_MS);
      if (early === undefined) return undefined;
      await delay(random.below(BUILD_TAKES_MS));
      // By now it may be another one: the app's machine is booted after the container's image was built.
      const late = await world.builder(0);
      if (late === undefined) return undefined;
      kill(late, 'SIGKILL');
      return HEALS;
    }
    case 'fill-disk': {
      await world.disk.fill(random.below(LEAVE_AT_MOST_MIB));
      world.isDiskFull = true;
      // One that is being launched may find no room for its files. One that has answered is past that.
      for (const { model } of world.guests.values()) if (model.acknowledged === 0) model.mayDie = true;
      const undo = async () => {
        await world.disk.free();
        world.isDiskFull = false;
      };
      return { undo, canLast: true };
    }
    case 'jump-clock': {
      const { clock } = world;
      if (clock === undefined) return undefined;
      const seconds = random.pick(JUMPS);
      await clock.set(seconds);
      world.note(`the server's clock is off by ${seconds} s`);
      const undo = async () => {
        await clock.set(0);
        await delay(DATE_IS_KEPT_MS);
      };
      return { undo, canLast: true };
    }
    default:
      return fault satisfies never;
  }
}

function paused(pids: readonly number[]): Harm {
  for (const pid of pids) kill(pid, 'SIGSTOP');
  const undo = async () => {
    for (const pid of pids) kill(pid, 'SIGCONT');
  };
  return { undo, canLast: false };
}

/** A microVM that has a machine just now. */
function anyMachine(world: World, random: Random): [ModelMicrovm, number] | [undefined, undefined] {
  const vmms = vmmsOf(world.stateDir);
  const running = [...world.guests.values()].flatMap(({ model }): [ModelMicrovm, number][] => {
    const vmm = model.isOver ? undefined : vmms.get(model.id);
    return vmm === undefined ? [] : [[model, vmm]];
  });
  const [first, ...rest] = running;
  return first === undefined ? [undefined, undefined] : random.pick([first, ...rest]);
}

/** The gateway itself and what holds its namespace. */
function gatewayAndHolder({ stateDir, server }: World): number[] {
  const holders = processesNaming(stateDir).filter(
    ({ pid, command }) => /rekindle-gateway/.test(command) && pid !== server.pid && isAlive(pid),
  );
  return [...new Set([...gatewaysOf(stateDir), ...holders.map(({ pid }) => pid)])];
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // gone already
  }
}
