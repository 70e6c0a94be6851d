/** Starts machines: new ones from a sealed snapshot, suspended ones from what they saved. */
import { existsSync } from 'node:fs';
import { chmod, mkdir } from 'node:fs/promises';
import path from 'node:path';
import { MachineError } from '../../lib/index.ts';
import { copySparse } from '../disk/copy.ts';
import { luksHeader } from '../disk/luks.ts';
import { createOverlay } from '../disk/overlay.ts';
import type { LaunchRequest, ResumeRequest } from '../engine.ts';
import { remove, syncPath } from '../folders.ts';
import { attached } from '../network/network.ts';
import { readChunkFile } from '../snapshot/chunk-file.ts';
import type { DataKey } from '../snapshot/encryption.ts';
import type { Manifest } from '../snapshot/manifest.ts';
import type { OpenSnapshot } from '../snapshot/vault.ts';
import { decryptFile } from '../snapshot/whole-file.ts';
import type { VmmConfig } from '../vmm/vmm.ts';
import { forgetCheckpoints, keepAsCheckpoint } from './checkpoints.ts';
import type { EngineContext } from './context.ts';
import { fourDisks, overlayOf } from './disks.ts';
import { noteRunning, writeKept } from './kept.ts';
import { noteBoot, voidSaved } from './last-boot.ts';
import { RunningMachine } from './machine.ts';
import { makeMachineKey, openMachineKey, overlayPassphrase } from './machine-key.ts';
import { restoreConfig, restoreMachine } from './restore.ts';
import {
  corrupt,
  type MachineFiles,
  machineFiles,
  memoryGuard,
  OVERLAY_NAME,
  readSaved,
  type Saved,
  STATE_NAME,
  verifySaved,
} from './saved.ts';

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
  const key = await makeMachineKey(context.keyring, request.id, files.key);
  const luks = key === undefined ? undefined : luksHeader(overlayPassphrase(key), context.ids.uuid());
  await Promise.all([
    createOverlay(files.overlay, manifest.parts.disk.bytes, luks),
    context.driver.capabilities.deltaSave ? undefined : copyRam(request.snapshotDir, files.ram, options.signal),
  ]);
  const machine = await start(context, request, manifest, { key }, options);
  stack.move();
  return machine;
}

/** @throws MachineError; what was saved is still there then, unless the machine had begun to run */
export async function resumeMachine(context: EngineContext, request: ResumeRequest, options: Options) {
  const manifest = await context.integrity.manifestOf(request.snapshotDir, context.driver);
  const files = machineFiles(context.folders.machine(request.id));
  const saved = await readSaved(files, manifest);
  if (saved.memory.kind === 'delta' && !context.driver.capabilities.deltaSave) {
    throw new MachineError('unsupported', 'this host forbids writing the memory of the VMM; see `rekindle doctor`');
  }
  const verified = verifySaved(files, saved, { mapper: context.runtime.qemu.img, signal: options.signal });
  verified.catch(() => {});
  const key = await openMachineKey(context.keyring, request.id, files.key);
  const source = {
    key,
    verified,
    saved,
    secret: secretOf(saved, key),
    ...(saved.memory.kind === 'ram'
      ? { ramPath: files.ram }
      : {
          memory: readChunkFile(
            files.memory,
            memoryGuard(key, Buffer.from(saved.memory.fileId, 'hex')),
            'the suspended memory',
          ),
        }),
  };
  if (request.keepsCheckpoint !== true) {
    // Older ones must not come back.
    await forgetCheckpoints(files);
    const machine = await start(context, request, manifest, source, options, () => voidSaved(files));
    await remove(files.delta);
    return machine;
  }
  const copied = keepOverlay(files, options);
  copied.catch(() => {});
  return start(context, request, manifest, source, options, async () => {
    await copied;
    await keepAsCheckpoint(files);
  });
}

/** The overlay as it was saved; nothing writes to it before the guest runs. */
async function keepOverlay(files: MachineFiles, { signal }: Options): Promise<void> {
  const copy = path.join(files.delta, OVERLAY_NAME);
  await remove(copy);
  await copySparse(files.overlay, copy, signal);
  await syncPath(copy);
}

