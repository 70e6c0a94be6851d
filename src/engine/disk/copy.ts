/** Copies disk images: as a reference where the file system can, else without their holes. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { MachineError, messageOf } from '../../lib/index.ts';

const COPY_TIMEOUT_MS = 600_000;

/** @throws MachineError `failed`; with code `ENOSPC` in `cause` when the host's disk is full */
export async function copySparse(from: string, to: string, signal: AbortSignal | undefined): Promise<void> {
  try {
    const args = ['--sparse=auto', '--reflink=auto', '--no-preserve=mode', '--', from, to];
    await promisify(execFile)('cp', args, { timeout: COPY_TIMEOUT_MS, signal });
  } catch (error) {
    signal?.throwIfAborted();
    const isFull = messageOf(error).includes('No space left');
    const cause = isFull ? Object.assign(new Error('no space left on the host'), { code: 'ENOSPC' }) : error;
    throw new MachineError('failed', 'a disk image could not be copied', { cause });
  }
}
