/**
 * Takes over a machine that an earlier server left running: its process by its record, its VMM by the second control
 * socket, its guest by the link's secret. What was under way through the earlier server is lost, the guest is not.
 */
import { type GuestLink, openLink } from '../../guest/index.ts';
import { MachineError, messageOf } from '../../lib/index.ts';
import type { LaunchRequest } from '../engine.ts';
import { remove } from '../folders.ts';
import { limitsOf } from '../jail/limits.ts';
import { attached } from '../network/network.ts';
import { linkOf, type Vmm } from '../vmm/vmm.ts';
import type { EngineContext } from './context.ts';
import { type Kept, noteRunning, readKept } from './kept.ts';
import { RunningMachine } from './machine.ts';
import { openMachineKey } from './machine-key.ts';
import { machineFiles } from './saved.ts';
import { whileAlive } from './with-vmm.ts';

/** Of a guest that runs; who waits for it gives up before, by a signal. */
const LINK_TIMEOUT_MS = 600_000;
const PATIENCE_MS = 1000;
/** An agent that does not know the secret is silent. */
const OTHER_SECRET_TIMEOUT_MS = 3000;

type Options = { signal?: AbortSignal | undefined };

/**
 * Undefined when none is there, or none that ever ran; then nothing of it is left running. One that stands still is waited
 * for until the signal aborts. @throws MachineError: it has been ended, unless machines shall outlive this server
 */
export async function adoptMachine(
  context: EngineContext,
  request: LaunchRequest,
  options: Options,
): Promise<RunningMachine | undefined> {
  const { folders, leaving } = context;
  const runDir = folders.run(request.id);
  const kept = await readKept(runDir);
  if (kept === undefined) return undefined;
  await using stack = new AsyncDisposableStack();
  try {
    return await takeOver(context, request, { kept, runDir, stack }, options);
  } catch (error) {
    if (leaving.aborted) stack.move();
    throw error;
  }
}

async function takeOver(
  context: EngineContext,
  { id, snapshotDir, egress }: LaunchRequest,
  { kept, runDir, stack }: { kept: Kept; runDir: string; stack: AsyncDisposableStack },
  { signal }: Options,
): Promise<RunningMachine | undefined> {
  const { driver, folders, leaving } = context;
  const manifest = await context.integrity.manifestOf(snapshotDir, driver);
  const files = machineFiles(folders.machine(id));
  const key = await openMachineKey(context.keyring, id, files.key);
  stack.defer(() => remove(runDir));
  const sealed = stack.use(await context.vault.open(snapshotDir, manifest));
  const ram = kept.hasOwnRam ? files.ram : sealed.ram;
  const network = await attached(context.network, id, egress, { stack, signal, isRunning: true });
  const { hasOwnRam } = kept;
  const left = { id, runDir, ram, hasOwnRam, overlay: files.overlay, limits: limitsOf(manifest) };
  const taken = await driver.adopt(left, { signal, leaving });
  if (taken === undefined) return undefined;
  const { vmm } = taken;
  stack.use(vmm);
  if (taken.status === 'fresh') return undefined;
  try {
    const { link, secret } = await whileAlive(vmm, signal, async (bounded) => {
      // A suspend was cut short, before all of it was on disk.
      if (taken.status === 'paused') await vmm.continue();
      const opened = await openAgain(context, vmm, kept, { signal: bounded });
      if (kept.stage !== 'running') await noteRunning(context, id, runDir, { secret: opened.secret, hasOwnRam });
      return opened;
    });
    stack.use(link);
    await vmm.setLink(linkOf(network));
    context.log.info({ microvmId: id, pid: vmm.pid }, 'machine taken over');
    const parts = { id, snapshotDir, manifest, files, key, restored: { vmm, link, secret }, network, isAdopted: true };
    const isClockRight = taken.status === 'running' && kept.stage === 'running';
    return new RunningMachine(context, { ...parts, isClockRight, owned: stack.move() });
  } catch (error) {
    if (leaving.aborted) vmm.letGo();
    throw error;
  }
}

async function openAgain(
  context: EngineContext,
  vmm: Vmm,
  kept: Kept,
  { signal }: { signal: AbortSignal },
): Promise<{ link: GuestLink; secret: string }> {
  const socketPath = vmm.linkSocketPath;
  if (kept.stage === 'running') {
    const { secret } = kept;
    const link = await openLink({ socketPath, secret, patienceMs: PATIENCE_MS, timeoutMs: LINK_TIMEOUT_MS, signal });
    return { link, secret };
  }
  // Whether it took its first step is not known: it takes one now, under whichever secret it has. What is kept stays true.
  const nextSecret = kept.secret;
  let last: unknown;
  for (const secret of [kept.secret, kept.previousSecret]) {
    if (secret === null) continue;
    const restore = { wallClockMs: context.clock.now(), seed: context.ids.bytes(64), nextSecret };
    try {
      const link = await openLink({ socketPath, secret, restore, timeoutMs: OTHER_SECRET_TIMEOUT_MS, signal });
      return { link, secret: nextSecret };
    } catch (error) {
      signal.throwIfAborted();
      last = error;
    }
  }
  throw new MachineError('failed', `its agent does not answer: ${messageOf(last)}`);
}
