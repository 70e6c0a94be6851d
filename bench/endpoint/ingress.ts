/**
 * The endpoint in a process of its own, for `bench/endpoint.ts`: `ingress.ts <folder> <link socket> <guest port>`. What stands in
 * for the microVMs room knows one microVM that is awake; everything from the door to the link is the product's.
 * Prints one line of JSON when it listens, ends on SIGTERM.
 */
import { randomBytes } from 'node:crypto';
import { openLink } from '../../src/guest/index.ts';
import { createIngress, type Traffic } from '../../src/ingress/index.ts';
import { randomIds, silentLogger, systemClock } from '../../src/lib/index.ts';
import type { Machine } from '../../src/microvms/index.ts';

const [folder = '', socketPath = '', appPort = ''] = process.argv.slice(2);
const id = 'microvm-bench';
// As long as the service's tokens for one port.
const part = (length: number) => randomBytes(length).toString('base64url').slice(0, length);
const token = `${part(104)}..${part(16)}.${part(677)}.${part(22)}`;

const link = await openLink({ socketPath, secret: randomBytes(32).toString('hex'), timeoutMs: 5000 });
const machine: Pick<Machine, 'id' | 'connect' | 'exited'> = {
  id,
  connect: (_port, { signal }) =>
    link.tunnel(Number(appPort), { timeoutMs: 5000, ...(signal === undefined ? {} : { signal }) }),
  exited: new Promise(() => {}),
};
let lastActivity = 0;
const traffic: Traffic = {
  verifyToken: async (shown) =>
    shown === token
      ? { kind: 'valid', claims: { microvmId: id, kind: 'app', ports: 'all', expiresAt: Number.POSITIVE_INFINITY } }
      : { kind: 'unreadable' },
  endpointIdOf: async () => undefined,
  wake: async () => machine as Machine,
  activity: () => {
    lastActivity = performance.now();
  },
  exchange: () => ({ servedMs: 0, active: () => {}, answered: () => {}, [Symbol.dispose]: () => {} }),
};
const ingress = await createIngress({ tlsDir: folder, clock: systemClock, ids: randomIds, log: silentLogger });
ingress.serve(traffic);
const { port } = await ingress.open({ microvmId: id, endpointId: 'endpoint', port: null, memoryMiB: 2048 });
process.once('SIGTERM', () => {
  void ingress[Symbol.asyncDispose]()
    .then(() => link[Symbol.asyncDispose]())
    .then(() => process.exit(lastActivity < 0 ? 1 : 0));
});
process.stdout.write(`${JSON.stringify({ port, token, caFile: ingress.caFile, folder })}\n`);
