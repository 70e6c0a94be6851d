/**
 * `run/<id>/machine.json`: what a later server needs, besides the process, to take a live machine over. Lost with the host,
 * as the machine is. The folder is the server's own: no VMM can write there.
 */
import { readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { messageOf } from '../../lib/index.ts';
import type { EngineContext } from './context.ts';

export interface Kept {
  readonly generation: 1;
  /** `starting`: the guest may have run, but nobody knows whether its clock and seed are its own yet. */
  readonly stage: 'starting' | 'running';
  /** Of the link; while it starts, the one before it as well. */
  readonly secret: string;
  readonly previousSecret: string | null;
  /** Whether the machine has a RAM file of its own. */
  readonly hasOwnRam: boolean;
}

const NAME = 'machine.json';

export async function writeKept(runDir: string, kept: Omit<Kept, 'generation'>): Promise<void> {
  const file = path.join(runDir, NAME);
  await writeFile(`${file}.new`, JSON.stringify({ generation: 1, ...kept }), { mode: 0o600 });
  await rename(`${file}.new`, file);
}

/** Never rejects: of a machine that is told to be starting, a later server finds out, and gives it its clock and seed once more. */
export async function noteRunning(
  { log }: Pick<EngineContext, 'log'>,
  id: string,
  runDir: string,
  kept: Pick<Kept, 'secret' | 'hasOwnRam'>,
): Promise<void> {
  try {
    await writeKept(runDir, { ...kept, stage: 'running', previousSecret: null });
  } catch (error) {
    log.warn({ microvmId: id, error: messageOf(error) }, 'that the machine runs could not be noted');
  }
}

/** Undefined when there is none that can be read: then there is no machine to take over. */
export async function readKept(runDir: string): Promise<Kept | undefined> {
  try {
    const kept = JSON.parse(await readFile(path.join(runDir, NAME), 'utf8')) as Kept;
    return kept.generation === 1 ? kept : undefined;
  } catch {
    return undefined;
  }
}
