/** Two hundred launches at once on a server that has room for twenty, a build among them; then all sleep at once, and again. */
import { setTimeout as delay } from 'node:timers/promises';
import { endpointClient } from '../../test/support/endpoint.ts';
import { buildImage, counterApp } from '../../test/support/images.ts';
import { startServer, type TestServer } from '../../test/support/server.ts';
import type { Row } from '../table.ts';

const CALLERS = 200;
const ROOM = 20;
/** 512 MiB and what its VMM takes besides. */
const MICROVM_MIB = 608;
const POLL_MS = 200;
const PATIENCE_MS = 300_000;
const POLICY = { maxIdleDurationSeconds: 28_000, suspendedDurationSeconds: 28_000, autoResumeEnabled: true };

export async function crowd(): Promise<Row[]> {
  await using server = await startServer({
    args: ['--memory-budget', String(ROOM * MICROVM_MIB), '--on-shutdown', 'terminate'],
  });
  const { imageArn, state, stateReason } = await buildImage(server, 'crowd', counterApp);
  if (state !== 'CREATED') throw new Error(`the bench image is ${state}: ${stateReason}`);
  const building = buildImage(server, 'beside', counterApp);
  const rows: Row[] = [];
  for (const round of ['first', 'second']) {
    const startedAt = performance.now();
    const { accepted, refused } = await launches(server, imageArn);
    const states = await settled(server, accepted);
    const tookS = ((performance.now() - startedAt) / 1000).toFixed(0);
    const answers = await Promise.all([...states].filter(([, s]) => s === 'RUNNING').map(([id]) => answer(server, id)));
    rows.push({
      what: `${CALLERS} launches at once with room for ${ROOM}, ${round} time`,
      value: `${accepted.length} accepted, ${listed(refused)}; ${listed([...states.values()])} after ${tookS} s`,
    });
    rows.push({ what: '  what those that run answered', value: listed(answers) });
    await Promise.allSettled(accepted.map((id) => server.microvms.suspendMicrovm({ microvmIdentifier: id })));
    const asleep = await settled(server, accepted);
    rows.push({ what: '  all suspended at once', value: listed([...asleep.values()]) });
  }
  const beside = await building;
  rows.push({ what: '  the build among them', value: `${beside.state} after ${(beside.tookMs / 1000).toFixed(0)} s` });
  return rows;
}

async function launches(server: TestServer, imageIdentifier: string) {
  const accepted: string[] = [];
  const refused: string[] = [];
  await Promise.all(
    Array.from({ length: CALLERS }, async () => {
      try {
        const { microvmId = '' } = await server.microvms.runMicrovm({ imageIdentifier, idlePolicy: POLICY });
        accepted.push(microvmId);
      } catch (error) {
        refused.push((error as Error).name);
      }
    }),
  );
  return { accepted, refused };
}

/** The states in which they come to rest. */
async function settled(server: TestServer, ids: readonly string[]): Promise<Map<string, string>> {
  const states = new Map<string, string>();
  const deadline = performance.now() + PATIENCE_MS;
  for (const id of ids) {
    for (;;) {
      const { state = '' } = await server.microvms.getMicrovm({ microvmIdentifier: id });
      states.set(id, state);
      if (!['PENDING', 'SUSPENDING', 'TERMINATING'].includes(state)) break;
      if (performance.now() > deadline) throw new Error(`${id} is still ${state}`);
      await delay(POLL_MS);
    }
  }
  return states;
}

async function answer(server: TestServer, microvmId: string): Promise<string> {
  const { endpoint = '' } = await server.microvms.getMicrovm({ microvmIdentifier: microvmId });
  using client = await endpointClient(server, { microvmId, endpoint });
  const { status, body } = await client.get('/');
  return status === 200 ? '200' : `${status} ${body}`;
}

function listed(names: readonly string[]): string {
  const counts = Map.groupBy(names, (name) => name);
  return [...counts].map(([name, those]) => `${those.length} ${name}`).join(', ') || 'none';
}
