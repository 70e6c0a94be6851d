/**
 * Runs one version's build: fetch, unpack, Dockerfile, seal, validate. Whatever happens, the work folder is gone
 * afterwards, and a failed build leaves no snapshot.
 */
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import type { Artifacts } from '../artifacts/index.ts';
import type { Connectors } from '../connectors/index.ts';
import {
  BUILDER_MEMORY_MIB,
  type Budget,
  type BuiltDisk,
  type Egress,
  type Engine,
  type Machine,
  Phases,
  type SealedSnapshot,
  type Stay,
} from '../engine/index.ts';
import {
  type Clock,
  DomainError,
  type Logger,
  messageOf,
  requestOverStream,
  sleep,
  withDeadline,
} from '../lib/index.ts';
import { askerOf } from './asker.ts';
import type { BuildLogWriter } from './build-log.ts';
import { lenderOf, type RoleSource } from './build-role.ts';
import { BuildTimeout, failureReason, hookTimeout, ValidateFailure } from './failure-reason.ts';
import type { BuildSizes, VersionRecord } from './lifecycle.ts';
import { dockerfileIn } from './provenance/artifact.ts';
import { type BuildFacts, type ProvenanceFacts, type ProvenanceStep, writeFacts } from './provenance/facts.ts';
import { forgetImport, importedDisk } from './upkeep/import.ts';
import { containerConfigOf, HOOK_PATH, imageHookSeconds, memoryMiBOf, readinessOf } from './version-config.ts';

export interface BuilderOptions {
  readonly engine: Engine;
  readonly artifacts: Pick<Artifacts, 'fetchZip'>;
  readonly connectors: Pick<Connectors, 'egress'>;
  /** Undefined: no role has credentials. */
  readonly roles: RoleSource | undefined;
  readonly clock: Clock;
  readonly log: Logger;
  readonly region: string;
  readonly accountId: string;
  /** What is imported lies below it. */
  readonly stateDir: string;
  /** Parent of the work folders. */
  readonly workDir: string;
  readonly snapshotDirOf: (version: VersionRecord) => string;
  /** Of another version of the same image, by what is on record now. @throws DomainError `NOT_FOUND` */
  readonly snapshotDirNow: (imageArn: string, imageVersion: string) => Promise<string>;
  /** Of the same. Undefined when nothing is known. */
  readonly provenanceNow: (imageArn: string, imageVersion: string) => Promise<ProvenanceFacts | undefined>;
  readonly budget: Pick<Budget, 'widen' | 'lend'>;
  /** How long the machine of a build waits for its owner's next one; 0: not at all. */
  readonly builderKeepMs: number;
  /** Bounds the Dockerfile's run. */
  readonly buildTimeoutMs: number;
}

export type BuildOutcome =
  | {
      readonly kind: 'succeeded';
      readonly sizes: BuildSizes;
      /** Digest of the file that tells it. */
      readonly provenance: string | undefined;
      /** What is left to do while the version is already launched. Never rejects but when the build is called off. */
      readonly rehearse: () => Promise<void>;
    }
  | { readonly kind: 'failed'; readonly reason: string; readonly codeBytes: number | null };

/** Boot, start and sealing around the time the app itself may take. */
const SEAL_OVERHEAD_MS = 300_000;
const FETCH_TIMEOUT_MS = 300_000;
const LAUNCH_TIMEOUT_MS = 60_000;
/** What ends a build is given that long. */
const CALL_OFF_MS = 60_000;
/** Of an artifact's files, whatever its Dockerfile does with them: unpacked, archived for the builder, unpacked in it. */
const COPIES = 3;
const KEPT_TIMEOUT_MS = 300_000;
/** Pause after a 503 of the validate hook. Undocumented. GUESS: validate-hook-pace */
const VALIDATE_RETRY_MS = 500;

