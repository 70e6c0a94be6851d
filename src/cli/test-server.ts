/** For tests: a whole server over machines of the fake engine, in a state folder of its own. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig, type RawSettings } from '../config.ts';
import { silentLogger } from '../lib/index.ts';
import { type Server, type ServerOptions, startServer } from '../main.ts';

export interface FakeServer extends AsyncDisposable {
  readonly stateDir: string;
  readonly server: Server;
}

/** Starts on free ports. Disposing stops it and removes the folder, unless the caller gave that. */
export async function startFakeServer(
  openEngine: ServerOptions['openEngine'],
  settings: RawSettings = {},
): Promise<FakeServer> {
  await using stack = new AsyncDisposableStack();
  const stateDir = settings.state ?? (await mkdtemp(join(tmpdir(), 'rekindle-server-')));
  if (settings.state === undefined) stack.defer(() => rm(stateDir, { recursive: true }));
  const config = loadConfig({ apiPort: '0', ...settings, state: stateDir }, {});
  const server = stack.use(
    await startServer(config, { log: silentLogger, ...(openEngine === undefined ? {} : { openEngine }) }),
  );
  const owned = stack.move();
  return { stateDir, server, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
