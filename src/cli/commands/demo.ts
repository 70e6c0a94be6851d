/**
 * `rekindle demo`: the main job from start to finish on this machine, through the official SDK and real HTTPS, in a
 * state folder of its own that is gone afterwards. Every step prints what it did and how long it took.
 *
 * Invariant: whatever happens, Ctrl-C included, the server is stopped, the folder removed, and it is checked that no
 * process of it is left.
 */
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import type { Environment, RawSettings } from '../../config.ts';
import { createLogger } from '../../lib/index.ts';
import type { Server } from '../../main.ts';
import { zipFolder } from '../artifact.ts';
import { getExtension, microvmsClient } from '../clients.ts';
import { endpointAgent, send, tokenHeaders } from '../endpoint.ts';
import { CliError, EXIT, failureOf } from '../exit.ts';
import { requireSetUp } from '../host-checks.ts';
import { waitForState } from '../session.ts';
import { fromStateFolder, readCa, readSettings, type Target } from '../target.ts';
import { createTerminal, duration, megabytes, type Terminal, table } from '../terminal.ts';
import { buildLogPath, upload, waitForImage } from './images.ts';

export interface DemoOptions {
  readonly json?: boolean;
  readonly cache?: string;
  readonly logLevel?: string;
}

type StartServer = (flags: RawSettings) => Promise<Server>;

/** What a test replaces: the machines, and where the words go. */
export interface DemoParts {
  readonly start?: StartServer;
  readonly terminal?: Terminal;
}

const EXAMPLE = join(import.meta.dirname, '../../../examples/counter');
const IMAGE = 'counter';
const WAIT_MS = 120_000;

