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
import { parseArgs } from 'node:util';
import { smallDisk } from '../test/support/small-disk.ts';
import { FAULTS, type Fault } from './chaos/faults.ts';
import { type Choices, playRound } from './chaos/round.ts';
import { World } from './chaos/world.ts';

const DISK_MIB = 8192;
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
  const choices = choicesOf(values.only);
  console.log(`chaos: seed ${seed}, ${wanted} faults of ${choices.join(', ')}`);

  // Before anything is acquired: a signal in the middle of the set-up must not leave a mount and a server behind.
  let isStopped = false;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => (isStopped = true));
  await using disk = await smallDisk(DISK_MIB);
  await using world = await World.create(disk);
  if (world.clock === undefined) console.log('chaos: no libfaketime on this host, so the clock is left alone');
  const startedAt = performance.now();
  const tally = new Map<Fault, number>();
  let done = 0;
  for (let round = Number(values.from); done < wanted && !isStopped; round++) {
    const before = done;
    const { struck, objections } = await playRound(world, { seed, round, choices, wakesAll: done + 1 >= wanted });
    const where = `seed ${seed}, round ${round}`;
    if (objections.length > 0) {
      tell(world, objections, join(tmpdir(), `chaos-found-${seed}-${round}.txt`));
      console.error(`chaos: found after ${before} green faults in ${where}, among ${struck.join(' ')}`);
      return;
    }
    done += struck.length;
    for (const fault of struck) tally.set(fault, (tally.get(fault) ?? 0) + 1);
    if (values.verbose) console.log(`  ${where}: ${struck.join(' ')} (${world.guests.size} microVMs)`);
    if (Math.floor(before / REPORT_EVERY) !== Math.floor(done / REPORT_EVERY)) {
      const perFault = ((performance.now() - startedAt) / 1000 / done).toFixed(1);
      console.log(`${new Date().toISOString()} ${done}/${wanted} faults green, ${perFault} s each (${where})`);
    }
  }
  const left = await world.end();
  if (left.length > 0) return tell(world, left, join(tmpdir(), `chaos-found-${seed}-end.txt`));
  console.log(`chaos: ${done} faults, nothing found (seed ${seed})`);
  console.log([...tally].map(([fault, times]) => `${fault} ${times}`).join(', '));
}

function choicesOf(only: string): Choices {
  const names = only.split(',').filter((name) => name !== '');
  const [first, ...rest] = FAULTS.filter((fault) => names.length === 0 || names.includes(fault));
  if (first === undefined || !names.every((name) => (FAULTS as readonly string[]).includes(name))) {
    throw new Error(`--only takes some of ${FAULTS.join(',')}`);
  }
  return [first, ...rest];
}

function tell(world: World, objections: readonly string[], file: string): void {
  for (const objection of objections) console.error(`  ${objection}`);
  writeFileSync(file, [...objections, '', ...world.notes, '', world.log()].join('\n'));
  console.error(`  what was done and what the servers said: ${file}`);
  process.exitCode = 1;
}

await main();
