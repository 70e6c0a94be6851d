/** The closed set of expected refusals. The wire layers map each code to their own exception names. */
export type DomainErrorCode = 'NOT_FOUND' | 'CONFLICT' | 'INVALID' | 'DENIED' | 'QUOTA' | 'CAPACITY' | 'THROTTLED';

/**
 * An expected refusal. The message says what happened, to which id, and what to do next; it never holds a secret,
 * a token or a host path.
 */
export class DomainError extends Error {
  override readonly name = 'DomainError';
  readonly code: DomainErrorCode;
  readonly details: Readonly<Record<string, string | number | null>>;

  constructor(
    code: DomainErrorCode,
    message: string,
    options: { details?: Record<string, string | number | null>; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
  }
}

/**
 * What can go wrong with a live machine, its VMM or its agent link. The domain turns these into a state with a reason.
 * `corrupt`: what it is to start from is not as it was written; its guest never ran.
 */
export type MachineErrorKind = 'exited' | 'timeout' | 'protocol' | 'unsupported' | 'failed' | 'corrupt';

export class MachineError extends Error {
  override readonly name = 'MachineError';
  readonly kind: MachineErrorKind;
  /** Last lines of VMM stderr and serial console, for the log and the operator; never shown to API callers. */
  readonly evidence: string;

  constructor(kind: MachineErrorKind, message: string, options: { evidence?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.evidence = options.evidence ?? '';
  }
}

/** Whether the host's disk being full is at the bottom of an error. */
export function isDiskFull(error: unknown): boolean {
  for (let at: unknown = error; at instanceof Error; at = at.cause) {
    if ('code' in at && (at.code === 'ENOSPC' || at.code === 'EDQUOT')) return true;
  }
  return false;
}

/** The message of anything thrown, for logs. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
