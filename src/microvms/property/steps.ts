/** What may happen to a server and its microVMs, as values: a sequence is made from a seed, and can be cut and replayed. */
import { type Random, randomOf } from './random.ts';

/** Engine operations that may fail; the second of a pair fails when the work was already done. */
export const FAULTY = [
  'launch',
  'launched',
  'resume',
  'resumed',
  'suspend',
  'destroy',
  'connect',
  'adopt',
  'checkpoint',
  'checkpointed',
] as const;
export type Faulty = (typeof FAULTY)[number];
export const HELD = [
  'launch',
  'launched',
  'resume',
  'resumed',
  'suspend',
  'suspended',
  'destroy',
  'connect',
  'checkpoint',
  'checkpointed',
] as const;
export type Held = (typeof HELD)[number];
export const ERROR_KINDS = ['failed', 'unsupported', 'timeout', 'protocol', 'exited'] as const;

/** `vm` counts the microVMs that were acknowledged, modulo how many there are. */
export type Step =
  | { readonly do: 'run'; readonly idle: 'none' | 'auto' | 'manual' | 'zero'; readonly seconds: number }
  | { readonly do: 'suspend' | 'resume' | 'terminate' | 'traffic' | 'crash'; readonly vm: number }
  | { readonly do: 'exchange'; readonly vm: number; readonly begin: boolean }
  | { readonly do: 'exit'; readonly vm: number; readonly code: number }
  /** Lets `rounds` of pending work go on, so that the next step falls in the middle of something. */
  | { readonly do: 'go-on'; readonly rounds: number }
  | { readonly do: 'advance' | 'jump' | 'sleep' | 'reboot'; readonly ms: number }
  /** As a reboot, but what was not flushed is forgotten: all of it, or the newest. */
  | { readonly do: 'power'; readonly ms: number; readonly all: boolean }
  /** The server is killed, or stopped in order, and started again. */
  | { readonly do: 'kill' | 'stop' }
  | { readonly do: 'fail'; readonly operation: Faulty; readonly kind: (typeof ERROR_KINDS)[number] }
  | { readonly do: 'hold'; readonly operation: Held; readonly deaf: boolean }
  | { readonly do: 'release' }
  | { readonly do: 'disk'; readonly full: boolean }
  /** What the app's hooks answer from now on; 0: never. */
  | { readonly do: 'hooks'; readonly status: number }
  /** Everything comes to rest, and is compared with the model. */
  | { readonly do: 'check' };

export interface Sequence {
  readonly seed: number;
  /** Machines outlive the server and are taken over. */
  readonly adopts: boolean;
  readonly hooks: boolean;
  /** The operator wants some. */
  readonly checkpoints?: boolean;
  readonly steps: readonly Step[];
}

const HOUR_MS = 3_600_000;

export function sequenceOf(seed: number): Sequence {
  const random = randomOf(seed);
  const adopts = random.chance(0.5);
  const hooks = random.chance(0.25);
  const checkpoints = random.chance(0.4);
  const length = 5 + random.int(30);
  // Most sequences have few sorts of trouble: in them the model can say exactly what must follow.
  const trouble = random.pick([0, 0.1, 0.3]);
  const steps: Step[] = [{ do: 'run', idle: 'auto', seconds: 28_800 }];
  while (steps.length < length) steps.push(random.chance(trouble) ? mishap(random) : ordinary(random));
  return { seed, adopts, hooks, checkpoints, steps };
}

function ordinary(random: Random): Step {
  const vm = random.int(3);
  switch (random.int(15)) {
    case 0:
      return {
        do: 'run',
        idle: random.pick(['auto', 'auto', 'manual', 'none', 'zero']),
        seconds: random.pick([28_800, 28_800, 300]),
      };
    case 1:
    case 2:
      return { do: 'suspend', vm };
    case 3:
    case 4:
      return { do: 'resume', vm };
    case 5:
      return { do: 'terminate', vm };
    case 6:
    case 7:
      return { do: 'traffic', vm };
    case 8:
      return { do: 'exchange', vm, begin: random.chance(0.5) };
    case 9:
    case 10:
      return { do: 'go-on', rounds: 1 + random.int(6) };
    case 11:
      return { do: 'advance', ms: random.pick([1, 1000, 5000, 15_000, 60_000, 119_999, 600_000]) };
    case 12:
      return { do: 'exit', vm, code: random.int(3) };
    default:
      return { do: 'check' };
  }
}

function mishap(random: Random): Step {
  const vm = random.int(3);
  switch (random.int(14)) {
    case 0:
    case 1:
    case 2:
      return { do: 'kill' };
    case 3:
      return { do: 'stop' };
    case 4:
      return { do: 'crash', vm };
    case 5:
    case 6:
      return { do: 'fail', operation: random.pick(FAULTY), kind: random.pick(ERROR_KINDS) };
    case 7:
    case 8:
      return { do: 'hold', operation: random.pick(HELD), deaf: random.chance(0.3) };
    case 9:
      return { do: 'release' };
    case 10:
      return { do: 'disk', full: random.chance(0.6) };
    case 11:
      return { do: 'jump', ms: random.pick([-48 * HOUR_MS, -HOUR_MS, -2000, 2000, HOUR_MS, 48 * HOUR_MS]) };
    case 12:
      if (random.chance(0.4)) return { do: 'sleep', ms: random.pick([60_000, HOUR_MS, 9 * HOUR_MS]) };
      return random.chance(0.3)
        ? { do: 'reboot', ms: random.pick([60_000, HOUR_MS]) }
        : { do: 'power', ms: random.pick([60_000, HOUR_MS]), all: random.chance(0.5) };
    default:
      return { do: 'hooks', status: random.pick([200, 200, 500, 0]) };
  }
}
