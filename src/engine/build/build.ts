/** placeholder */
import { MachineError } from '../../lib/index.ts';
import type { BuildRequest, BuiltDisk } from '../engine.ts';
import type { EngineContext } from '../machine/context.ts';

export async function buildImage(_c: EngineContext, _r: BuildRequest, _o: { signal: AbortSignal }): Promise<BuiltDisk> {
  throw new MachineError('unsupported', 'builds follow');
}
