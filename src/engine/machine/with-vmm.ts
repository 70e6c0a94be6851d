/** Waiting for something in the guest while its VMM may die. */
import { MachineError } from '../../lib/index.ts';
import type { Vmm } from '../vmm/vmm.ts';

/** Runs `work` with a signal that aborts when the caller's does or the VMM ends; rejects then with what it last said. */
export async function whileAlive<T>(
  vmm: Vmm,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const controller = new AbortController();
  const onAbort = () => controller.abort(signal?.reason);
  signal?.addEventListener('abort', onAbort, { once: true });
  void vmm.exited.then(({ message, evidence }) => {
    controller.abort(new MachineError('exited', message, { evidence }));
  });
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => {});
  controller.signal.addEventListener('abort', () => aborted.reject(controller.signal.reason), { once: true });
  try {
    return await Promise.race([work(controller.signal), aborted.promise]);
  } catch (error) {
    // What `work` began beside its failure ends too.
    controller.abort(error);
    throw withEvidence(error, vmm);
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

/** Aborts when `signal` does, unless `isDeaf` at that moment: it stays as it is then. */
export function unless(isDeaf: () => boolean, signal: AbortSignal | undefined): AbortSignal | undefined {
  if (signal === undefined || signal.aborted) return signal;
  const controller = new AbortController();
  signal.addEventListener('abort', () => !isDeaf() && controller.abort(signal.reason), { once: true });
  return controller.signal;
}

/** Adds the VMM's last lines to a failure that has none. */
function withEvidence(error: unknown, vmm: Vmm): unknown {
  if (!(error instanceof MachineError) || error.evidence !== '') return error;
  return new MachineError(error.kind, error.message, { evidence: vmm.evidence(), cause: error });
}
