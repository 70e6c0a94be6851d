/** The program's entry. It loads the rest through Node's compile cache, which halves the time to the first word of help. */
import { enableCompileCache } from 'node:module';
import { homedir } from 'node:os';
import { join } from 'node:path';

if (import.meta.main) {
  const { REKINDLE_CACHE, XDG_CACHE_HOME } = process.env;
  enableCompileCache(join(REKINDLE_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'rekindle'), 'node'));
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    // The reader went (`rekindle logs | head`): nobody is left to tell.
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
  const { runCommandLine } = await import('./command-line.ts');
  process.exitCode = await runCommandLine(process.argv.slice(2), process.env);
}
