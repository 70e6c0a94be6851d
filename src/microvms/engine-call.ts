/**
 * One call of the engine with a deadline. A call that is told to stop may have done its work all the same, so it is waited
 * for a little longer: nothing else may begin for the same microVM before it is known what came of it.
 */
import { type Clock, withDeadline } from '../lib/index.ts';

export type Came<T> =
  /** Perhaps later than asked. */
  | { readonly kind: 'done'; readonly value: T }
  | { readonly kind: 'failed'; readonly error: unknown }
  /** It ignores being told to stop; `late` may settle some day. */
  | { readonly kind: 'stuck'; readonly late: Promise<T | undefined> };

/** How long a call that was told to stop may take to do so. */
const GRACE_MS = 5000;

/** Never rejects. */
export async function callWithGrace<T>(
  what: string,
  work: (signal: AbortSignal) => Promise<T>,
  options: { clock: Clock; timeoutMs: number; signal: AbortSignal | undefined },
): Promise<Came<T>> {
  let coming: Promise<T> | undefined;
  const start = (signal: AbortSignal) => {
    coming = work(signal);
    return coming;
  };
  try {
    return { kind: 'done', value: await withDeadline(what, options.timeoutMs, start, options) };
  } catch (error) {
    return coming === undefined ? { kind: 'failed', error } : settled(coming, options.clock);
  }
}

async function settled<T>(coming: Promise<T>, clock: Clock): Promise<Came<T>> {
  const over = Promise.withResolvers<Came<T>>();
  using _timer = clock.after(GRACE_MS, () => over.resolve({ kind: 'stuck', late: coming }));
  const came = coming.then(
    (value): Came<T> => ({ kind: 'done', value }),
    (error: unknown): Came<T> => ({ kind: 'failed', error }),
  );
  return await Promise.race([came, over.promise]);
}
