/**
 * Keeps one gateway running for all machines of a state folder, and everything attached to it.
 *
 * Invariant: `#guests` says who shall be attached. Whenever a gateway is found or started, it is brought in line with that:
 * who is missing is attached, who is not ours is detached. Its end is seen by the end of the control channel, at once; the
 * guests' VMMs connect to its successor by themselves.
 */
import { readdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type Logger, MachineError, messageOf, sleep, withDeadline } from '../../lib/index.ts';
import type { Egress, FlowRecord } from '../egress.ts';
import type { VmmNetwork } from '../vmm/vmm.ts';
import { type Confinement, confinements } from './confinement.ts';
import { ControlChannel } from './control.ts';
import { readFlows } from './flows.ts';
import { gatewayUser, prepareFolders } from './folders.ts';
import { type AttachOptions, linkFor, type Network } from './network.ts';
import { controlSocket, guestDir, type Places, placesUnder } from './places.ts';
import { endGateway, findGateway, type GatewayRecord, lockHolder, startGateway } from './process.ts';
import type { NetworkSettings } from './settings.ts';

/** How long somebody who wants to attach waits for a gateway that is being started. */
const READY_TIMEOUT_MS = 20_000;
/** From its start until it listens; 20 ms on a quiet host. */
const LISTEN_TIMEOUT_MS = 10_000;
const LISTEN_POLL_MS = 3;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;
/** One that ran so long did not fail for the same reason again. */
const STABLE_MS = 10_000;
/** A gateway that hangs is found by this. */
const PULSE_MS = 15_000;

export interface GatewayOptions {
  readonly stateDir: string;
  readonly program: string;
  readonly bubblewrap: string | undefined;
  /** Folder with `bin/setpriv` and its libraries. */
  readonly toolsRoot: string | undefined;
  readonly settings: NetworkSettings;
  readonly log: Logger;
  /** Whether a guest that an adopted gateway still has may belong to a machine that runs. */
  mayLive(guest: string): boolean;
}

/** Starts (or adopts) the gateway; does not wait until it runs. */
export function openGateway(options: GatewayOptions): Network {
  return new Gateway(options);
}

class Gateway implements Network {
  readonly #options: GatewayOptions;
  readonly #places: Places;
  readonly #guests = new Map<string, Egress>();
  /** Detached, and no gateway was there to be told. */
  readonly #untold = new Set<string>();
  readonly #closing = new AbortController();
  readonly #supervision: Promise<void>;
  /** To the gateway that is there, brought in line or not. */
  #channel: ControlChannel | undefined;
  /** Has the channel once what the gateway has is what it shall have. */
  #ready = Promise.withResolvers<ControlChannel>();
  #lastFailure = 'it is still starting';
  /** The one that is there did not answer: it is not asked again, nor asked to end. */
  #isSilent = false;
  #confinement: Confinement | undefined;

  constructor(options: GatewayOptions) {
    this.#options = options;
    this.#places = placesUnder(options.stateDir);
    this.#supervision = this.#supervise();
  }

