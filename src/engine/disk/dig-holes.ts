/** Gives the file system back what of a file is only zeros. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { MachineError } from '../../lib/index.ts';

const TIMEOUT_MS = 300_000;

/** @throws MachineError `failed`; the signal's reason */
export async function digHoles(file: string, signal: AbortSignal | undefined): Promise<void> {
  try {
    await promisify(execFile)('fallocate', ['--dig-holes', '--', file], { timeout: TIMEOUT_MS, signal });
  } catch (error) {
    signal?.throwIfAborted();
    throw new MachineError('failed', 'a memory file could not be made sparse', { cause: error });
  }
}
