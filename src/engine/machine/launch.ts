/** Starts machines: new ones from a sealed snapshot, suspended ones from what they saved. */
import { existsSync } from 'node:fs';
import { chmod, mkdir, rename, unlink } from 'node:fs/promises';
import path from 'node:path';
import { MachineError } from '../../lib/index.ts';
import { copySparse } from '../disk/copy.ts';
import { createOverlay } from '../disk/overlay.ts';
import type { LaunchRequest } from '../engine.ts';
import { remove } from '../folders.ts';
import { digestGuard, readChunkFile } from '../snapshot/chunk-file.ts';
import type { Manifest } from '../snapshot/manifest.ts';
import type { VmmConfig } from '../vmm/vmm.ts';
import type { EngineContext } from './context.ts';
import { fourDisks, overlayOf } from './disks.ts';
import { writeKept } from './kept.ts';
import { RunningMachine } from './machine.ts';
import { restoreConfig, restoreMachine } from './restore.ts';
import { machineFiles, readSaved, verifySaved } from './saved.ts';

type Options = { signal?: AbortSignal | undefined };

/** @throws MachineError; nothing is left then */
export async function launchMachine(context: EngineContext, request: LaunchRequest, options: Options) {
  const manifest = await context.integrity.manifestOf(request.snapshotDir, context.driver);
  const files = machineFiles(context.folders.machine(request.id));
  if (existsSync(files.saved)) throw new MachineError('failed', `${request.id} is suspended: resume it, or destroy it`);
  await using stack = new AsyncDisposableStack();
  stack.defer(() => remove(files.dir));
  // What a launch that a crash cut short may have left.
  if (existsSync(files.dir)) await remove(files.dir);
  await mkdir(files.dir, { recursive: true, mode: 0o700 });
  await Promise.all([
    createOverlay(files.overlay, manifest.parts.disk.bytes),
    context.driver.capabilities.deltaSave ? undefined : copyRam(request.snapshotDir, files.ram, options.signal),
  ]);
  const machine = await start(context, request, manifest, {}, options);
  stack.move();
  return machine;
}

/** @throws MachineError; what was saved is still there then, unless the machine had begun to run */
export async function resumeMachine(context: EngineContext, request: LaunchRequest, options: Options) {
  const manifest = await context.integrity.manifestOf(request.snapshotDir, context.driver);
  const files = machineFiles(context.folders.machine(request.id));
  const saved = await readSaved(files, manifest);
  if (saved.memory.kind === 'delta' && !context.driver.capabilities.deltaSave) {
    throw new MachineError('unsupported', 'this host forbids writing the memory of the VMM; see `rekindle doctor`');
  }
  const verified = verifySaved(files, saved, { mapper: context.runtime.qemu.img, signal: options.signal });
  verified.catch(() => {});
  const source = {
    verified,
    statePath: files.state,
    secret: saved.secret,
    ...(saved.memory.kind === 'ram'
      ? { ramPath: files.ram }
      : {
          memory: readChunkFile(
            files.memory,
            digestGuard(Buffer.from(saved.memory.fileId, 'hex')),
            'the suspended memory',
          ),
        }),
  };
  // From its first instruction on the overlay moves on without the saved memory: the two must never be joined again.
  const machine = await start(context, request, manifest, source, options, () => rename(files.saved, files.voided));
  await unlink(files.voided);
  return machine;
}

interface Source {
  readonly statePath?: string;
  readonly memory?: AsyncIterable<Buffer>;
  /** The machine's own RAM file, where it has one. */
  readonly ramPath?: string;
  readonly secret?: string;
  /** That it is as it was saved. */
  readonly verified?: Promise<void>;
}

async function start(
  context: EngineContext,
  { id, snapshotDir }: LaunchRequest,
  manifest: Manifest,
  source: Source,
  options: Options,
  beforeRun: () => Promise<void> = async () => {},
): Promise<RunningMachine> {
  const files = machineFiles(context.folders.machine(id));
  const { deltaSave } = context.driver.capabilities;
  const ram: VmmConfig['ram'] =
    deltaSave && source.ramPath === undefined
      ? { path: path.join(snapshotDir, 'ram'), sharing: 'private' }
      : { path: files.ram, sharing: 'shared' };
  await using stack = new AsyncDisposableStack();
  const runDir = await context.folders.makeRun(id);
  stack.defer(() => remove(runDir));
  const config = restoreConfig(manifest, {
    id,
    runDir,
    ram,
    network: 'down',
    disks: fourDisks({ root: overlayOf(snapshotDir, files.overlay) }),
  });
  const verified = Promise.all([context.integrity.verify(snapshotDir, manifest.parts), source.verified]);
  verified.catch(() => {});
  const previousSecret = source.secret ?? manifest.link.secret;
  const hasOwnRam = ram.sharing === 'shared';
  const restoring = restoreMachine(
    context,
    {
      config,
      statePath: source.statePath ?? path.join(snapshotDir, 'state'),
      secret: previousSecret,
      verified,
      beforeRun: async (secret) => {
        await Promise.all([writeKept(runDir, { stage: 'starting', secret, previousSecret, hasOwnRam }), beforeRun()]);
      },
      ...(source.memory === undefined ? {} : { memory: source.memory }),
    },
    options,
  );
  const restored = await restoring.catch(async (error: unknown) => {
    options.signal?.throwIfAborted();
    // What the VMM stumbled over may be the damage itself, which says more.
    await verified;
    throw error;
  });
  stack.use(restored.vmm);
  stack.use(restored.link);
  await writeKept(runDir, { stage: 'running', secret: restored.secret, previousSecret: null, hasOwnRam });
  return new RunningMachine(context, { id, manifest, files, restored, owned: stack.move() });
}

async function copyRam(snapshotDir: string, to: string, signal: AbortSignal | undefined): Promise<void> {
  await copySparse(path.join(snapshotDir, 'ram'), to, signal);
  await chmod(to, 0o600);
}
