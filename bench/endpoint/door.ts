/** An endpoint in front of one machine that is always awake: everything from the door to the machine's `connect` is the product's. */
import { randomBytes } from 'node:crypto';
import { createIngress, type Traffic } from '../../src/ingress/index.ts';
import { randomIds, silentLogger, systemClock } from '../../src/lib/index.ts';
import type { Machine } from '../../src/microvms/index.ts';

export interface Door extends AsyncDisposable {
  readonly port: number;
  readonly token: string;
  readonly caFile: string;
}

export async function openDoor(folder: string, machine: Pick<Machine, 'id' | 'connect' | 'exited'>): Promise<Door> {
  const { id } = machine;
  // As long as the service's tokens for one port.
  const part = (length: number) => randomBytes(length).toString('base64url').slice(0, length);
  const token = `${part(104)}..${part(16)}.${part(677)}.${part(22)}`;
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
    exchange: () => ({ servedMs: lastActivity, active: () => {}, answered: () => {}, [Symbol.dispose]: () => {} }),
  };
  const ingress = await createIngress({ tlsDir: folder, clock: systemClock, ids: randomIds, log: silentLogger });
  ingress.serve(traffic);
  const { port } = await ingress.open({ microvmId: id, endpointId: 'endpoint', port: null, memoryMiB: 2048 });
  if (port === null) throw new Error('the endpoint has no port');
  return { port, token, caFile: ingress.caFile, [Symbol.asyncDispose]: () => ingress[Symbol.asyncDispose]() };
}
