/**
 * Breaks things in every way it knows while clients work, and checks after each round that nothing acknowledged was lost,
 * no state came up that must not, and nothing leaked: `npm run chaos -- [--seed N] [--faults N] [--only a,b]`.
 *
 * Needs root (a small disk of its own is mounted, to be filled). Ends with 1 at the first finding and says its seed.
 */
import { parseArgs } from 'node:util';
import { smallDisk } from './chaos/disk.ts';
import { judge } from './chaos/judge.ts';
import { seeded } from './chaos/random.ts';
import { FAULTS, type Fault, World } from './chaos/world.ts';

const DISK_MIB = 8192;
const CLIENTS = 3;
/** Of each client in a round. */
const ACTIONS = 4;
/** A fault falls somewhere into the actions. */
const HARM_WITHIN_MS = 1500;
const HARM_FOR_MS = 1500;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      faults: { type: 'string', default: '100' },
      only: { type: 'string', default: '' },
    },
  });
  const seed = Number(values.seed);
  const wanted = Number(values.faults);
  const [first = 'none', ...rest] = FAULTS.filter(
    (fault) => values.only === '' || values.only.split(',').includes(fault),
  );
  const choices: readonly [Fault, ...Fault[]] = [first, ...rest];
  const random = seeded(seed);
  console.log(`chaos: seed ${seed}, ${wanted} faults of ${choices.join(', ')}`);

  await using disk = await smallDisk(DISK_MIB);
  await using world = await World.create(disk, random, (line) => console.log(line));
  for (let round = 1; round <= wanted; round++) {
    const startedAt = performance.now();
    const fault = random.pick(choices);
    await disturb(world, fault, random.below(HARM_WITHIN_MS), random.below(HARM_FOR_MS));
    const objections = await judge(world);
    const took = ((performance.now() - startedAt) / 1000).toFixed(1);
    console.log(`${round}/${wanted} ${fault} (${world.guests.size} microVMs, ${took} s)`);
    if (objections.length === 0) continue;
    for (const objection of objections) console.error(`  ${objection}`);
    console.error(world.server.log().slice(-6000));
    console.error(`chaos: found at fault ${round} with --seed ${seed}`);
    process.exitCode = 1;
    return;
  }
  console.log(`chaos: ${wanted} faults, nothing found (seed ${seed})`);
}

/** Clients work, the fault falls among what they do, all comes to an end, and everything is put right again. */
async function disturb(world: World, fault: Fault, afterMs: number, forMs: number): Promise<void> {
  const clients = Array.from({ length: CLIENTS }, async () => {
    for (let i = 0; i < ACTIONS; i++) await world.act();
  });
  await wait(afterMs);
  const undo = await world.harm(fault);
  try {
    await wait(forMs);
  } finally {
    await undo();
  }
  await Promise.all(clients);
  await world.heal();
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

await main();
