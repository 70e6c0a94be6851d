/** Runs one command line and answers with its documented exit code. */
import { CommanderError } from 'commander';
import type { Environment } from '../config.ts';
import { EXIT, failureOf } from './exit.ts';
import { createProgram } from './program.ts';

/** Runs a command line. Never rejects; prints what went wrong. @returns the exit code */
export async function runCommandLine(argv: readonly string[], env: Environment): Promise<number> {
  let exitCode: number = EXIT.ok;
  const program = createProgram(env, (code) => {
    exitCode = code;
  });
  overrideExit(program);
  try {
    await program.parseAsync(argv, { from: 'user' });
    return exitCode;
  } catch (error) {
    // Help that was asked for ends with 0; whatever else commander refuses is wrong usage and has been printed.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    const failure = failureOf(error);
    if (argv.includes('--json')) {
      process.stderr.write(`${JSON.stringify({ error: { code: failure.code, message: failure.message } })}\n`);
    } else {
      process.stderr.write(`rekindle: ${failure.message}\n`);
    }
    return failure.exitCode;
  }
}

function overrideExit(command: ReturnType<typeof createProgram>): void {
  command.exitOverride();
  for (const child of command.commands) overrideExit(child as ReturnType<typeof createProgram>);
}
