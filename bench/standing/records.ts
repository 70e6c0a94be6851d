/**
 * Many microVMs from one that was really made: its record again and again, each with an id, an endpoint and a birth of its
 * own, and, where wanted, what it saved as hard links. They are what the server sees of them while they sleep; none is
 * ever resumed, since they would share one overlay.
 */
import { link, mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { randomIds } from '../../src/lib/index.ts';
import { openStore, type Row } from '../../src/store/index.ts';

interface Body {
  readonly id: string;
  readonly state: string;
}

export interface Copies {
  readonly count: number;
  /** The state of the record to copy: `SUSPENDED`, `TERMINATED`. */
  readonly state: string;
  /** Ports of their endpoints, from here on; below those that the kernel gives to others. */
  readonly fromPort: number;
  readonly withFiles?: boolean;
}

/** The server must not run. */
export async function multiply(stateDir: string, { count, state, fromPort, withFiles = false }: Copies): Promise<void> {
  await using store = await openStore(join(stateDir, 'store.sqlite'));
  const rows = store.records<Body>('microvms');
  const [row] = await rows.inStates([state], { limit: 1 });
  if (row === undefined) throw new Error(`there is no ${state} microVM to copy`);
  for (let made = 0; made < count; ) {
    const batch = Array.from({ length: Math.min(2000, count - made) }, () => copyOf(row, fromPort, made++));
    if (withFiles) for (const { id } of batch) await linkFolder(folderOf(stateDir, row.id), folderOf(stateDir, id));
    await store.write(batch.map((one) => rows.insert(one)));
  }
}

function copyOf(row: Row<Body>, fromPort: number, index: number): Row<Body> {
  const id = `microvm-${randomIds.uuid()}`;
  const endpointPort = fromPort + index;
  const named = { id, endpointId: randomIds.uuid(), endpointPort, endpoint: `localhost:${endpointPort}` };
  // Their ends are spread out, as those of real ones.
  const dueAt = row.dueAt === null ? null : row.dueAt + index;
  return { ...row, id, createdAt: row.createdAt - index, dueAt, body: { ...row.body, ...named } };
}

function folderOf(stateDir: string, id: string): string {
  return join(stateDir, 'microvms', id);
}

async function linkFolder(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true, mode: 0o700 });
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory()) await linkFolder(source, target);
    else await link(source, target);
  }
}