/** @returns the exit code: 0 when every step worked and nothing is left */
export async function demo(options: DemoOptions, env: Environment, parts: DemoParts = {}): Promise<number> {
  const terminal = parts.terminal ?? createTerminal({ json: options.json === true });
  const interrupted = new AbortController();
  const onSignal = () => {
    if (interrupted.signal.aborted) process.exit(EXIT.interrupted);
    terminal.note('\nstopping and cleaning up; once more to leave at once');
    interrupted.abort(new CliError('interrupted', EXIT.interrupted));
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-demo-'));
  const run = new Run(terminal, interrupted.signal, stateDir);
  let failure: unknown;
  try {
    await run.job(parts.start ?? realServer(env), options);
  } catch (error) {
    // Whatever an interrupted step complains of, the interruption is the reason.
    failure = interrupted.signal.aborted ? interrupted.signal.reason : error;
  }
  try {
    await run.cleanUp();
  } catch (error) {
    failure ??= error;
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
  }
  return report(run, failure, terminal);
}

function realServer(env: Environment): StartServer {
  return async (flags) => {
    const config = readSettings(flags, withoutServerSettings(env));
    requireSetUp(config);
    const { startServer } = await import('../../main.ts');
    return startServer(config, { log: createLogger(config.logLevel) });
  };
}

/** The demo's server is its own: settings of the user's server (ports, state) are not for it. */
function withoutServerSettings(env: Environment): Environment {
  const { HOME, XDG_CACHE_HOME, REKINDLE_CACHE } = env;
  return { HOME, XDG_CACHE_HOME, REKINDLE_CACHE };
}

function report(run: Run, failure: unknown, terminal: Terminal): number {
  const steps = run.steps.map(({ name, ms, detail }) => ({ step: name, ms: Math.round(ms), detail }));
  if (failure === undefined) {
    terminal.json({ ok: true, steps });
    terminal.say(
      `\n${table(
        ['STEP', 'TIME', ''],
        run.steps.map(({ name, ms, detail }) => [name, duration(ms), detail]),
      )}`,
    );
    terminal.say('\nThe counter lived through the suspend: same process, same memory. Nothing is left running.');
    return EXIT.ok;
  }
  const { exitCode, message, code } = failureOf(failure);
  terminal.json({ ok: false, steps, error: { code, message } });
  terminal.note(`\ndemo failed${run.current === undefined ? '' : ` at "${run.current}"`}: ${message}`);
  return exitCode;
}

interface Step {
  readonly name: string;
  readonly ms: number;
  readonly detail: string;
}

interface Counter {
  readonly count: number;
  readonly pid: number;
  readonly started: number;
}

class Run {
  readonly steps: Step[] = [];
  /** The step under way, or the one that failed. */
  current: string | undefined;
  readonly #terminal: Terminal;
  readonly #signal: AbortSignal;
  readonly #stateDir: string;
  readonly #microvmIds: string[] = [];
  #server: Server | undefined;

  constructor(terminal: Terminal, signal: AbortSignal, stateDir: string) {
    this.#terminal = terminal;
    this.#signal = signal;
    this.#stateDir = stateDir;
  }

  async job(start: StartServer, options: DemoOptions): Promise<void> {
    const server = await this.#step('start the server', async () => {
      this.#server = await start({
        state: this.#stateDir,
        apiPort: '0',
        onShutdown: 'terminate',
        logLevel: options.logLevel ?? 'warn',
        ...(options.cache === undefined ? {} : { cache: options.cache }),
      });
      const { host, apiUrl } = this.#server;
      return [this.#server, `${apiUrl}, ${host.vmmVersion} with ${host.accelerator}, ${host.cpus} CPUs`];
    });
    const target = fromStateFolder(this.#stateDir);
    const imageArn = await this.#build(target);
    await this.#useMicrovm(target, imageArn);
    await this.#step('stop the server', async () => [await server.stop(), '']);
  }

  /** Stops, checks, removes; runs after success and failure alike. */
  async cleanUp(): Promise<void> {
    try {
      await this.#server?.stop();
      const left = await processesWith([this.#stateDir, ...this.#microvmIds]);
      if (left.length > 0) throw new CliError(`These processes are left over: ${left.join(', ')}. Please report this.`);
    } finally {
      await rm(this.#stateDir, { recursive: true, force: true });
    }
  }

  async #build(target: Target): Promise<string> {
    const zip = await this.#step('zip examples/counter', async () => {
      const { bytes, files } = await zipFolder(EXAMPLE);
      return [bytes, `${files} files, ${bytes.length} bytes`];
    });
    const uri = await this.#step('upload it (S3 PutObject)', async () => {
      const made = await upload(target, `${IMAGE}.zip`, zip);
      return [made, made];
    });
    return this.#step('build the image (CreateMicrovmImage)', async () => {
      const client = await microvmsClient(target);
      const { imageArn = '', imageVersion = '1.0' } = await client.createMicrovmImage({
        name: IMAGE,
        baseImageArn: target.baseImageArn,
        buildRoleArn: target.buildRoleArn,
        codeArtifact: { uri },
      });
      await this.#showBuildLog(target, imageArn, imageVersion);
      const image = await waitForImage(client, imageArn, imageVersion, { signal: this.#signal });
      if (!image.isUsable) throw new CliError(image.stateReason ?? `the image is ${image.state}`, EXIT.buildFailed);
      const { items = [] } = await client.listMicrovmImageBuilds({ imageIdentifier: imageArn, imageVersion });
      const buildId = items[0]?.buildId;
      const { snapshotBuild } = await client.getMicrovmImageBuild({ imageIdentifier: imageArn, imageVersion, buildId });
      const bytes = snapshotBuild?.memorySnapshotSizeInBytes;
      return [imageArn, `${image.state}${bytes === undefined ? '' : `, memory snapshot ${megabytes(bytes)}`}`];
    });
  }

  async #showBuildLog(target: Target, imageArn: string, version: string): Promise<void> {
    const { createInterface } = await import('node:readline');
    const log = await getExtension(
      target,
      buildLogPath(imageArn, version),
      { follow: 'true' },
      { signal: this.#signal },
    );
    for await (const line of createInterface({ input: log })) this.#terminal.note(`    │ ${line}`);
    this.#signal.throwIfAborted();
  }

  async #useMicrovm(target: Target, imageArn: string): Promise<void> {
    const signal = this.#signal;
    const client = await microvmsClient(target);
    const agent = endpointAgent(readCa(target));
    const options = { timeoutMs: WAIT_MS, signal };
    try {
      const { id, get } = await this.#step('launch, to the first 200 (RunMicrovm)', async () => {
        const run = await client.runMicrovm({
          imageIdentifier: imageArn,
          executionRoleArn: target.executionRoleArn,
          idlePolicy: { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 3600, autoResumeEnabled: true },
        });
        const id = run.microvmId ?? '';
        this.#microvmIds.push(id);
        const token = await tokenHeaders(client, id, { port: 8080, minutes: 30 });
        const get = (path: string) => getCounter(`https://${run.endpoint}${path}`, { agent, headers: token, signal });
        await get('/');
        return [{ id, get }, `${id} at https://${run.endpoint}`];
      });
      const before = await this.#step('count to 3 (HTTPS with a token)', async () => {
        let counter = await get('/count');
        for (let i = 0; i < 2; i++) counter = await get('/count');
        expect(counter.count === 3, `the counter should be 3, it is ${counter.count}`);
        return [counter, `count=${counter.count}, app started at ${timeOfDay(counter)}`];
      });
      await this.#step('suspend it (SuspendMicrovm)', async () => {
        await client.suspendMicrovm({ microvmIdentifier: id });
        await waitForState(client, id, ['SUSPENDED'], options);
        const bytes = await allocated(join(this.#stateDir, 'microvms', id));
        return [undefined, `SUSPENDED${bytes === 0 ? '' : `, ${megabytes(bytes)} on disk`}`];
      });
      await this.#step('wake it by the next request', async () => {
        const after = await get('/count');
        expect(after.count === 4, `the counter should be 4, it is ${after.count}`);
        expect(after.pid === before.pid && after.started === before.started, 'the app was started anew');
        return [undefined, `count=${after.count}, still the app of ${timeOfDay(after)}`];
      });
      await this.#step('terminate it (TerminateMicrovm)', async () => {
        await client.terminateMicrovm({ microvmIdentifier: id });
        await waitForState(client, id, ['TERMINATED'], options);
        return [undefined, 'TERMINATED'];
      });
    } finally {
      agent.destroy();
      client.destroy();
    }
  }

  async #step<T>(name: string, work: () => Promise<[result: T, detail: string]>): Promise<T> {
    this.#signal.throwIfAborted();
    this.current = name;
    this.#terminal.note(`${this.steps.length + 1}. ${name} …`);
    const startedAt = performance.now();
    const [result, detail] = await work();
    const ms = performance.now() - startedAt;
    this.steps.push({ name, ms, detail });
    this.#terminal.note(`   ${duration(ms)}${detail === '' ? '' : `  ${detail}`}`);
    this.current = undefined;
    return result;
  }
}

