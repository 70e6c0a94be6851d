/** A server on fake machines in a process of its own, for `bench/wire.ts`: `wire-server.ts <state folder>`, ends on SIGTERM. */
import { loadConfig } from '../src/config.ts';
import { createFakeEngine } from '../src/engine/index.ts';
import { createLogger } from '../src/lib/index.ts';
import { startServer } from '../src/main.ts';

const [state = ''] = process.argv.slice(2);
const config = loadConfig({ state, apiPort: '0', s3Port: '0', onShutdown: 'terminate' }, {});
const server = await startServer(config, { log: createLogger('error'), openEngine: async () => createFakeEngine() });
process.once('SIGTERM', () => void server.stop().then(() => process.exit(0)));
process.stdout.write(`${JSON.stringify({ apiPort: server.record.apiPort, s3Port: server.record.s3Port })}\n`);
