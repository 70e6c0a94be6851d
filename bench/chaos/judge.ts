/** After each round: is everything that was acknowledged there, is nothing there that should not be? */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { listeningPorts, openFiles, processesNaming, programOf } from './processes.ts';
import type { World } from './world.ts';

const SETTLE_MS = 90_000;
const POLL_MS = 200;
/** Sockets, databases, logs of a server without microVMs; each live one adds a dozen. */
const BASE_FILES = 120;
const FILES_EACH = 24;

/** What is wrong; empty when nothing is. */
export async function judge(world: World): Promise<string[]> {
  const states = await settled(world);
  const objections: string[] = [];
  for (const { model } of world.guests.values()) {
    const seen = states.get(model.id);
    if (seen === undefined) {
      objections.push(`${model.id} was acknowledged and is not known any more`);
      continue;
    }
    const objection = model.objection(seen.state, seen.reason);
    if (objection !== undefined) objections.push(objection);
  }
  objections.push(...(await counts(world, states)));
  // Reading the counts woke what slept.
  const after = await settled(world);
  objections.push(...leaks(world, after));
  for (const [id, guest] of world.guests) if (guest.model.isOver) world.guests.delete(id);
  return objections;
}

type States = Map<string, { readonly state: string; readonly reason: string | undefined }>;

/** Waits until nothing is on its way, or for as long as anything may take. */
async function settled(world: World): Promise<States> {
  const deadline = performance.now() + SETTLE_MS;
  for (;;) {
    const states: States = new Map();
    for (const id of world.guests.keys()) {
      const seen = await world
        .api()
        .getMicrovm({ microvmIdentifier: id })
        .catch((error: Error) => (error.name === 'ResourceNotFoundException' ? undefined : Promise.reject(error)));
      if (seen !== undefined) states.set(id, { state: seen.state ?? '', reason: seen.stateReason });
    }
    const moving = [...states.values()].filter(({ state }) => !['RUNNING', 'SUSPENDED', 'TERMINATED'].includes(state));
    if (moving.length === 0 || performance.now() > deadline) return states;
    await delay(POLL_MS);
  }
}

async function counts(world: World, states: States): Promise<string[]> {
  const objections: string[] = [];
  for (const { model } of world.guests.values()) {
    if (states.get(model.id)?.state === 'TERMINATED' || !states.has(model.id)) continue;
    try {
      await world.reconnect(model);
      const client = world.guests.get(model.id)?.client;
      const answer = await client?.get('/state', { timeoutMs: SETTLE_MS });
      if (answer?.status !== 200) {
        objections.push(`${model.id} answers ${answer?.status} when all is well: ${answer?.body.slice(0, 200)}`);
        continue;
      }
      const objection = model.countObjection(JSON.parse(answer.body) as { memory: number; file: number });
      if (objection !== undefined) objections.push(objection);
    } catch (error) {
      objections.push(`${model.id} does not answer when all is well: ${String(error)}`);
    }
  }
  return objections;
}

function leaks(world: World, states: States): string[] {
  const objections: string[] = [];
  const running = [...states].filter(([, { state }]) => state === 'RUNNING').map(([id]) => id);
  const kept = [...states].filter(([, { state }]) => state !== 'TERMINATED').map(([id]) => id);
  for (const { pid, command } of processesNaming(world.stateDir)) {
    if (!programOf(pid).includes('qemu-system')) continue;
    const isBuild = !/microvm-[0-9a-f-]{36}/.test(command);
    if (!isBuild && !running.some((id) => command.includes(id)))
      objections.push(`process ${pid} is nobody's: ${command.slice(0, 200)}`);
  }
  for (const id of foldersIn(world.stateDir, 'run')) {
    if (id.startsWith('microvm-') && !running.includes(id)) objections.push(`run/${id} is nobody's`);
  }
  for (const id of foldersIn(world.stateDir, 'microvms')) {
    if (!kept.includes(id)) objections.push(`microvms/${id} is nobody's`);
  }
  const ports = listeningPorts(world.server.pid).length;
  // API, object store, one endpoint each; that of an ended microVM lingers for a minute.
  if (ports < 2 + kept.length) objections.push(`only ${ports} ports for ${kept.length} microVMs`);
  const files = openFiles(world.server.pid);
  const most = BASE_FILES + FILES_EACH * (kept.length + 4);
  if (files > most) objections.push(`the server has ${files} files open for ${kept.length} microVMs`);
  return objections;
}

function foldersIn(stateDir: string, kind: string): string[] {
  try {
    return readdirSync(join(stateDir, kind));
  } catch {
    return [];
  }
}
