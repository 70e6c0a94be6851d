/** From a disk to a snapshot: boots, lets the caller bring the guest where it shall be taken, and takes it. */
import { stat } from 'node:fs/promises';
import { type Phases, timed } from '../build/phases.ts';
import { luksHeader } from '../disk/luks.ts';
import { createOverlay } from '../disk/overlay.ts';
import type { Egress } from '../egress.ts';
import { remove } from '../folders.ts';
import { attached } from '../network/network.ts';
import { changesPassphrase } from '../snapshot/manifest.ts';
import type { Draft } from '../snapshot/seal.ts';
import { type Booted, bootMachine } from './boot.ts';
import type { EngineContext } from './context.ts';
import { whileAlive } from './with-vmm.ts';

const QUIESCE_TIMEOUT_MS = 120_000;

/**
 * Boots beside the draft's disk, lets `prepare` bring the guest where its snapshot shall be taken, and takes it, unless `confirm`
 * finds at the last moment that the guest is not there any more. The VMM has ended when this returns.
 */
export async function runToSnapshot(
  context: EngineContext,
  draft: Draft,
  shape: {
    id: string;
    memoryMiB: number;
    cpus: number;
    egress?: Egress | undefined;
    erasesFreedMemory?: boolean;
    phases?: Phases | undefined;
    /** Undefined: a kernel that boots. */
    start?: typeof bootMachine;
  },
  options: { signal?: AbortSignal | undefined },
  prepare: (booted: Booted, signal: AbortSignal) => Promise<void>,
  confirm: (booted: Booted, signal: AbortSignal) => Promise<void> = async () => {},
): Promise<{ generation: number; secret: string }> {
  await using stack = new AsyncDisposableStack();
  const { egress, phases, start = bootMachine, ...machine } = shape;
  const network = await attached(context.network, shape.id, egress, { stack, signal: options.signal });
  const runDir = await context.folders.makeRun(shape.id);
  stack.defer(() => remove(runDir));
  const passphrase = draft.key && changesPassphrase(draft.key.key);
  const luks = passphrase === undefined ? undefined : luksHeader(passphrase, context.ids.uuid());
  await createOverlay(draft.changes, (await stat(draft.disk)).size, luks);
  const root = {
    kind: 'overlay',
    path: draft.changes,
    basePath: draft.disk,
    ...(passphrase && { passphrase }),
  } as const;
  const request = { ...machine, network, runDir, ramPath: draft.ram, root };
  const booted = await timed(phases, 'boot', () => start(context, request, options));
  const { vmm, link, secret } = booted;
  stack.use(vmm);
  stack.use(link);
  await whileAlive(vmm, options.signal, async (signal) => {
    await prepare(booted, signal);
    await timed(phases, 'quiesce', () => link.quiesce({ dropCaches: true, timeoutMs: QUIESCE_TIMEOUT_MS, signal }));
    await confirm(booted, signal);
    await link[Symbol.asyncDispose]();
    await timed(phases, 'save', async () => {
      await vmm.pause();
      await vmm.saveState(draft.state);
    });
  });
  return { generation: link.generation, secret };
}