async function getCounter(url: string, options: Omit<Parameters<typeof send>[0], 'url'>): Promise<Counter> {
  const response = await send({ url, ...options });
  const body = await text(response);
  if (response.statusCode !== 200) throw new CliError(`${url} answered ${response.statusCode} ${body}`.trim());
  return JSON.parse(body);
}

function timeOfDay({ started }: Counter): string {
  return new Date(started * 1000).toISOString().slice(11, 23);
}

function expect(isTrue: boolean, otherwise: string): void {
  if (!isTrue) throw new CliError(otherwise);
}

/** Bytes that a folder's files take on disk; sparse files count what they hold. */
async function allocated(dir: string): Promise<number> {
  if (!existsSync(dir)) return 0;
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const sizes = entries.filter((entry) => entry.isFile()).map((entry) => stat(join(entry.parentPath, entry.name)));
  return (await Promise.all(sizes)).reduce((sum, { blocks }) => sum + blocks * 512, 0);
}

/** Processes whose command line holds one of `words`, this one left out. */
async function processesWith(words: readonly string[]): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);
  const found = await Promise.all(
    pids.map(async (pid) => {
      try {
        const line = await readFile(`/proc/${pid}/cmdline`, 'utf8');
        return words.some((word) => line.includes(word)) ? `${pid} (${line.split('\0')[0]})` : undefined;
      } catch {
        // It ended while we looked.
        return undefined;
      }
    }),
  );
  return found.filter((one) => one !== undefined);
}
