/**
 * A server under attack: what clients do to it, what goes wrong, and how it is brought back to where it can be judged.
 * Every choice comes from the seed; what depends on timing does not repeat exactly, but the pressure does.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { LambdaMicrovms } from '@aws-sdk/client-lambda-microvms';
import { type EndpointClient, endpointClient } from '../../test/support/endpoint.ts';
import { buildImage, zipped } from '../../test/support/images.ts';
import { startServer, type TestServer } from '../../test/support/server.ts';
import { chaosApp } from './app.ts';
import type { SmallDisk } from './disk.ts';
import { ModelMicrovm } from './model.ts';
import { isAlive, processesNaming, vmmOf } from './processes.ts';
import type { Random } from './random.ts';

const CALL_TIMEOUT_MS = 20_000;
const MAX_MICROVMS = 4;

export const FAULTS = [
  'kill-server',
  'stop-server',
  'kill-vm',
  'kill-gateway',
  'kill-builder',
  'pause-vm',
  'pause-server',
  'fill-disk',
  'none',
] as const;
export type Fault = (typeof FAULTS)[number];

interface Guest {
  readonly model: ModelMicrovm;
  readonly client: EndpointClient;
}

export class World implements AsyncDisposable {
  readonly disk: SmallDisk;
  readonly stateDir: string;
  readonly guests = new Map<string, Guest>();
  readonly #random: Random;
  readonly #log: (line: string) => void;
  #server: TestServer;
  #imageArn = '';
  #builds = 0;

  constructor(disk: SmallDisk, stateDir: string, random: Random, server: TestServer, log: (line: string) => void) {
    this.disk = disk;
    this.stateDir = stateDir;
    this.#random = random;
    this.#server = server;
    this.#log = log;
  }

  static async create(disk: SmallDisk, random: Random, log: (line: string) => void): Promise<World> {
    const stateDir = `${disk.dir}/state`;
    const world = new World(disk, stateDir, random, await startServer({ stateDir, args: ARGS }), log);
    const image = await buildImage(world.#server, 'chaos', chaosApp);
    if (image.state !== 'CREATED') throw new Error(`the image is ${image.state}: ${image.stateReason}`);
    world.#imageArn = image.imageArn;
    return world;
  }

  get server(): TestServer {
    return this.#server;
  }

  api(): LambdaMicrovms {
    return this.#server.microvms;
  }

  /** One thing a client does. Its failure is no finding: only what was acknowledged counts. */
  async act(): Promise<void> {
    const guests = [...this.guests.values()].filter(({ model }) => !model.terminateSent && !model.isOver);
    const [first, ...rest] = guests;
    if (first === undefined || (guests.length < MAX_MICROVMS && this.#random.chance(0.15))) return this.#run();
    const guest = this.#random.pick([first, ...rest]);
    const roll = this.#random.below(100);
    if (roll < 60) return this.#increment(guest);
    if (roll < 78) return this.#call(() => this.#suspend(guest));
    if (roll < 92) return this.#call(() => this.#resume(guest));
    if (roll < 95) return this.#terminate(guest);
    return this.#call(async () => void (await this.api().listMicrovms({})));
  }

  async #run(): Promise<void> {
    await this.#call(async (abortSignal) => {
      const answer = await this.api().runMicrovm(
        { imageIdentifier: this.#imageArn, idlePolicy: POLICY },
        { abortSignal },
      );
      const model = new ModelMicrovm(answer.microvmId ?? '', answer.endpoint ?? '');
      // Known before its token is: what was acknowledged must be found again, token or not.
      this.guests.set(model.id, { model, client: NOBODY });
      await this.reconnect(model);
    });
  }

  /** A client with a token, for a microVM that has none yet. */
  async reconnect(model: ModelMicrovm): Promise<void> {
    const client = await endpointClient(this.#server, { microvmId: model.id, endpoint: model.endpoint });
    this.guests.set(model.id, { model, client });
  }

  async #increment({ model, client }: Guest): Promise<void> {
    await this.#call(async () => {
      model.sent += 1;
      const answer = await client.get('/inc', { timeoutMs: CALL_TIMEOUT_MS });
      if (answer.status !== 200) {
        // The proxy answered: the request did not reach the app, or its answer was lost. Both leave `sent` as the bound.
        return;
      }
      const { memory } = JSON.parse(answer.body) as { memory: number };
      model.acknowledged = Math.max(model.acknowledged, memory);
    });
  }

  async #suspend({ model }: Guest): Promise<void> {
    await this.api().suspendMicrovm({ microvmIdentifier: model.id });
  }

  async #resume({ model }: Guest): Promise<void> {
    await this.api().resumeMicrovm({ microvmIdentifier: model.id });
  }

  async #terminate({ model }: Guest): Promise<void> {
    await this.#call(async (abortSignal) => {
      model.terminateSent = true;
      await this.api().terminateMicrovm({ microvmIdentifier: model.id }, { abortSignal });
      model.terminateAcknowledged = true;
    });
  }

  async #call(act: (signal: AbortSignal) => Promise<void>): Promise<void> {
    try {
      await act(AbortSignal.timeout(CALL_TIMEOUT_MS));
    } catch {
      // Unacknowledged.
    }
  }

  /** Does the harm; what it returns undoes what does not heal by itself. */
  async harm(fault: Fault): Promise<() => Promise<void>> {
    const { pid } = this.#server;
    switch (fault) {
      case 'none':
        return async () => {};
      case 'kill-server':
        kill(pid, 'SIGKILL');
        return async () => {};
      case 'stop-server':
        kill(pid, 'SIGTERM');
        return async () => {};
      case 'pause-server':
        kill(pid, 'SIGSTOP');
        return async () => void kill(pid, 'SIGCONT');
      case 'kill-vm': {
        const model = this.#anyone();
        const vmm = model && vmmOf(model.id);
        if (model === undefined || vmm === undefined) return async () => {};
        model.mayDie = true;
        kill(vmm, 'SIGKILL');
        return async () => {};
      }
      case 'pause-vm': {
        const model = this.#anyone();
        const vmm = model && vmmOf(model.id);
        if (model === undefined || vmm === undefined) return async () => {};
        // A machine that does not answer for as long as a step may take is given up.
        kill(vmm, 'SIGSTOP');
        return async () => void kill(vmm, 'SIGCONT');
      }
      case 'kill-gateway':
        for (const seen of processesNaming(this.stateDir)) {
          if (/rekindle-gateway/.test(seen.command)) kill(seen.pid, 'SIGKILL');
        }
        return async () => {};
      case 'kill-builder': {
        await this.#call(() => this.#beginBuild());
        await delay(this.#random.below(3000));
        for (const seen of processesNaming('qemu-system')) {
          if (/build/.test(seen.command) && seen.command.includes(this.stateDir)) kill(seen.pid, 'SIGKILL');
        }
        return async () => {};
      }
      case 'fill-disk':
        await this.disk.fill(this.#random.below(24));
        return () => this.disk.free();
      default:
        return fault satisfies never;
    }
  }

  /** Everything runs and answers again. */
  async heal(): Promise<void> {
    const { pid } = this.#server;
    if (isAlive(pid)) {
      // A SIGTERM may still be under way.
      await delay(200);
      const isStopping = this.#server.log().includes('server stops');
      if (!isStopping) return;
      await this.#server.stop();
    }
    await this.#server[Symbol.asyncDispose]();
    this.#log('  server starts again');
    this.#server = await startServer({ stateDir: this.stateDir, args: ARGS });
    for (const { model, client } of this.guests.values()) {
      client[Symbol.dispose]();
      if (!model.isOver) await this.reconnect(model).catch(() => {});
    }
  }

  async #beginBuild(): Promise<void> {
    this.#builds += 1;
    const { env } = this.#server;
    const bucket = env.REKINDLE_ARTIFACT_BUCKET ?? '';
    const name = `chaos-build-${this.#builds}`;
    await this.#server.s3.putObject({ Bucket: bucket, Key: `${name}.zip`, Body: await zipped(chaosApp) });
    await this.api().createMicrovmImage({
      name,
      baseImageArn: env.REKINDLE_BASE_IMAGE_ARN ?? '',
      buildRoleArn: env.REKINDLE_BUILD_ROLE_ARN ?? '',
      codeArtifact: { uri: `s3://${bucket}/${name}.zip` },
      resources: [{ minimumMemoryInMiB: 512 }],
    });
  }

  #anyone(): ModelMicrovm | undefined {
    const [first, ...rest] = [...this.guests.values()].map(({ model }) => model).filter((model) => !model.isOver);
    return first && this.#random.pick([first, ...rest]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { client } of this.guests.values()) client[Symbol.dispose]();
    await this.#server[Symbol.asyncDispose]();
  }
}

const ARGS = ['--log-level', 'info'] as const;
const POLICY = { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 28_800, autoResumeEnabled: true };

/** A microVM whose token could not be had yet. */
const NOBODY: EndpointClient = {
  get: () => Promise.reject(new Error('no token yet')),
  [Symbol.dispose]: () => {},
};

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // gone already
  }
}
