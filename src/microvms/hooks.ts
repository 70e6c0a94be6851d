/**
 * Run-time lifecycle hooks: one POST to the app inside the guest each, never a second one.
 *
 * Source: the guide's OpenAPI (path, bodies, only 200 is success), recordings (Host header `localhost:<port>`, texts).
 *
 * Invariant: what the guest does decides at most between two outcomes, within the hook's timeout. Only the answer's status
 * is looked at; nothing of it is followed, kept or shown. The TLS greeting that the service sends first is left out: an app
 * that survives it there answers here (docs/DEVIATIONS.md).
 */
import type { Machine } from '../engine/index.ts';
import { HOOK_PATH, type Hooks } from '../images/index.ts';
import { type Clock, MachineError, messageOf, requestOverStream, withDeadline } from '../lib/index.ts';

export type RuntimeHook = 'run' | 'resume' | 'suspend' | 'terminate';

export type HookResult =
  | { readonly kind: 'passed' }
  /** `reason` is for `stateReason`; `detail` for the log. */
  | { readonly kind: 'failed'; readonly reason: string; readonly detail: string };

/** Sources disagree on nothing here but are second hand. GUESS: hook-default-timeouts */
const DEFAULT_TIMEOUT_SECONDS = 1;

/** Whether the version wants this hook called. */
export function wantsHook(hooks: Hooks | null, name: RuntimeHook): boolean {
  return hooks?.port !== undefined && hooks.microvmHooks?.[name] === 'ENABLED';
}

/** Calls the hook if the version wants it; passes when not. Never rejects. `body` is sent as JSON when given. */
export async function callHook(
  machine: Machine,
  hooks: Hooks | null,
  name: RuntimeHook,
  options: { body?: unknown; signal: AbortSignal; clock: Clock },
): Promise<HookResult> {
  const port = hooks?.port;
  if (port === undefined || !wantsHook(hooks, name)) return { kind: 'passed' };
  const timeoutMs = (hooks?.microvmHooks?.[`${name}TimeoutInSeconds`] ?? DEFAULT_TIMEOUT_SECONDS) * 1000;
  try {
    const { status } = await withDeadline(
      `the ${name} hook`,
      timeoutMs,
      async (signal) =>
        requestOverStream(await machine.connect(port, { signal }), {
          method: 'POST',
          path: `${HOOK_PATH}/${name}`,
          host: `localhost:${port}`,
          signal,
          ...(options.body !== undefined && {
            headers: { 'content-type': 'application/json' },
            body: JSON.stringify(options.body),
          }),
        }),
      options,
    );
    if (status === 200) return { kind: 'passed' };
    return {
      kind: 'failed',
      reason: `${nameOf(name)} returned HTTP status ${status}. ${ADVICE}`,
      detail: `HTTP ${status}`,
    };
  } catch (error) {
    const what =
      error instanceof MachineError && error.kind === 'timeout' ? 'did not answer in time' : 'gave no answer';
    return { kind: 'failed', reason: `${nameOf(name)} ${what}. ${ADVICE}`, detail: messageOf(error) };
  }
}

/** Recorded wording; what stands before it in the other two cases is ours. GUESS: end-reasons */
const ADVICE = 'Please check your hook endpoint and application logs for more details.';

function nameOf(name: RuntimeHook): string {
  return `${name.charAt(0).toUpperCase()}${name.slice(1)} lifecycle hook`;
}
