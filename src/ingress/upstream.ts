/**
 * Kept-alive tunnels to apps, pooled per machine and guest port.
 *
 * Invariant: a pool belongs to one `Machine` object. After a suspend the microVM comes back as another `Machine`, so
 * a tunnel into the old one can never be picked for the new one.
 */
import { Agent, type ClientRequest, type ClientRequestArgs } from 'node:http';
import type { Duplex } from 'node:stream';
import { type Clock, MachineError, withDeadline } from '../lib/index.ts';
import type { Machine } from '../microvms/index.ts';

/** Below the 5 s after which Node and uvicorn close an idle connection: ours must give up first. */
const KEEP_IDLE_MS = 4000;
const KEEP_AT_MOST = 32;
const CONNECT_TIMEOUT_MS = 10_000;

export class Upstreams implements Disposable {
  readonly #clock: Clock;
  readonly #agents = new Map<Machine, MachineAgent>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  agentFor(machine: Machine): MachineAgent {
    const known = this.#agents.get(machine);
    if (known !== undefined) return known;
    const agent = new MachineAgent(machine, this.#clock);
    for (const [other, old] of this.#agents) if (other.id === machine.id) this.#drop(other, old);
    this.#agents.set(machine, agent);
    void machine.exited.then(() => this.#drop(machine, agent));
    return agent;
  }

  /** Lets go of the tunnels of a microVM that ended. */
  forget(microvmId: string): void {
    for (const [machine, agent] of this.#agents) if (machine.id === microvmId) this.#drop(machine, agent);
  }

  [Symbol.dispose](): void {
    for (const [machine, agent] of this.#agents) this.#drop(machine, agent);
  }

  #drop(machine: Machine, agent: MachineAgent): void {
    this.#agents.delete(machine);
    agent.destroy();
  }
}

/** Node's own pool, over tunnels instead of TCP. */
export class MachineAgent extends Agent {
  readonly #machine: Machine;
  readonly #clock: Clock;

  constructor(machine: Machine, clock: Clock) {
    super({ keepAlive: true, maxFreeSockets: KEEP_AT_MOST, scheduling: 'lifo' });
    this.#machine = machine;
    this.#clock = clock;
  }

  /** Only port and machine tell tunnels apart. */
  override getName(options: { port?: number | string | null } = {}): string {
    return String(options.port);
  }

  override createConnection(
    options: ClientRequestArgs,
    callback?: (error: Error | null, stream: Duplex) => void,
  ): undefined {
    const done = callback as ((error: Error | null, stream?: Duplex) => void) | undefined;
    this.#connect(Number(options.port)).then(
      (stream) => done?.(null, stream),
      (error: unknown) => done?.(error instanceof Error ? error : new Error(String(error))),
    );
    return undefined;
  }

  async #connect(port: number): Promise<Duplex> {
    const tunnel = await withDeadline('connecting to the app', CONNECT_TIMEOUT_MS, (signal) =>
      this.#machine.connect(port, { signal }),
    );
    return asSocket(tunnel, this.#clock);
  }

  /** Closes the idle tunnels to a port, so that the next request opens a fresh one. */
  dropIdle(port: number): void {
    for (const socket of this.freeSockets[String(port)] ?? []) socket.destroy();
  }

  override keepSocketAlive(socket: Duplex): boolean {
    const idle = idleTimers.get(socket);
    if (idle === undefined || socket.destroyed || socket.readableEnded) return false;
    // Declared as void, but it answers whether the app's Keep-Alive hint leaves any time.
    const isWorthKeeping: unknown = super.keepSocketAlive(socket);
    if (isWorthKeeping === false) return false;
    idle.start();
    return true;
  }

  override reuseSocket(socket: Duplex, request: ClientRequest): void {
    idleTimers.get(socket)?.stop();
    super.reuseSocket(socket, request);
  }
}

/** True when the machine itself is gone (not merely the port closed): asking for the machine again may help. */
export function isMachineGone(error: unknown): boolean {
  return error instanceof MachineError && (error.kind === 'exited' || error.kind === 'protocol');
}

interface IdleTimer {
  start(): void;
  stop(): void;
}

const idleTimers = new WeakMap<Duplex, IdleTimer>();

/** Gives a tunnel the few methods that Node's HTTP client calls on a TCP socket. */
function asSocket(tunnel: Duplex, clock: Clock): Duplex {
  let timer: Disposable | undefined;
  /** What the app's `Keep-Alive: timeout=…` leaves, told by Node through `setTimeout`. */
  let hintMs = 0;
  const idle: IdleTimer = {
    start() {
      const idleMs = hintMs > 0 ? Math.min(hintMs, KEEP_IDLE_MS) : KEEP_IDLE_MS;
      timer = clock.after(idleMs, () => tunnel.destroy());
    },
    stop() {
      timer?.[Symbol.dispose]();
      timer = undefined;
    },
  };
  idleTimers.set(tunnel, idle);
  tunnel.once('close', () => idle.stop());
  // An app that closes its end while we keep the tunnel idle means it: half-open tunnels are never reused.
  tunnel.once('end', () => {
    if (timer !== undefined) tunnel.destroy();
  });
  const same = () => tunnel;
  const setTimeout = (ms: number) => {
    hintMs = ms;
    return tunnel;
  };
  return Object.assign(tunnel, { setKeepAlive: same, setNoDelay: same, setTimeout, ref: same, unref: same });
}
