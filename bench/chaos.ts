/**
 * Breaks things in every way it knows while clients work, and checks after each round that nothing acknowledged was lost,
 * no state came up that must not, and nothing leaked:
 *
 *   npm run chaos -- [--seed N] [--faults N] [--from ROUND] [--only a,b] [--verbose]
 *
 * A round is a few faults, one after another or at once, all chosen by the seed and the round's number: a finding names both,
 * and `--from` begins with that round. Needs root (a small disk of its own is mounted, to be filled); the clock is set only
 * where libfaketime is installed. Ends with 1 at the first finding.
 */
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { smallDisk } from '../test/support/small-disk.ts';
import { FAULTS, type Fault, type Harm, strike } from './chaos/faults.ts';
import { judge } from './chaos/judge.ts';
import { type Random, seeded } from './chaos/random.ts';
import { World } from './chaos/world.ts';

const DISK_MIB = 8192;
const CLIENTS = 3;
/** Of each client in a round, at least and at most. */
const ACTIONS = [2, 12] as const;
const MOST_FAULTS = 4;
/** A fault falls somewhere into the actions. */
const HARM_WITHIN_MS = 700;
const HARM_FOR_MS = 1000;
/** Of those that can: goes on until the round's end. */
const LASTS = 0.3;
const REPORT_EVERY = 25;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      faults: { type: 'string', default: '100' },
      from: { type: 'string', default: '1' },
      only: { type: 'string', default: '' },
      verbose: { type: 'boolean', default: false },
    },
  });
  const [seed, wanted] = [Number(values.seed), Number(values.faults)];
  const only = values.only.split(',').filter((name) => name !== '');
  const [first, ...rest] = FAULTS.filter((fault) => only.length === 0 || only.includes(fault));
  if (first === undefined || !only.every((name) => (FAULTS as readonly string[]).includes(name))) {
    throw new Error(`--only takes some of ${FAULTS.join(',')}`);
  }
  console.log(`chaos: seed ${seed}, ${wanted} faults of ${[first, ...rest].join(', ')}`);

  await using disk = await smallDisk(DISK_MIB);
  await using world = await World.create(disk);
  if (world.clock === undefined) console.log('chaos: no libfaketime on this host, so the clock is left alone');
  const startedAt = performance.now();
  const tally = new Map<Fault, number>();
  let done = 0;
  let isStopped = false;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => (isStopped = true));
  for (let round = Number(values.from); done < wanted && !isStopped; round++) {
    const random = seeded(seed).fork(round);
    const before = done;
    const struck: Fault[] = [];
    let objections: string[];
    try {
      await disturb(world, [first, ...rest], random, struck);
      done += struck.length;
      objections = await judge(world, random, done >= wanted);
    } catch (error) {
      // A server that does not start, or does not answer when all is well.
      objections = [error instanceof Error ? (error.stack ?? error.message) : String(error)];
    }
    for (const fault of struck) tally.set(fault, (tally.get(fault) ?? 0) + 1);
    const perFault = ((performance.now() - startedAt) / 1000 / Math.max(1, done)).toFixed(1);
    const where = `seed ${seed}, round ${round}`;
    if (values.verbose) console.log(`  ${where}: ${struck.join(' ')} (${world.guests.size} microVMs)`);
    if (Math.floor(before / REPORT_EVERY) !== Math.floor(done / REPORT_EVERY)) {
      console.log(`${new Date().toISOString()} ${done}/${wanted} faults green, ${perFault} s each (${where})`);
    }
    if (objections.length === 0) continue;
    tell(world, objections, join(tmpdir(), `chaos-found-${seed}-${round}.txt`));
    console.error(`chaos: found after ${before} green faults in ${where}, among ${struck.join(' ')}`);
    process.exitCode = 1;
    return;
  }
  const left = await world.end();
  if (left.length > 0) {
    tell(world, left, join(tmpdir(), `chaos-found-${seed}-end.txt`));
    process.exitCode = 1;
    return;
  }
  console.log(`chaos: ${done} faults, nothing found (seed ${seed})`);
  console.log([...tally].map(([fault, times]) => `${fault} ${times}`).join(', '));
}

/** Clients work, faults fall among what they do, all comes to an end, and everything is put right again. */
async function disturb(
  world: World,
  choices: readonly [Fault, ...Fault[]],
  random: Random,
  struck: Fault[],
): Promise<void> {
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

function tell(world: World, objections: readonly string[], file: string): void {
  for (const objection of objections) console.error(`  ${objection}`);
  writeFileSync(file, [...objections, '', ...world.notes, '', world.log()].join('\n'));
  console.error(`  what was done and what the server said: ${file}`);
}

await main();
