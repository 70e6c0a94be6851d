/**
 * A server under attack: its clients' side of the story, and the server itself, which dies and comes back. Every choice comes
 * from the seed; what depends on timing does not repeat exactly, but the pressure does.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { LambdaMicrovms, paginateListMicrovms } from '@aws-sdk/client-lambda-microvms';
import { type EndpointClient, endpointClient } from '../../test/support/endpoint.ts';
import { buildImage, zipped } from '../../test/support/images.ts';
import { startServer, type TestServer } from '../../test/support/server.ts';
import type { SmallDisk } from '../../test/support/small-disk.ts';
import { chaosApp } from './app.ts';
import { ModelImage, ModelMicrovm } from './model.ts';
import { commandOf, gatewaysOf, processesNaming, vmmsOf } from './processes.ts';
import type { Random } from './random.ts';
import { sweepSharedMemory, type WallClock, wallClock } from './wall-clock.ts';

const CALL_TIMEOUT_MS = 20_000;
const MAX_MICROVMS = 4;
const NOTES = 400;
/** Servers before the present one whose logs are kept. */
const LOGS = 4;
const BUILDER_POLL_MS = 50;
const END_MS = 10_000;

export interface Guest {
  readonly model: ModelMicrovm;
  readonly client: EndpointClient;
}

export class World implements AsyncDisposable {
  readonly disk: SmallDisk;
  readonly stateDir: string;
  readonly clock: WallClock | undefined;
  readonly guests = new Map<string, Guest>();
  readonly images = new Map<string, ModelImage>();
  /** Every microVM there ever was: nothing may name one that is over. */
  readonly ids = new Set<string>();
  /** What was seen to be wrong while it happened. */
  readonly findings: string[] = [];
  /** Last things done and what became of them. */
  readonly notes: string[] = [];
  isDiskFull = false;
  readonly #logs: string[] = [];
  #server: TestServer;
  /** Instead of the server's own, once the clock was set. */
  #client: LambdaMicrovms | undefined;
  #imageArn = '';
  #builds = 0;

  constructor(disk: SmallDisk, clock: WallClock | undefined, server: TestServer) {
    this.disk = disk;
    this.clock = clock;
    this.stateDir = server.stateDir;
    this.#server = server;
  }

  static async create(disk: SmallDisk): Promise<World> {
    const clock = await wallClock(disk.besides);
    await using stack = new AsyncDisposableStack();
    const world = new World(disk, clock, await startServer(optionsOf(`${disk.dir}/state`, clock)));
    stack.use(world);
    const image = await buildImage(world.#server, 'chaos', chaosApp);
    if (image.state !== 'CREATED') throw new Error(`the image is ${image.state}: ${image.stateReason}`);
    world.#imageArn = image.imageArn;
    stack.move();
    return world;
  }

  get server(): TestServer {
    return this.#server;
  }

  api(): LambdaMicrovms {
    return this.#client ?? this.#server.microvms;
  }

  /** What the last servers said. */
  log(): string {
    return [...this.#logs, this.#server.log()].join('\n');
  }

  note(text: string): void {
    this.notes.push(`${new Date().toISOString()} ${text}`);
    if (this.notes.length > NOTES) this.notes.splice(0, this.notes.length - NOTES);
  }

  /** One thing a client does. Its failure is no finding: only what was acknowledged counts. */
  async act(random: Random): Promise<void> {
    const guests = [...this.guests.values()].filter(({ model }) => !model.terminateSent && !model.isOver);
    const [first, ...rest] = guests;
    if (first === undefined || (guests.length < MAX_MICROVMS && random.chance(0.15))) return this.#run();
    const guest = random.pick([first, ...rest]);
    const roll = random.below(1000);
    if (roll < 550) return this.#increment(guest);
    if (roll < 720) return this.#suspend(guest);
    if (roll < 860) return this.#resume(guest);
    if (roll < 890) return this.#terminate(guest);
    if (roll < 930) return this.#call('token', () => this.reconnect(guest.model));
    if (roll < 995) return this.#call('list', async () => void (await this.api().listMicrovms({})));
    return this.beginBuild();
  }

  async #run(): Promise<void> {
    await this.#call('run', async (abortSignal) => {
      const answer = await this.api().runMicrovm(
        { imageIdentifier: this.#imageArn, idlePolicy: POLICY },
        { abortSignal },
      );
      const model = new ModelMicrovm(answer.microvmId ?? '', answer.endpoint ?? '');
      this.#add(model);
      this.note(`run was ${model.id}`);
      await this.reconnect(model);
    });
  }

