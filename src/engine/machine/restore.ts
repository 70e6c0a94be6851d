/**
 * From files to a running machine with its link up: what launch, resume and the builder share, and what a benchmark can call
 * without any of them.
 *
 * Invariant: when it returns, clock, random numbers and the link's secret are the machine's own; when any of that failed,
 * the VMM has been ended (fail closed). Once the guest may have run, a server that leaves its machines behind ends none.
 */
import { type GuestLink, openLink } from '../../guest/index.ts';
import { limitsOf } from '../jail/limits.ts';
import type { Manifest } from '../snapshot/manifest.ts';
import type { Vmm, VmmConfig } from '../vmm/vmm.ts';
import { type EngineContext, newSecret } from './context.ts';
import { unless, whileAlive } from './with-vmm.ts';

/** Many launches at once share the cores: the last of twenty waits seconds for its first instruction. */
const LINK_TIMEOUT_MS = 60_000;
/** After so long without the agent's answer something is wrong with the session, unless others use the cores too. */
const PATIENCE_MS = 1000;
const PATIENCE_EACH_MS = 250;

export interface Restored {
  readonly vmm: Vmm;
  readonly link: GuestLink;
  /** Of the link from now on. */
  readonly secret: string;
}

export interface RestoreSource {
  readonly config: VmmConfig;
  readonly statePath: string;
  /** Changed memory to put back first. */
  readonly memory?: AsyncIterable<Buffer>;
  readonly secret: string;
  /** Settles once all of it is known to be as it was written; the guest does not run before. */
  readonly verified: Promise<unknown>;
  /** Awaited at the last moment before the guest runs, with the secret its link will have. */
  readonly beforeRun?: (secret: string) => Promise<void>;
}

/** The config of a machine restored from a snapshot. */
export function restoreConfig(
  manifest: Manifest,
  given: Pick<VmmConfig, 'id' | 'runDir' | 'ram' | 'disks' | 'network'>,
): VmmConfig {
  return { ...given, memoryMiB: manifest.memoryMiB, cpus: manifest.cpus, boot: 'restore', limits: limitsOf(manifest) };
}

/** The caller owns both parts of the result. @throws MachineError */
export async function restoreMachine(
  { driver, ids, clock, restoring, leaving }: Pick<EngineContext, 'driver' | 'ids' | 'clock' | 'restoring' | 'leaving'>,
  source: RestoreSource,
  options: { signal?: AbortSignal | undefined },
): Promise<Restored> {
  await using stack = new AsyncDisposableStack();
  restoring.add(source);
  stack.defer(() => void restoring.delete(source));
  const vmm = stack.use(await driver.start(source.config, options));
  let mayRun = false;
  const { beforeRun } = source;
  const noteRun = async (secret: string, signal: AbortSignal) => {
    // Nobody waits for it any more: what it is resumed from must stay.
    signal.throwIfAborted();
    mayRun = beforeRun !== undefined;
    await beforeRun?.(secret);
  };
  // What it was resumed from is void then: ended by a server that only stops, it would be lost to the next one.
  const given = unless(() => mayRun && leaving.aborted, options.signal);
  return await whileAlive(vmm, given, async (signal) => {
    if (source.memory !== undefined) await vmm.changedMemory?.load(source.memory);
    await source.verified;
    // Called off meanwhile: its VMM is gone, or as good as.
    signal.throwIfAborted();
    const secret = newSecret(ids);
    const opening = openLink({
      socketPath: vmm.linkSocketPath,
      secret: source.secret,
      restore: { wallClockMs: clock.now(), seed: ids.bytes(64), nextSecret: secret },
      patienceMs: PATIENCE_MS + PATIENCE_EACH_MS * restoring.size,
      timeoutMs: LINK_TIMEOUT_MS,
      signal,
    });
    stack.defer(() => opening.then((link) => link[Symbol.asyncDispose]()).catch(() => {}));
    const [link] = await Promise.all([opening, vmm.restore(source.statePath, () => noteRun(secret, signal))]);
    restoring.delete(source);
    stack.move();
    return { vmm, link, secret };
  });
}