/** Never rejects but when `signal` aborts: nobody wants the outcome then. */
export async function runBuild(
  o: BuilderOptions,
  version: VersionRecord,
  buildLog: BuildLogWriter,
  signal: AbortSignal,
): Promise<BuildOutcome> {
  const log = o.log.child({ buildId: version.buildId, imageArn: version.imageArn, imageVersion: version.version });
  const say = (text: string) => buildLog.write(`[rekindle] ${text}\n`);
  const workDir = path.join(o.workDir, version.buildId);
  const snapshotDir = o.snapshotDirOf(version);
  const progress = { codeBytes: null as number | null };
  const phases = new Phases(o.clock);
  try {
    await using stack = new AsyncDisposableStack();
    stack.defer(() => rm(workDir, { recursive: true, force: true }));
    const { importId } = version;
    if (importId !== undefined) stack.defer(() => forgetImport(o.stateDir, importId));
    await mkdir(workDir, { recursive: true });
    const work = { workDir, snapshotDir, buildLog, say, signal, progress, phases };
    const { sealed, rehearse, traced } = await inPhases(o, version, work);
    const disk = await provenDisk(o, traced, work);
    say(`took: ${phases}`);
    say('done');
    const log = await buildLog.written();
    const made = { buildId: version.buildId, at: o.clock.now(), log };
    const { build, steps } = traced;
    const provenance =
      build && disk && (await writeFacts(path.dirname(snapshotDir), { generation: 1, build, steps, disk, made }));
    return {
      kind: 'succeeded',
      sizes: { codeBytes: progress.codeBytes ?? 0, memoryBytes: sealed.memoryBytes, diskBytes: sealed.diskBytes },
      provenance,
      rehearse,
    };
  } catch (error) {
    await discardSnapshot(o, snapshotDir, log);
    if (signal.aborted) say(`called off: ${messageOf(signal.reason)}`);
    signal.throwIfAborted();
    say(`took: ${phases}`);
    const reason = failureReason(error, version.config);
    say(`build failed: ${reason}`);
    const evidence = error instanceof Error && 'evidence' in error ? { evidence: error.evidence } : {};
    log.info({ reason, error: messageOf(error), ...evidence }, 'build failed');
    return { kind: 'failed', reason, codeBytes: progress.codeBytes };
  }
}

/**
 * Seals a version once more, from the root disk of the snapshot in `from` into the folder `into`. Rejects as the phases of a
 * build do; nothing is left in `into` then.
 */
export async function sealAgain(
  o: BuilderOptions,
  version: VersionRecord,
  { from, into }: { readonly from: string; readonly into: string },
  say: (text: string) => void,
  signal: AbortSignal,
): Promise<SealedSnapshot> {
  const disk = await withDeadline('reading the kept root disk', KEPT_TIMEOUT_MS, () => o.engine.keptDisk(from), {
    signal,
  });
  if (disk === undefined)
    throw new DomainError('CONFLICT', 'the root disk it kept is damaged: rekindle images rebuild');
  const buildLog = { write: (chunk: Buffer | string) => say(chunk.toString()) };
  const phases = new Phases(o.clock);
  const work = { workDir: '', snapshotDir: into, buildLog, say, signal, progress: { codeBytes: null }, phases };
  try {
    const { sealed, rehearse } = await sealDisk(o, version, disk, work);
    await rehearse();
    return sealed;
  } catch (error) {
    await o.engine.deleteSnapshot(into);
    throw error;
  }
}

interface Work {
  readonly workDir: string;
  readonly snapshotDir: string;
  readonly buildLog: Pick<BuildLogWriter, 'write'>;
  readonly say: (text: string) => void;
  readonly signal: AbortSignal;
  readonly progress: { codeBytes: number | null };
  readonly phases: Phases;
}

/** A root disk, and as far as it is known how it came to be. */
interface Traced {
  readonly disk: BuiltDisk;
  readonly build: BuildFacts | undefined;
  readonly steps: readonly ProvenanceStep[];
  /** What somebody else said that it is. */
  readonly claimed?: string | undefined;
}

async function inPhases(o: BuilderOptions, version: VersionRecord, work: Work) {
  const onLog = (chunk: Buffer) => work.buildLog.write(chunk);
  const traced = (await keptDisk(o, version, work)) ?? (await buildDisk(o, version, work, onLog));
  work.progress.codeBytes = traced.disk.usedBytes;
  return { ...(await sealDisk(o, version, traced.disk, work)), traced };
}

/** The digest of the root disk that was sealed; undefined when what is known is of another one. */
async function provenDisk(
  { engine }: BuilderOptions,
  { build, claimed }: Traced,
  { snapshotDir, say }: Work,
): Promise<string | undefined> {
  if (build === undefined) return undefined;
  const disk = (await engine.facts(snapshotDir))?.parts.disk.sha256;
  if (claimed === undefined || claimed === disk) return disk;
  say('the provenance that came with the root disk is of another one, and is left out');
  return undefined;
}