  /** Every microVM the server lists, with its state. */
  async listed(): Promise<Map<string, string>> {
    const listed = new Map<string, string>();
    for await (const { items = [] } of paginateListMicrovms({ client: this.api() }, {})) {
      for (const { microvmId = '', state = '' } of items) listed.set(microvmId, state);
    }
    return listed;
  }

  /** The SDK signs with the time it believes the server has: after a jump a client that never saw another is needed. */
  forgetClockSkew(): void {
    const { env } = this.#server;
    this.#client?.destroy();
    this.#client = new LambdaMicrovms({
      endpoint: env.AWS_ENDPOINT_URL_LAMBDA_MICROVMS ?? '',
      region: env.AWS_REGION ?? '',
      credentials: { accessKeyId: env.AWS_ACCESS_KEY_ID ?? '', secretAccessKey: env.AWS_SECRET_ACCESS_KEY ?? '' },
    });
  }

  /** What a call made whose answer was lost is there all the same. */
  async discover(): Promise<void> {
    for (const [id, state] of await this.listed()) {
      if (state === 'TERMINATED' || this.ids.has(id)) continue;
      const { endpoint = '' } = await this.api().getMicrovm({ microvmIdentifier: id });
      this.#add(new ModelMicrovm(id, endpoint));
    }
    const { items = [] } = await this.api().listMicrovmImages({ nameFilter: 'chaos-build-' });
    for (const { imageArn = '' } of items) {
      if (!this.images.has(imageArn)) this.images.set(imageArn, new ModelImage(imageArn));
    }
  }

  #add(model: ModelMicrovm): void {
    if (this.isDiskFull) model.mayDie = true;
    // Known before its token is: what was acknowledged must be found again, token or not.
    this.guests.set(model.id, { model, client: NOBODY });
    this.ids.add(model.id);
  }

  /** A client with a new token. */
  async reconnect(model: ModelMicrovm): Promise<void> {
    const client = await endpointClient(
      { ...this.#server, microvms: this.api() },
      { microvmId: model.id, endpoint: model.endpoint },
    );
    this.guests.get(model.id)?.client[Symbol.dispose]();
    this.guests.set(model.id, { model, client });
  }

  async #increment({ model, client }: Guest): Promise<void> {
    await this.#call(`inc ${model.id}`, async () => {
      model.sent += 1;
      const answer = await client.get('/inc', { timeoutMs: CALL_TIMEOUT_MS });
      // Another status comes of the proxy: the request did not reach the app, or its answer was lost. `sent` bounds both.
      if (answer.status !== 200) return `${answer.status}`;
      const { memory } = JSON.parse(answer.body) as { memory: number };
      model.acknowledged = Math.max(model.acknowledged, memory);
      return `${memory}`;
    });
  }

  async #suspend({ model }: Guest): Promise<void> {
    await this.#call(`suspend ${model.id}`, async (abortSignal) => {
      await this.api().suspendMicrovm({ microvmIdentifier: model.id }, { abortSignal });
    });
  }

  async #resume({ model }: Guest): Promise<void> {
    await this.#call(`resume ${model.id}`, async (abortSignal) => {
      await this.api().resumeMicrovm({ microvmIdentifier: model.id }, { abortSignal });
    });
  }

  async #terminate({ model }: Guest): Promise<void> {
    await this.#call(`terminate ${model.id}`, async (abortSignal) => {
      model.terminateSent = true;
      await this.api().terminateMicrovm({ microvmIdentifier: model.id }, { abortSignal });
      model.terminateAcknowledged = true;
    });
  }

  /** A build, unless one is under way. */
  async beginBuild(): Promise<void> {
    if ([...this.images.values()].some(({ isGone }) => !isGone)) return;
    this.#builds += 1;
    const { env } = this.#server;
    const bucket = env.REKINDLE_ARTIFACT_BUCKET ?? '';
    const name = `chaos-build-${this.#builds}`;
    await this.#call(`build ${name}`, async (abortSignal) => {
      const Body = await zipped(chaosApp);
      await this.#server.s3.putObject({ Bucket: bucket, Key: 'chaos-build.zip', Body }, { abortSignal });
      const { imageArn = '' } = await this.api().createMicrovmImage(
        {
          name,
          baseImageArn: env.REKINDLE_BASE_IMAGE_ARN ?? '',
          buildRoleArn: env.REKINDLE_BUILD_ROLE_ARN ?? '',
          codeArtifact: { uri: `s3://${bucket}/chaos-build.zip` },
          resources: [{ minimumMemoryInMiB: 512 }],
        },
        { abortSignal },
      );
      this.images.set(imageArn, new ModelImage(imageArn));
    });
  }

  async #call(what: string, act: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
    try {
      this.note(`${what}: ${(await act(AbortSignal.timeout(CALL_TIMEOUT_MS))) ?? 'done'}`);
    } catch (error) {
      // Unacknowledged.
      this.note(`${what}: ${String(error).slice(0, 160)}`);
    }
  }

  /** The VMM of a build's machine, as soon as there is one. */
  async builder(withinMs: number): Promise<number | undefined> {
    const deadline = performance.now() + withinMs;
    for (;;) {
      const [, pid] = [...vmmsOf(this.stateDir)].find(([id]) => !id.startsWith('microvm-')) ?? [];
      if (pid !== undefined || performance.now() > deadline) return pid;
      await delay(BUILDER_POLL_MS);
    }
  }

  /** A new server takes over from one that is at its end. */
  async revive(): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
    this.#client?.destroy();
    this.#client = undefined;
    this.#logs.push(this.#server.log());
    if (this.#logs.length > LOGS) this.#logs.shift();
    try {
      this.#server = await startServer(optionsOf(this.stateDir, this.clock));
    } catch (error) {
      if (!this.isDiskFull) throw error;
      this.note(`no start on a full disk: ${String(error).slice(0, 300)}`);
      await this.disk.free();
      this.isDiskFull = false;
      this.#server = await startServer(optionsOf(this.stateDir, this.clock));
    }
    this.note(`server ${this.#server.pid} started`);
  }

  /** A server that is killed before it is ready. */
  async stillbirth(killAfterMs: number): Promise<void> {
    await this.#server.stop();
    await this.#server[Symbol.asyncDispose]();
    const born = startServer(optionsOf(this.stateDir, this.clock));
    born.catch(() => {});
    await delay(killAfterMs);
    for (const { pid, command } of processesNaming(this.stateDir)) {
      if (/ serve /.test(command)) process.kill(pid, 'SIGKILL');
    }
    await born.then(
      (server) => server[Symbol.asyncDispose](),
      () => {},
    );
  }

  /** Stops the server; what is there afterwards is a finding. */
  async end(): Promise<string[]> {
    const code = await this.#server.stop();
    const objections = code === 0 ? [] : [`the server ended with ${code} when it was asked to`];
    // The gateway ends a moment after the server let go of it.
    const deadline = performance.now() + END_MS;
    while (this.#remains().length > 0 && performance.now() < deadline) await delay(BUILDER_POLL_MS);
    return [...objections, ...this.#remains().map((pid) => `process ${pid} outlives the server: ${commandOf(pid)}`)];
  }

  #remains(): number[] {
    const named = processesNaming(this.stateDir).map(({ pid }) => pid);
    return [...new Set([...vmmsOf(this.stateDir).values(), ...gatewaysOf(this.stateDir), ...named])];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { client } of this.guests.values()) client[Symbol.dispose]();
    this.#client?.destroy();
    await this.#server[Symbol.asyncDispose]();
    // A server that hung or was killed leaves its machines, and they the disk busy.
    for (const pid of this.#remains()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // gone already
      }
    }
    if (this.clock !== undefined) await sweepSharedMemory();
  }
}

function optionsOf(stateDir: string, clock: WallClock | undefined) {
  return { stateDir, args: ARGS, ...(clock && { environment: clock.environment }) };
}

/** A builder that waits is gone before anybody looks for what is left. */
const ARGS = ['--log-level', 'info', '--builder-keep', '3'] as const;
const POLICY = { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 28_800, autoResumeEnabled: true };

/** A microVM whose token could not be had yet. */
const NOBODY: EndpointClient = {
  get: () => Promise.reject(new Error('no token yet')),
  [Symbol.dispose]: () => {},
};
