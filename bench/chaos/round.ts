/** One round: clients work, faults fall among what they do, all comes to an end, and everything is judged. */
import { setTimeout as delay } from 'node:timers/promises';
import { type Fault, type Harm, strike } from './faults.ts';
import { judge } from './judge.ts';
import { type Random, seeded } from './random.ts';
import type { World } from './world.ts';

const CLIENTS = 3;
/** Of each client in a round, at least and at most. */
const ACTIONS = [2, 12] as const;
const MOST_FAULTS = 4;
/** A fault falls somewhere into the actions. */
const HARM_WITHIN_MS = 700;
const HARM_FOR_MS = 1000;
/** Of those that can: goes on until the round's end. */
const LASTS = 0.3;

export type Choices = readonly [Fault, ...Fault[]];

export interface Round {
  readonly seed: number;
  readonly round: number;
  readonly choices: Choices;
  /** Whoever sleeps is woken to be judged. */
  readonly wakesAll: boolean;
}

export interface Outcome {
  readonly struck: readonly Fault[];
  readonly objections: readonly string[];
}

/** All of it is chosen by the seed and the round's number. */
export async function playRound(world: World, { seed, round, choices, wakesAll }: Round): Promise<Outcome> {
  const random = seeded(seed).fork(round);
  const struck: Fault[] = [];
  try {
    await disturb(world, choices, random, struck);
    return { struck, objections: await judge(world, random, wakesAll) };
  } catch (error) {
    // A server that does not start, or does not answer when all is well.
    return { struck, objections: [error instanceof Error ? (error.stack ?? error.message) : String(error)] };
  }
}

async function disturb(world: World, choices: Choices, random: Random, struck: Fault[]): Promise<void> {
  const over = new AbortController();
  const [atLeast, atMost] = ACTIONS;
  const clients = Array.from({ length: CLIENTS }, async (_, client) => {
    const choose = random.fork(client);
    for (let i = 0; i < atMost && (i < atLeast || !over.signal.aborted); i++) await world.act(choose);
  });
  const lasting: Harm[] = [];
  for (let left = 1 + random.below(MOST_FAULTS); left > 0; left--) {
    const fault = random.pick(choices);
    await delay(random.below(HARM_WITHIN_MS));
    world.note(`--- ${fault}`);
    const harm = await strike(world, fault, random);
    if (harm === undefined) continue;
    struck.push(fault);
    if (harm.canLast && random.chance(LASTS)) {
      harm.onLast?.();
      lasting.push(harm);
      continue;
    }
    await delay(random.below(HARM_FOR_MS));
    await harm.undo();
    world.note(`--- ${fault} is over`);
  }
  for (const harm of lasting) await harm.undo();
  world.note('--- all faults are over');
  over.abort();
  await Promise.all(clients);
}