/** @throws MachineError `corrupt` */
function secretOf(saved: Saved, key: DataKey | undefined): string {
  const secret = key === undefined ? saved.secret : key.openText(saved.secret, 'link');
  if (secret === undefined) throw corrupt('record');
  return secret;
}

interface Source {
  /** Of all the machine writes to the disk, when that is encrypted. */
  readonly key: DataKey | undefined;
  readonly saved?: Saved;
  readonly memory?: AsyncIterable<Buffer>;
  /** The machine's own RAM file, where it has one. */
  readonly ramPath?: string;
  readonly secret?: string;
  /** That it is as it was saved. */
  readonly verified?: Promise<void>;
}

async function start(
  context: EngineContext,
  { id, snapshotDir, egress }: LaunchRequest,
  manifest: Manifest,
  source: Source,
  options: Options,
  beforeRun: () => Promise<void> = async () => {},
): Promise<RunningMachine> {
  const files = machineFiles(context.folders.machine(id));
  const { deltaSave } = context.driver.capabilities;
  await using stack = new AsyncDisposableStack();
  const noted = noteBoot(files, context.clock.sinceBoot().bootId);
  noted.catch(() => {});
  stack.defer(() => noted.catch(() => {}));
  const intact = context.integrity.verify(snapshotDir, manifest.parts);
  intact.catch(() => {});
  const opening = context.vault.open(snapshotDir, manifest).catch(async (error: unknown) => {
    // Which part is damaged is found, and told, by its digest.
    await intact;
    throw error;
  });
  const sealed = stack.use(await opening);
  const ram: VmmConfig['ram'] =
    deltaSave && source.ramPath === undefined
      ? { path: sealed.ram, sharing: 'private' }
      : { path: files.ram, sharing: 'shared' };
  if (ram.sharing === 'private') stack.use(context.readAhead.begin(snapshotDir, manifest, ram.path, intact));
  const attaching = attached(context.network, id, egress, { stack, signal: options.signal });
  attaching.catch(() => {});
  const runDir = await context.folders.makeRun(id);
  stack.defer(() => remove(runDir));
  const config = restoreConfig(manifest, {
    id,
    runDir,
    ram,
    network: await attaching,
    disks: fourDisks({
      root: overlayOf(snapshotDir, files.overlay, {
        overlay: source.key && overlayPassphrase(source.key),
        changes: sealed.passphrase,
      }),
    }),
  });
  const verified = Promise.all([intact, source.verified]);
  verified.catch(() => {});
  const previousSecret = source.secret ?? manifest.link.secret;
  const hasOwnRam = ram.sharing === 'shared';
  const restoring = restoreMachine(
    context,
    {
      config: { ...config, isAwaited: true },
      statePath: await stateOf(source, files, { sealed, runDir }),
      secret: previousSecret,
      verified,
      beforeRun: async (secret) => {
        // A full disk may refuse these, and what it resumes from is whole until the last.
        await Promise.all([writeKept(runDir, { stage: 'starting', secret, previousSecret, hasOwnRam }), noted]);
        await beforeRun();
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
  await noteRunning(context, id, runDir, { secret: restored.secret, hasOwnRam });
  await remove(path.join(runDir, STATE_NAME));
  const machine = new RunningMachine(context, {
    id,
    snapshotDir,
    manifest,
    files,
    key: source.key,
    restored,
    network: config.network,
    owned: stack.move(),
  });
  // The app would see the time of its sleep: what is signed or logged then is wrong.
  await machine.clockCorrected;
  return machine;
}

/** A state to load: the snapshot's or the saved one, or what that is decrypted. */
async function stateOf(
  { saved, key, verified }: Source,
  files: MachineFiles,
  { sealed, runDir }: { sealed: OpenSnapshot; runDir: string },
): Promise<string> {
  if (saved === undefined) return sealed.state;
  if (key === undefined || saved.stateId === null) return files.state;
  await verified;
  const plain = path.join(runDir, STATE_NAME);
  await decryptFile(files.state, plain, key.forFile('state', Buffer.from(saved.stateId, 'hex')), 'the device state');
  return plain;
}

async function copyRam(snapshotDir: string, to: string, signal: AbortSignal | undefined): Promise<void> {
  await copySparse(path.join(snapshotDir, 'ram'), to, signal);
  await chmod(to, 0o600);
}