  async attach(guest: string, egress: Egress, { signal, isRunning = false }: AttachOptions): Promise<VmmNetwork> {
    this.#guests.set(guest, egress);
    this.#untold.delete(guest);
    const network = { socketDir: guestDir(this.#places, guest), link: linkFor(egress) };
    if (isRunning) {
      this.#tell(async (channel) => {
        if (this.#guests.get(guest) === egress) await channel.attach(guest, egress);
      }).catch((error: unknown) => this.#failed(guest, error));
      return network;
    }
    try {
      await this.#tell((channel) => Promise.all([channel.attach(guest, egress), channel.cut(guest)]), signal);
    } catch (error) {
      await this.detach(guest);
      throw error;
    }
    return network;
  }

  async update(guest: string, egress: Egress): Promise<void> {
    const before = this.#guests.get(guest);
    if (before === undefined) throw new MachineError('failed', `${guest} has no network`);
    this.#guests.set(guest, egress);
    try {
      await this.#tell((channel) => channel.attach(guest, egress));
    } catch (error) {
      if (this.#guests.get(guest) === egress) this.#guests.set(guest, before);
      throw error;
    }
  }

  async detach(guest: string): Promise<void> {
    this.#guests.delete(guest);
    // A gateway that is not there is told when it is. One that is being brought in line does what it is told in the order it is
    // told, so that this comes behind an attachment that is under way.
    this.#untold.add(guest);
    try {
      if (this.#channel === undefined) return;
      await this.#channel.detach(guest);
      this.#untold.delete(guest);
    } catch (error) {
      this.#options.log.debug({ guest, error: messageOf(error) }, 'guest not detached');
    }
  }

  flows(guest: string, options: { follow?: boolean; signal?: AbortSignal }): AsyncIterable<FlowRecord> {
    return readFlows(this.#places.flows, guest, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new MachineError('exited', 'the engine was closed'));
    await this.#supervision;
    // Machines that outlive the server keep their network.
    if (this.#guests.size > 0) return;
    const record = await findGateway(this.#places.record);
    if (record !== undefined) await endGateway(record, this.#places.record);
  }

  /** Tells the gateway; when that one ends meanwhile, its successor. */
  #tell<T>(say: (channel: ControlChannel) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const work = async (bounded: AbortSignal): Promise<T> => {
      for (;;) {
        const channel = await this.#ready.promise;
        // Nobody is there any more to undo what is said now.
        bounded.throwIfAborted();
        try {
          return await say(channel);
        } catch (error) {
          bounded.throwIfAborted();
          if (channel.isOpen || this.#closing.signal.aborted) throw error;
          // Its end is told to `#supervise` first, so that this waits for another one.
          await channel.closed;
        }
      }
    };
    return withDeadline('the network gateway', READY_TIMEOUT_MS, work, {
      signal: signal === undefined ? this.#closing.signal : AbortSignal.any([signal, this.#closing.signal]),
    }).catch((error: unknown) => {
      if (!(error instanceof MachineError) || error.kind !== 'timeout') throw error;
      throw new MachineError('failed', 'the network gateway does not run; see the server log', {
        evidence: this.#lastFailure,
        cause: error,
      });
    });
  }

  async #supervise(): Promise<void> {
    const { signal } = this.#closing;
    const { log } = this.#options;
    for (let pauseMs = FIRST_PAUSE_MS; !signal.aborted; ) {
      const startedAt = performance.now();
      try {
        await this.#serveOnce(signal);
      } catch (error) {
        if (signal.aborted) break;
        const evidence = error instanceof MachineError ? error.evidence : '';
        this.#lastFailure = `${messageOf(error)} ${evidence}`.trim();
        this.#isSilent = error instanceof MachineError && error.kind === 'timeout';
        if (performance.now() - startedAt > STABLE_MS) pauseMs = FIRST_PAUSE_MS;
        log.error({ error: messageOf(error), evidence, againInMs: pauseMs }, 'network gateway lost');
      }
      await sleep(pauseMs, { signal }).catch(() => {});
      pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2);
    }
    this.#ready.promise.catch(() => {});
    this.#ready.reject(new MachineError('exited', 'the engine was closed'));
  }

  /** From a gateway's beginning to its end. @throws why it ended */
  async #serveOnce(signal: AbortSignal): Promise<never> {
    using channel = await this.#open(signal);
    this.#isSilent = false;
    this.#channel = channel;
    using _channel = { [Symbol.dispose]: () => (this.#channel = undefined) };
    await this.#align(channel);
    using _pulse = pulse(channel);
    this.#ready.resolve(channel);
    try {
      throw await Promise.race([channel.closed, aborted(signal)]);
    } finally {
      this.#ready = Promise.withResolvers();
    }
  }

  /** The one that runs, when it is what we would start and it answers; else a new one. */
  async #open(signal: AbortSignal): Promise<ControlChannel> {
    const config = JSON.stringify(this.#options.settings);
    const found = await findGateway(this.#places.record);
    if (found !== undefined) {
      const channel = this.#isSilent ? undefined : await this.#adopt(found, config);
      if (channel !== undefined) return channel;
      await endGateway(found, this.#places.record, { asks: !this.#isSilent });
    }
    const unrecorded = await lockHolder(this.#places);
    if (unrecorded !== undefined) await endGateway(unrecorded, this.#places.record);
    signal.throwIfAborted();
    return this.#start(config, signal);
  }

  async #adopt(found: GatewayRecord, config: string): Promise<ControlChannel | undefined> {
    if (found.program !== this.#options.program || found.config !== config) return undefined;
    const channel = await this.#connect().catch(() => undefined);
    try {
      await channel?.hello();
      return channel;
    } catch {
      channel?.[Symbol.dispose]();
      return undefined;
    }
  }

  async #start(config: string, signal: AbortSignal): Promise<ControlChannel> {
    const { program, bubblewrap = '', toolsRoot = '', log } = this.#options;
    const places = this.#places;
    const uid = await gatewayUser(places);
    await prepareFolders(places, uid);
    await writeFile(places.config, config, { mode: 0o644 });
    const isRoot = process.geteuid?.() === 0;
    const kinds = confinements(isRoot, bubblewrap !== '' && (!isRoot || toolsRoot !== ''));
    for (const kind of this.#confinement === undefined ? kinds : [this.#confinement]) {
      await rm(path.join(places.dir, 'control.sock'), { force: true });
      try {
        const started = await startGateway(kind, { program, places, uid, bubblewrap, toolsRoot }, config);
        const channel = await this.#untilListening(started.exited, signal);
        if (kind === 'bare') log.warn({}, 'the network gateway runs without namespaces: bubblewrap cannot be used');
        this.#confinement = kind;
        log.info({ pid: started.record.pid, confinement: kind }, 'network gateway started');
        return channel;
      } catch (error) {
        const record = await findGateway(places.record);
        if (record !== undefined) await endGateway(record, places.record);
        if (signal.aborted || kind === 'bare' || this.#confinement !== undefined) throw error;
        const evidence = error instanceof MachineError ? error.evidence : '';
        log.warn({ confinement: kind, error: messageOf(error), evidence }, 'network gateway not startable like this');
      }
    }
    throw new MachineError('failed', 'the network gateway cannot be started on this host');
  }

  async #untilListening(exited: Promise<string>, signal: AbortSignal): Promise<ControlChannel> {
    const poll = async (bounded: AbortSignal) => {
      for (;;) {
        const channel = await this.#connect().catch(() => undefined);
        if (channel !== undefined) {
          await channel.hello();
          return channel;
        }
        await sleep(LISTEN_POLL_MS, { signal: bounded });
      }
    };
    const over = new AbortController();
    const ended = exited.then((evidence) => {
      const error = new MachineError('exited', 'the network gateway ended', { evidence });
      over.abort(error);
      throw error;
    });
    ended.catch(() => {});
    const bounded = AbortSignal.any([signal, over.signal]);
    return Promise.race([
      withDeadline('the start of the network gateway', LISTEN_TIMEOUT_MS, poll, { signal: bounded }),
      ended,
    ]);
  }

  async #connect(): Promise<ControlChannel> {
    const { path: socketPath, folder } = await controlSocket(this.#places);
    await using _folder = folder;
    return await ControlChannel.open(socketPath);
  }

  /** What the gateway has and what it shall have become the same. */
  async #align(channel: ControlChannel): Promise<void> {
    const untold = [...this.#untold];
    const { guests } = await channel.hello();
    // One that was detached while no gateway could be told has a folder still.
    const folders = await readdir(guestDir(this.#places, '')).catch(() => []);
    const strangers = new Set([...guests, ...folders]);
    for (const guest of strangers) {
      if (this.#guests.has(guest)) continue;
      if (this.#options.mayLive(guest) && !untold.includes(guest)) continue;
      await channel.detach(guest).catch((error: unknown) => {
        if (!channel.isOpen) throw error;
        this.#options.log.warn({ guest, error: messageOf(error) }, 'a stranger was not detached');
      });
    }
    for (const guest of untold) this.#untold.delete(guest);
    for (const [guest, egress] of this.#guests) {
      await channel.attach(guest, egress).catch((error: unknown) => {
        if (!channel.isOpen) throw error;
        this.#failed(guest, error);
      });
    }
  }

  #failed(guest: string, error: unknown): void {
    if (this.#closing.signal.aborted) return;
    this.#options.log.error({ guest, error: messageOf(error) }, 'guest not attached again');
  }
}

function pulse(channel: ControlChannel): Disposable {
  const timer = setInterval(() => void channel.hello().catch(() => {}), PULSE_MS).unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    else signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}
