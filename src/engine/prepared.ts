/**
 * What a host makes once for each runtime and kind of machine, and keeps: `<cache>/builder/<key>/`. Whoever finds a part missing
 * makes it; two at once waste work but do no harm: what is there first, whole, is never replaced.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { EngineContext } from './machine/context.ts';
import { describeMachine } from './snapshot/manifest.ts';

/** Of how the parts are made; a change makes them anew. */
const RECIPE = 5;

export interface Prepared {
  /** Changes with anything the parts depend on. */
  readonly key: string;
  readonly dir: string;
}

export function prepared({ runtime, driver, host, cacheDir }: EngineContext): Prepared {
  const facts = { recipe: RECIPE, ...describeMachine(driver), stamp: runtime.stamp, cpus: host.cpus };
  const key = createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 16);
  return { key, dir: path.join(cacheDir, 'builder', key) };
}

/** Another process may have been quicker. */
export async function unlessThere(place: string, make: () => Promise<unknown>): Promise<void> {
  try {
    await make();
  } catch (error) {
    if (!existsSync(place)) throw error;
  }
}
