import { type Clock, systemClock } from './clock.ts';
import { MachineError } from './errors.ts';

/**
 * Runs `work` with a signal that aborts after `timeoutMs` or when the caller's `signal` does, and rejects then even if
 * `work` ignores it.
 *
 * @throws MachineError `timeout` naming `what` when the time is over; the caller's abort reason when that came first.
 */
export async function withDeadline<T>(
  what: string,
  timeoutMs: number,
  work: (signal: AbortSignal) => Promise<T>,
  options: { signal?: AbortSignal | undefined; clock?: Clock } = {},
): Promise<T> {
  const { clock = systemClock } = options;
  const controller = new AbortController();
  const outer = options.signal;
  outer?.throwIfAborted();
  const onAbort = () => controller.abort(outer?.reason);
  outer?.addEventListener('abort', onAbort, { once: true });
  const timer = clock.after(timeoutMs, () =>
    controller.abort(new MachineError('timeout', `${what} took longer than ${timeoutMs} ms`)),
  );
  const aborted = new Promise<never>((_, reject) => {
    controller.signal.addEventListener('abort', () => reject(controller.signal.reason), { once: true });
  });
  aborted.catch(() => {});
  try {
    return await Promise.race([work(controller.signal), aborted]);
  } finally {
    timer[Symbol.dispose]();
    outer?.removeEventListener('abort', onAbort);
  }
}

/** Waits `delayMs`; rejects with the signal's reason when it aborts first. */
export function sleep(delayMs: number, options: { signal?: AbortSignal | undefined } = {}): Promise<void> {
  return new Promise((resolve, reject) => {
    const { signal } = options;
    if (signal?.aborted) return reject(signal.reason);
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, delayMs);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
