/**
 * When a started app counts as ready for its snapshot: its ready hook answered 200, or its port listens, or the grace period
 * is over.
 *
 * Source: the hooks' documentation (503 = not yet, 200 = ready, anything else fails the build at once).
 */
import type { GuestLink } from '../../guest/index.ts';
import { MachineError, requestOverStream, sleep, withDeadline } from '../../lib/index.ts';
import { BuildFailure, type Readiness } from '../engine.ts';

const LISTEN_POLL_MS = 50;
const HOOK_POLL_MS = 250;
const CALL_TIMEOUT_MS = 30_000;

/** Returns what its build should know of it. @throws BuildFailure `ready-timeout`, `ready-client-error`, `ready-server-error` */
export async function untilReady(
  link: GuestLink,
  readiness: Readiness,
  signal: AbortSignal,
): Promise<string | undefined> {
  if (readiness.kind === 'listening') return untilListening(link, readiness, signal);
  await untilHookPassed(link, readiness, signal);
  return undefined;
}

/** Without a hook the moment of the snapshot is ours to choose: an app that never listens is kept after the grace period. */
async function untilListening(
  link: GuestLink,
  { port, graceMs }: Extract<Readiness, { kind: 'listening' }>,
  signal: AbortSignal,
): Promise<string | undefined> {
  const endAt = performance.now() + graceMs;
  while (performance.now() < endAt) {
    if (await link.isListening(port, { timeoutMs: CALL_TIMEOUT_MS, signal })) return undefined;
    await sleep(LISTEN_POLL_MS, { signal });
  }
  return `nothing listened on port ${port} within ${graceMs / 1000} s: the snapshot is of the app as it is now (a ready hook waits longer)`;
}

async function untilHookPassed(
  link: GuestLink,
  { port, path, timeoutMs }: Extract<Readiness, { kind: 'hook' }>,
  signal: AbortSignal,
): Promise<void> {
  const call = async (bounded: AbortSignal) => {
    for (;;) {
      const status = await postHook(link, port, path, bounded);
      if (status === 200) return;
      if (status !== undefined && status !== 503) {
        const kind = status >= 500 ? 'ready-server-error' : 'ready-client-error';
        throw new BuildFailure(kind, `the ready hook answered HTTP ${status}`, status);
      }
      await sleep(HOOK_POLL_MS, { signal: bounded });
    }
  };
  try {
    await withDeadline('the ready hook', timeoutMs, call, { signal });
  } catch (error) {
    if (error instanceof MachineError && error.kind === 'timeout' && !signal.aborted) {
      throw new BuildFailure('ready-timeout', `the ready hook did not answer 200 within ${timeoutMs} ms`);
    }
    throw error;
  }
}

/** The answer's status; undefined when nothing listens yet or the connection broke. */
async function postHook(link: GuestLink, port: number, path: string, signal: AbortSignal): Promise<number | undefined> {
  try {
    const stream = await link.tunnel(port, { timeoutMs: CALL_TIMEOUT_MS, signal });
    const { status } = await requestOverStream(stream, { method: 'POST', path, host: `localhost:${port}`, signal });
    return status;
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof MachineError && error.kind !== 'failed' && error.kind !== 'timeout') throw error;
    return undefined;
  }
}