async function sealDisk(
  o: BuilderOptions,
  version: VersionRecord,
  disk: BuiltDisk,
  work: Work,
): Promise<{ sealed: SealedSnapshot; rehearse: () => Promise<void> }> {
  const { buildId, config } = version;
  const { signal, say } = work;
  const onLog = (chunk: Buffer) => work.buildLog.write(chunk);
  say('starting the application and taking its snapshot');
  const readiness = readinessOf(config, disk.config);
  await mkdir(path.dirname(work.snapshotDir), { recursive: true });
  const egress = await egressOf(o, version);
  const lendCredentials = lenderOf(o.roles, version);
  const sealed = await untilEnded(
    'starting and sealing',
    SEAL_OVERHEAD_MS + (readiness.kind === 'hook' ? readiness.timeoutMs : readiness.graceMs),
    (deadline) =>
      o.engine.seal(
        {
          buildId,
          disk,
          config: containerConfigOf(disk.config, version, o.region),
          capabilities: config.additionalOsCapabilities?.includes('ALL') === true ? 'all' : 'default',
          memoryMiB: memoryMiBOf(config),
          readiness,
          egress,
          ...(lendCredentials && { lendCredentials }),
          snapshotDir: work.snapshotDir,
          phases: work.phases,
          onLog,
        },
        { signal: deadline },
      ),
    { signal },
  );
  if (config.hooks?.microvmImageHooks?.validate === 'ENABLED') {
    await work.phases.time('validate', () => validate(o, version, work));
    return { sealed, rehearse: async () => {} };
  }
  return { sealed, rehearse: () => rehearse(o, version, work, readiness.port) };
}

/** Of no consequence for the version, but that its launches may find less in memory. */
async function rehearse(o: BuilderOptions, { buildId }: VersionRecord, work: Work, port: number): Promise<void> {
  const { snapshotDir, signal } = work;
  try {
    await untilEnded(
      'the rehearsal',
      LAUNCH_TIMEOUT_MS,
      async (bounded) => o.engine.rehearse?.({ id: `rehearsal-${buildId}`, snapshotDir, port }, { signal: bounded }),
      { signal },
    );
  } catch (error) {
    signal.throwIfAborted();
    o.log.warn({ buildId, error: messageOf(error) }, 'a launch of the new version could not be rehearsed');
  }
}

/** What is left of the version this one replaces, or was imported for it. */
async function keptDisk(o: BuilderOptions, version: VersionRecord, work: Work): Promise<Traced | undefined> {
  if (version.importId !== undefined) {
    work.say('using the imported root disk');
    const { disk, provenance } = await importedDisk(o.stateDir, version.importId);
    return { disk, build: provenance?.build, steps: provenance?.steps ?? [], claimed: provenance?.disk };
  }
  if (version.rebuildOf === undefined) return undefined;
  const from = await o.snapshotDirNow(version.imageArn, version.rebuildOf);
  const kept = await withDeadline('reading the kept root disk', KEPT_TIMEOUT_MS, () => o.engine.keptDisk(from), {
    signal: work.signal,
  });
  const origin = `the root disk of version ${version.rebuildOf}`;
  work.say(kept === undefined ? `${origin} is damaged too; building from the artifact` : `using ${origin}`);
  if (kept === undefined) return undefined;
  const known = await o.provenanceNow(version.imageArn, version.rebuildOf);
  const steps = [...(known?.steps ?? []), { kind: 'rebuilt', imageVersion: version.rebuildOf } as const];
  return { disk: kept, build: known?.build, steps, claimed: known?.disk };
}

/** `withDeadline` for work that has a machine: called off, it is over when that has ended, or did not in a long time. */
async function untilEnded<T>(
  what: string,
  timeoutMs: number,
  work: (signal: AbortSignal) => Promise<T>,
  options: { signal: AbortSignal },
): Promise<T> {
  let working: Promise<unknown> = Promise.resolve();
  const begin = (signal: AbortSignal) => {
    const begun = work(signal);
    working = begun.catch(() => {});
    return begun;
  };
  try {
    return await withDeadline(what, timeoutMs, begin, options);
  } catch (error) {
    await withDeadline(`ending ${what}`, CALL_OFF_MS, () => working).catch(() => {});
    throw error;
  }
}

