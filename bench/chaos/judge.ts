/** After each round: is everything that was acknowledged there, is nothing there that should not be? */
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { Answer, EndpointClient } from '../../test/support/endpoint.ts';
import { type Living, leaksOf } from './leaks.ts';
import type { ModelImage, ModelMicrovm } from './model.ts';
import type { Random } from './random.ts';
import type { World } from './world.ts';

const SETTLE_MS = 90_000;
/** A build that nobody broke takes its time. */
const BUILD_MS = 300_000;
const POLL_MS = 150;
const SECOND_LOOK_MS = 500;
const RETRIES = 2;
/** A server looks at its certificate every 5 s. */
const CERTIFICATE_RETRIES = 10;
const RETRY_MS = 1000;
const STABLE = ['RUNNING', 'SUSPENDED', 'TERMINATED'];

/**
 * What is wrong; empty when nothing is. A sleeping microVM is woken for its counts only now and then, unless `wakesAll`:
 * what it counted is remembered.
 */
export async function judge(world: World, random: Random, wakesAll: boolean): Promise<string[]> {
  const objections = world.findings.splice(0);
  world.forgetClockSkew();
  await world.discover();
  const states = await settled(world);
  for (const { model } of world.guests.values()) {
    const seen = states.get(model.id);
    if (seen === undefined) {
      objections.push(`${model.id} was acknowledged and is not known any more`);
      continue;
    }
    const objection = model.objection(seen.state, seen.reason);
    if (objection !== undefined) objections.push(objection);
  }
  objections.push(...(await unlisted(world, states)));
  const asked = [...world.guests.values()].filter(({ model }) => {
    const state = states.get(model.id)?.state;
    return state === 'RUNNING' || (state === 'SUSPENDED' && (wakesAll || random.chance(0.4)));
  });
  const counted = await Promise.all(asked.map(({ model }) => countObjection(world, model)));
  objections.push(...counted.flatMap((objection) => objection ?? []));
  for (const image of world.images.values()) objections.push(...(await imageObjections(world, image)));
  await endAgain(world);
  objections.push(...(await leaksOf(world, () => living(world))));
  for (const [id, guest] of world.guests) {
    if (!guest.model.isOver) continue;
    guest.client[Symbol.dispose]();
    world.guests.delete(id);
  }
  for (const [arn, image] of world.images) if (image.isGone) world.images.delete(arn);
  return objections;
}

type States = Map<string, { readonly state: string; readonly reason: string | undefined }>;

/**
 * Waits until nothing is on its way, or for as long as anything may take. Two looks must agree: a microVM that is being resumed
 * reads as SUSPENDED, and whether its machine is still there a server that has just started finds out by and by.
 */
async function settled(world: World): Promise<States> {
  const deadline = performance.now() + SETTLE_MS;
  for (let before: States | undefined; ; ) {
    const states: States = new Map();
    for (const id of world.guests.keys()) {
      const seen = await known(world.api().getMicrovm({ microvmIdentifier: id }));
      if (seen !== undefined) states.set(id, { state: seen.state ?? '', reason: seen.stateReason });
    }
    const moving = [...states.values()].filter(({ state }) => !STABLE.includes(state));
    const isStill = moving.length === 0;
    if ((isStill && isDeepStrictEqual(states, before)) || performance.now() > deadline) return states;
    before = isStill ? states : undefined;
    await delay(isStill ? SECOND_LOOK_MS : POLL_MS);
  }
}

/** Reading the counts woke what slept. */
async function living(world: World): Promise<Living> {
  const states = await settled(world);
  const ids = (...wanted: string[]) => [...states].filter(([, { state }]) => wanted.includes(state)).map(([id]) => id);
  return { running: ids('RUNNING'), kept: ids('RUNNING', 'SUSPENDED'), all: [...states.keys()] };
}

/** A list names what is there, in the state it is in. One that was still being resumed may have come to its end in between. */
async function unlisted(world: World, states: States): Promise<string[]> {
  let seen = states;
  for (let again = 0; ; again++) {
    const listed = await world.listed();
    const objections = [...seen].flatMap(([id, { state }]) => {
      const told = listed.get(id);
      return told === state || state === 'TERMINATED'
        ? []
        : [`${id} is ${state}, and ${told ?? 'missing'} in the list`];
    });
    if (objections.length === 0 || again === RETRIES) return objections;
    await delay(RETRY_MS);
    seen = await settled(world);
  }
}

/** An end that was asked for and not acknowledged is asked for again: else those would become ever more. */
async function endAgain(world: World): Promise<void> {
  for (const { model } of world.guests.values()) {
    if (!model.terminateSent || model.terminateAcknowledged || model.isOver) continue;
    await world.api().terminateMicrovm({ microvmIdentifier: model.id });
    model.terminateAcknowledged = true;
  }
}

async function countObjection(world: World, model: ModelMicrovm): Promise<string | undefined> {
  try {
    await world.reconnect(model);
    const client = world.guests.get(model.id)?.client;
    let answer = await firstAnswer(client);
    // A resume that was begun on a full disk may have failed only now, and who waited for it was told.
    for (let again = 0; again < RETRIES && answer?.status === 502; again++) {
      await delay(RETRY_MS);
      answer = await client?.get('/state', { timeoutMs: SETTLE_MS });
    }
    if (answer?.status !== 200) {
      return `${model.id} answers ${answer?.status} when all is well: ${answer?.body.slice(0, 200)}`;
    }
    return model.countObjection(JSON.parse(answer.body) as Parameters<ModelMicrovm['countObjection']>[0]);
  } catch (error) {
    // Its machine was killed, and that came out only now.
    const now = await known(world.api().getMicrovm({ microvmIdentifier: model.id }));
    if (now?.state === 'TERMINATED') return model.objection(now.state, now.stateReason);
    return `${model.id} does not answer when all is well: ${String(error)}`;
  }
}

/** A server that was started while the clock was ahead sees within seconds that its certificate is of no use now. */
async function firstAnswer(client: EndpointClient | undefined): Promise<Answer | undefined> {
  for (let again = 0; ; again++) {
    try {
      return await client?.get('/state', { timeoutMs: SETTLE_MS });
    } catch (error) {
      if (again === CERTIFICATE_RETRIES || !/certificate is not yet valid/.test(String(error))) throw error;
      await delay(RETRY_MS);
    }
  }
}

/** Its build ends; then it can be removed, and is gone. */
async function imageObjections(world: World, image: ModelImage): Promise<string[]> {
  const imageIdentifier = image.arn;
  const stateWhen = async (isOver: (state: string | undefined) => boolean) => {
    const deadline = performance.now() + BUILD_MS;
    for (;;) {
      const state = (await known(world.api().getMicrovmImage({ imageIdentifier })))?.state;
      if (isOver(state) || performance.now() > deadline) return state;
      await delay(POLL_MS);
    }
  };
  const built = await stateWhen((state) => state !== 'CREATING');
  world.note(`${image.arn} is ${built}`);
  const objection = image.objection(built);
  if (objection !== undefined) return [objection];
  try {
    image.deleteSent = true;
    await world.api().deleteMicrovmImage({ imageIdentifier });
    image.deleteAcknowledged = true;
  } catch (error) {
    return [`${image.arn} can't be removed when all is well: ${String(error)}`];
  }
  const after = image.objection(await stateWhen((state) => state === undefined));
  return after === undefined ? [] : [after];
}

/** Undefined for what the service does not know. */
async function known<T>(answer: Promise<T>): Promise<T | undefined> {
  return answer.catch((error: Error) =>
    error.name === 'ResourceNotFoundException' ? undefined : Promise.reject(error),
  );
}
