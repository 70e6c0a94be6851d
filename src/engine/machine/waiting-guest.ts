/**
 * A guest that has booted and waits for its root disk, as a snapshot of the host's own: what is sealed starts as a clone of it,
 * which spares each build the seconds a kernel takes under software emulation.
 *
 * No disk was opened before the snapshot, so that any of the same size can be its root. Clock, random numbers and the link's
 * secret are the clone's own; where its kernel lies in memory is the same in all that one host seals.
 */
import { existsSync } from 'node:fs';
import { chmod, open, stat } from 'node:fs/promises';
import path from 'node:path';
import { MachineError } from '../../lib/index.ts';
import { copySparse } from '../disk/copy.ts';
import { digHoles } from '../disk/dig-holes.ts';
import { remove } from '../folders.ts';
import { prepared, unlessThere } from '../prepared.ts';
import { createDraft, sealDraft } from '../snapshot/seal.ts';
import { type Booted, type BootRequest, bootMachine } from './boot.ts';
import type { EngineContext } from './context.ts';
import { fourDisks } from './disks.ts';
import { restoreConfig, restoreMachine } from './restore.ts';
import { runToSnapshot } from './to-snapshot.ts';

const GIB = 1024 ** 3;

/** What a clone has in common with all of its kind. */
export interface GuestShape {
  readonly memoryMiB: number;
  readonly cpus: number;
  /** Virtual size of the root disk. */
  readonly diskBytes: number;
}

type Options = { signal?: AbortSignal | undefined };

/** Does what `bootMachine` does. @throws MachineError */
export async function cloneWaitingGuest(
  context: EngineContext,
  request: BootRequest,
  options: Options,
): Promise<Booted> {
  const { id, runDir, memoryMiB, cpus, root, ramPath, network } = request;
  const diskBytes = await sizeOf(root);
  // Disks of other sizes are rare: images from scratch.
  if (diskBytes % (8 * GIB) !== 0) return bootMachine(context, request, options);
  const dir = await ensureWaitingGuest(context, { memoryMiB, cpus, diskBytes }, options);
  const manifest = await context.integrity.manifestOf(dir, context.driver).catch((error) => withoutDamaged(dir, error));
  const verified = context.integrity.verify(dir, manifest.parts).catch((error) => withoutDamaged(dir, error));
  verified.catch(() => {});
  await copySparse(path.join(dir, 'ram'), ramPath, options.signal);
  await chmod(ramPath, 0o600);
  const ram = { path: ramPath, sharing: 'shared' } as const;
  const config = restoreConfig(manifest, { id, runDir, ram, disks: fourDisks({ root }), network });
  const { secret } = manifest.link;
  return restoreMachine(context, { config, statePath: path.join(dir, 'state'), secret, verified }, options);
}

/** Makes it unless it is there; returns its folder. @throws MachineError */
export async function ensureWaitingGuest(context: EngineContext, shape: GuestShape, options: Options): Promise<string> {
  const { memoryMiB, cpus, diskBytes } = shape;
  const dir = path.join(prepared(context).dir, `guest-${memoryMiB}-${cpus}-${diskBytes / GIB}`);
  if (existsSync(dir)) return dir;
  const { driver, runtime } = context;
  await using draft = await createDraft(dir);
  await using disk = await open(draft.disk, 'wx', 0o600);
  await disk.truncate(diskBytes);
  const id = `guest-${context.ids.uuid()}`;
  const link = await runToSnapshot(context, draft, { id, memoryMiB, cpus }, options, async () => {});
  // A smaller file to copy each time; as good when this host cannot.
  await digHoles(draft.ram, options.signal).catch(() => options.signal?.throwIfAborted());
  const facts = {
    memoryMiB,
    cpus,
    network: 'none',
    link,
    container: null,
    built: null,
    runtimeStamp: runtime.stamp,
    kernelRelease: runtime.guest.kernelRelease,
  } as const;
  const sealing = { driver, mapper: runtime.qemu.img, signal: options.signal };
  await unlessThere(dir, () => sealDraft(draft, dir, facts, sealing));
  return dir;
}

async function sizeOf(root: BootRequest['root']): Promise<number> {
  if (root.kind === 'empty') return root.bytes;
  return (await stat(root.kind === 'raw' ? root.path : root.basePath)).size;
}

/** It can be made anew at any time: the next build does when it is gone. */
async function withoutDamaged(dir: string, error: unknown): Promise<never> {
  if (!(error instanceof MachineError && error.kind === 'corrupt')) throw error;
  await remove(dir);
  throw new MachineError('corrupt', 'the guest that builds start from was damaged and has been removed: build again', {
    cause: error,
  });
}
