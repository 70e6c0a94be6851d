/** The gateway's folders, in the hands of the user it runs as. */
import { chown, lchown, mkdir, readdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { randomIds } from '../../lib/index.ts';
import type { Places } from './places.ts';

/** User ids nobody else has; VMMs get theirs from the same range. */
const FIRST = 0x4000_0000;
const COUNT = 0x1000_0000;

/** The user a root server's gateway runs as: the one that its flow log belongs to since the first start. */
export async function gatewayUser({ flows }: Places): Promise<number> {
  const self = process.geteuid?.() ?? 0;
  if (self !== 0) return self;
  const owner = (await stat(flows).catch(() => undefined))?.uid ?? 0;
  return owner >= FIRST && owner < FIRST + COUNT ? owner : FIRST + (randomIds.bytes(4).readUInt32BE() % COUNT);
}

/** Makes what is missing and hands it over. No gateway runs. */
export async function prepareFolders(places: Places, uid: number): Promise<void> {
  await mkdir(path.dirname(places.flows), { recursive: true, mode: 0o700 });
  await mkdir(places.flows, { recursive: true, mode: 0o700 });
  if (process.geteuid?.() !== 0) {
    await mkdir(places.dir, { recursive: true, mode: 0o700 });
    return;
  }
  if ((await stat(places.flows)).uid !== uid) {
    await chown(places.flows, uid, uid);
    for (const name of await readdir(places.flows)) await lchown(path.join(places.flows, name), uid, uid);
  }
  // Of another user's gateway nothing is of use.
  const owner = (await stat(places.dir).catch(() => undefined))?.uid;
  if (owner !== undefined && owner !== uid) await rm(places.dir, { recursive: true, force: true });
  await mkdir(places.dir, { recursive: true, mode: 0o700 });
  await chown(places.dir, uid, uid);
}
