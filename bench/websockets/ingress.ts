/**
 * The endpoint in a process of its own, for `bench/websockets.ts`: `ingress.ts <folder> <app port> <link socket>...`, one microVM
 * for each link. From the door to the link everything is the product's. Prints one line of JSON when it listens and, for each
 * line it reads, its memory in MiB; ends with its input.
 */
import { randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';
import { openLink } from '../../src/guest/index.ts';
import { createIngress, type Traffic } from '../../src/ingress/index.ts';
import { randomIds, silentLogger, systemClock } from '../../src/lib/index.ts';
import type { Machine } from '../../src/microvms/index.ts';

const [folder = '', appPort = '', ...sockets] = process.argv.slice(2);
const tokens = new Map<string, string>();
const machines = new Map<string, Machine>();
const traffic: Traffic = {
  verifyToken: async (token) => {
    const microvmId = tokens.get(token);
    if (microvmId === undefined) return { kind: 'unreadable' };
    return { kind: 'valid', claims: { microvmId, kind: 'app', ports: 'all', expiresAt: Number.POSITIVE_INFINITY } };
  },
  endpointIdOf: async () => undefined,
  wake: async (id) => machines.get(id) ?? Promise.reject(new Error('no such machine')),
  activity: () => {},
  exchange: () => ({ servedMs: 3_600_000, active: () => {}, answered: () => {}, [Symbol.dispose]: () => {} }),
};
const ingress = await createIngress({
  tlsDir: folder,
  clock: systemClock,
  ids: randomIds,
  log: silentLogger,
  limits: { connections: 20_000, connectionsPerMicrovm: 10_000 },
});
ingress.serve(traffic);
const endpoints: { port: number | null; token: string }[] = [];
for (const [i, socketPath] of sockets.entries()) {
  const link = await openLink({ socketPath, secret: randomBytes(32).toString('hex'), timeoutMs: 5000 });
  const id = `microvm-${i}`;
  const machine: Pick<Machine, 'id' | 'connect' | 'exited'> = {
    id,
    connect: (_port, { signal }) =>
      link.tunnel(Number(appPort), { timeoutMs: 5000, ...(signal === undefined ? {} : { signal }) }),
    exited: new Promise(() => {}),
  };
  machines.set(id, machine as Machine);
  const token = `${randomBytes(78).toString('base64url')}..${'a'.repeat(16)}.${'b'.repeat(620)}.${'c'.repeat(22)}`;
  tokens.set(token, id);
  const { port } = await ingress.open({ microvmId: id, endpointId: id, port: null, memoryMiB: 2048 });
  endpoints.push({ port, token });
}
process.stdout.write(`${JSON.stringify({ endpoints, caFile: ingress.caFile })}\n`);

for await (const line of createInterface(process.stdin)) {
  // The first collection frees what the second one may then give back.
  if (line === 'collect') for (let i = 0; i < 2; i++) globalThis.gc?.();
  const { rss, heapUsed } = process.memoryUsage();
  process.stdout.write(`${JSON.stringify({ rss: rss / 2 ** 20, heapUsed: heapUsed / 2 ** 20 })}\n`);
}
process.exit(0);