async function buildDisk(
  o: BuilderOptions,
  version: VersionRecord,
  { workDir, signal, say, phases }: Work,
  onLog: (chunk: Buffer) => void,
): Promise<Traced> {
  const { buildId, config } = version;
  const startedAt = o.clock.now();
  const contextDir = path.join(workDir, 'context');
  say(`fetching ${config.codeArtifact.uri}`);
  const artifact = await withDeadline(
    'fetching the artifact',
    FETCH_TIMEOUT_MS,
    async (deadline) => {
      const { uri } = config.codeArtifact;
      await using fetched = await phases.time('fetch', () => o.artifacts.fetchZip(uri));
      const admit = (bytes: number) => o.budget.widen(`build-${buildId}`, Math.ceil((COPIES * bytes) / 1024 ** 2));
      await phases.time('unpack', () => fetched.unpack(contextDir, { signal: deadline, admit }));
      const sha256 = await phases.time('digest', () => fetched.digest({ signal: deadline }));
      return { uri, bytes: fetched.sizeBytes, sha256 };
    },
    { signal },
  );
  const dockerfile = await dockerfileIn(contextDir);
  say('building the container image');
  const egress = await egressOf(o, version);
  const over = new AbortController();
  using _timer = o.clock.after(o.buildTimeoutMs, () => over.abort(new BuildTimeout(o.buildTimeoutMs / 1000)));
  const outDir = path.join(workDir, 'out');
  // Layers of somebody else's Dockerfile are nothing to build on: it may have had the builder for itself.
  const cacheOwner = askerOf(version, o.accountId);
  const lend: Stay['lend'] = (giveUp) => o.budget.lend({ memoryMiB: BUILDER_MEMORY_MIB, cpus: 0 }, giveUp);
  const stay = o.builderKeepMs > 0 ? { forMs: o.builderKeepMs, lend } : undefined;
  try {
    const disk = await untilEnded(
      'the container image build',
      o.buildTimeoutMs + CALL_OFF_MS,
      (deadline) =>
        o.engine.build(
          { buildId, contextDir, cacheOwner, egress, outDir, phases, onLog, ...(stay && { stay }) },
          { signal: deadline },
        ),
      { signal: AbortSignal.any([signal, over.signal]) },
    );
    const { origin, builder, isFresh } = disk;
    if (dockerfile === null || origin === undefined) return { disk, build: undefined, steps: [] };
    const made = { builder, buildId, startedAt, finishedAt: o.clock.now(), isReused: !isFresh };
    return { disk, build: { artifact, dockerfile, baseImageArn: config.baseImageArn, origin, ...made }, steps: [] };
  } catch (error) {
    signal.throwIfAborted();
    over.signal.throwIfAborted();
    throw error;
  }
}

/** Source: the guide; a clone of the new snapshot is asked and thrown away. 503 means not yet, only 200 is success. */
async function validate(o: BuilderOptions, version: VersionRecord, work: Work): Promise<void> {
  const { hooks } = version.config;
  const port = hooks?.port;
  if (port === undefined || hooks?.microvmImageHooks?.validate !== 'ENABLED') return;
  work.say('validating a clone');
  const id = `validate-${version.buildId}`;
  await using stack = new AsyncDisposableStack();
  stack.defer(() => o.engine.destroy(id));
  const egress = await egressOf(o, version);
  const machine = stack.use(
    await withDeadline(
      'launching the clone to validate',
      LAUNCH_TIMEOUT_MS,
      (signal) => o.engine.launch({ id, snapshotDir: work.snapshotDir, egress }, { signal }),
      { signal: work.signal },
    ),
  );
  await machine.noteTouched?.();
  const lent = await lenderOf(o.roles, version)?.(machine, { signal: work.signal });
  if (lent !== undefined) stack.use(lent);
  const seconds = imageHookSeconds(hooks, 'validate');
  const timeout = new ValidateFailure(hookTimeout('Validate', seconds));
  const over = new AbortController();
  const timer = o.clock.after(seconds * 1000, () => over.abort(timeout));
  stack.defer(() => timer[Symbol.dispose]());
  const signal = AbortSignal.any([over.signal, work.signal]);
  for (;;) {
    const status = await askOnce(machine, port, signal);
    if (status === 200) {
      await machine.noteTouched?.();
      return;
    }
    if (status !== 503 && status !== undefined) {
      const blame = status >= 500 ? 'a server error (HTTP 5xx)' : 'a client error (HTTP 4xx)';
      throw new ValidateFailure(`Validate hook check failed: the application returned ${blame} response`);
    }
    await sleep(VALIDATE_RETRY_MS, { signal });
  }
}

/** As the version's connector is when a phase begins; it stays so for the phase. */
async function egressOf({ connectors }: BuilderOptions, version: VersionRecord): Promise<Egress> {
  const { imageArn, version: imageVersion, principal = 'unknown' } = version;
  const { policy, limits } = await connectors.egress(version.config.egressNetworkConnectors);
  return { policy, limits, labels: { principal, imageArn, imageVersion } };
}

/** The answer's status; undefined while nothing answers. Rejects with the signal's reason. */
async function askOnce(machine: Machine, port: number, signal: AbortSignal): Promise<number | undefined> {
  try {
    const stream = await machine.connect(port, { signal });
    const request = { method: 'POST', path: `${HOOK_PATH}/validate`, host: `localhost:${port}`, signal } as const;
    return (await requestOverStream(stream, request)).status;
  } catch {
    signal.throwIfAborted();
    return undefined;
  }
}

async function discardSnapshot(o: BuilderOptions, snapshotDir: string, log: Logger): Promise<void> {
  try {
    await o.engine.deleteSnapshot(snapshotDir);
    await rm(path.dirname(snapshotDir), { recursive: true, force: true });
  } catch (error) {
    log.error({ error: messageOf(error) }, 'the snapshot of a failed build could not be deleted');
  }
}
