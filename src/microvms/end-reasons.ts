/** Why a microVM ended or a step failed: what callers read, and what the log says. */
import type { MachineExit } from '../engine/index.ts';
import { DomainError, type Logger, MachineError, messageOf } from '../lib/index.ts';
import { REASONS } from './lifecycle.ts';

/** What callers read; the log says more. GUESS: end-reasons */
export const TEXTS = {
  notStarted: 'The MicroVM could not be started.',
  notResumed: 'The MicroVM could not be resumed.',
  notSaved: 'The MicroVM could not be suspended and runs on.',
  stuck: 'The MicroVM could not be suspended and did not go on.',
  guestEnded: 'The operating system of the MicroVM stopped.',
  ended: 'The MicroVM stopped unexpectedly.',
  silent: 'The MicroVM did not answer after the server was started again.',
} as const;

/** What was to be started from may be damaged: that is nothing another attempt mends. */
export function reasonOf(outcome: object, text: string): string {
  const error = 'error' in outcome ? outcome.error : undefined;
  // The identity room's sentence, made for callers. GUESS: role-not-assumed
  if (error instanceof DomainError) return error.message;
  return error instanceof MachineError && error.kind === 'corrupt' ? `${text.slice(0, -1)}: ${error.message}.` : text;
}

export function endOf(exit: MachineExit): string {
  switch (exit.kind) {
    case 'app':
      return REASONS.exited(exit.exitCode);
    case 'guest':
      return TEXTS.guestEnded;
    case 'vmm':
      return TEXTS.ended;
    default:
      return exit satisfies never;
  }
}

export function logFailure(log: Logger, error: unknown, message: string): void {
  const evidence = error instanceof MachineError && error.evidence !== '' ? { evidence: error.evidence } : {};
  log.error({ error: messageOf(error), ...evidence }, message);
}
