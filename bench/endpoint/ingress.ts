/**
 * The endpoint in a process of its own, for `bench/endpoint.ts`: `ingress.ts <folder> <link socket> <guest port>`. What stands in
 * for the microVMs room knows one microVM that is awake. Prints one line of JSON when it listens, ends on SIGTERM.
 */
import { randomBytes } from 'node:crypto';
import { openLink } from '../../src/guest/index.ts';
import { openDoor } from './door.ts';

const [folder = '', socketPath = '', appPort = ''] = process.argv.slice(2);
const link = await openLink({ socketPath, secret: randomBytes(32).toString('hex'), timeoutMs: 5000 });
const door = await openDoor(folder, {
  id: 'microvm-bench',
  connect: (_port, { signal }) =>
    link.tunnel(Number(appPort), { timeoutMs: 5000, ...(signal === undefined ? {} : { signal }) }),
  exited: new Promise(() => {}),
});
process.once('SIGTERM', () => {
  void door[Symbol.asyncDispose]()
    .then(() => link[Symbol.asyncDispose]())
    .then(() => process.exit());
});
const { port, token, caFile } = door;
process.stdout.write(`${JSON.stringify({ port, token, caFile, folder })}\n`);
