/** Many sequences one after another, on a store that is made anew now and then. */
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openStore, type Store } from '../../store/index.ts';
import { play } from './play.ts';
import { type Sequence, type Step, sequenceOf } from './steps.ts';

/** So that ended microVMs of earlier sequences do not pile up. */
const STORE_LASTS = 250;
const MEMORY_FOLDER = '/dev/shm';

export interface Failure {
  readonly seed: number;
  readonly objections: readonly string[];
  /** The shortest that was found, for the list of regressions. */
  readonly sequence: Sequence;
}

/** The first failure, shrunk; undefined when there is none. */
export async function playMany(options: {
  first: number;
  count: number;
  onProgress?: (played: number) => void;
}): Promise<Failure | undefined> {
  for (let from = 0; from < options.count; from += STORE_LASTS) {
    const seeds = Array.from(
      { length: Math.min(STORE_LASTS, options.count - from) },
      (_, i) => options.first + from + i,
    );
    const failed = await onFreshStore(async (store) => {
      for (const seed of seeds) {
        const objections = await play(store, sequenceOf(seed));
        if (objections.length > 0) return { seed, objections };
      }
      return undefined;
    });
    if (failed !== undefined) return { ...failed, sequence: await shrink(sequenceOf(failed.seed)) };
    options.onProgress?.(from + seeds.length);
  }
  return undefined;
}

/** Plays one sequence on a store of its own. */
export function playOne(sequence: Sequence): Promise<readonly string[]> {
  return onFreshStore((store) => play(store, sequence));
}

/** Cuts off what comes after the failure, then leaves out single steps for as long as it fails. */
async function shrink(sequence: Sequence): Promise<Sequence> {
  const fails = async (steps: readonly Step[]) => (await playOne({ ...sequence, steps })).length > 0;
  let { steps } = sequence;
  for (let length = 1; length < steps.length; length++) {
    if (await fails(steps.slice(0, length))) steps = steps.slice(0, length);
  }
  for (let index = steps.length - 1; index >= 0; index--) {
    const fewer = steps.toSpliced(index, 1);
    if (await fails(fewer)) steps = fewer;
  }
  return { ...sequence, steps };
}

async function onFreshStore<T>(work: (store: Store) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(path.join(existsSync(MEMORY_FOLDER) ? MEMORY_FOLDER : tmpdir(), 'rk-lives-'));
  try {
    await using store = await openStore(path.join(dir, 'store.sqlite'));
    return await work(store);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
