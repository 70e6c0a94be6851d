/** How a command ends: the documented exit codes, and errors that say what to do next. */
import { DomainError, messageOf } from '../lib/index.ts';

export const EXIT = {
  ok: 0,
  /** The request was refused or failed. */
  failed: 1,
  usage: 2,
  /** No server answers where one was expected. */
  unreachable: 3,
  /** The image's build failed. */
  buildFailed: 4,
  /** This host lacks something; `rekindle doctor` says what. */
  hostNotReady: 5,
  /** Ctrl-C, as shells count it. */
  interrupted: 130,
} as const;

export const EXIT_CODE_HELP = `Exit codes:
  0    done
  1    the request was refused or failed
  2    wrong usage
  3    no server answers (start one: rekindle serve)
  4    the image's build failed
  5    this host lacks something (see: rekindle doctor)
  130  interrupted`;

export class CliError extends Error {
  override readonly name = 'CliError';
  readonly exitCode: number;

  constructor(message: string, exitCode: number = EXIT.failed, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.exitCode = exitCode;
  }
}

export interface Failure {
  readonly exitCode: number;
  readonly message: string;
  /** The service's error name, for `--json`. */
  readonly code: string;
}

/** What a thrown thing means to the user. */
export function failureOf(error: unknown): Failure {
  if (error instanceof CliError) return { exitCode: error.exitCode, message: error.message, code: codeOf(error) };
  if (error instanceof DomainError) return { exitCode: EXIT.failed, message: error.message, code: error.code };
  const system = systemCode(error);
  if (system !== undefined && UNREACHABLE.has(system)) {
    const message = 'No server answers. Start one with "rekindle serve", or name its state folder with --state.';
    return { exitCode: EXIT.unreachable, message, code: system };
  }
  const name = error instanceof Error ? error.name : 'Error';
  return { exitCode: EXIT.failed, message: `${messageOf(error)}${ADVICE[name] ?? ''}`, code: name };
}

const UNREACHABLE = new Set(['ECONNREFUSED', 'ECONNRESET', 'ENOTFOUND', 'EHOSTUNREACH', 'ETIMEDOUT']);

const ADVICE: Readonly<Record<string, string>> = {
  InvalidSignatureException: ' The keys in your environment are not this server\'s: run eval "$(rekindle env)".',
  UnrecognizedClientException: ' The keys in your environment are not this server\'s: run eval "$(rekindle env)".',
};

function codeOf(error: CliError): string {
  return Object.entries(EXIT).find(([, code]) => code === error.exitCode)?.[0] ?? 'failed';
}

/** The errno of an error or of what caused it; a failed dual-stack connect hides it in a list. */
function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if ('code' in error && typeof error.code === 'string' && error.code !== '') return error.code;
  if (error instanceof AggregateError) return error.errors.map(systemCode).find((code) => code !== undefined);
  return systemCode(error.cause);
}
