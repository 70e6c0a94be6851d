/**
 * Ways into apps, kept per machine.
 *
 * Invariant: what is kept belongs to one `Machine` object. After a suspend the microVM comes back as another `Machine`, so a
 * connection into the old one can never be picked for the new one.
 */
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { type Clock, MachineError, withDeadline } from '../lib/index.ts';
import type { Machine } from '../microvms/index.ts';
import type { RequestHead, Upstream } from './exchange.ts';
import { type Alpn, secure } from './guest-tls/connect.ts';
import { DetectingUpstream } from './guest-tls/detecting.ts';
import { forcesHttp2 } from './headers.ts';
import { Http1Upstreams } from './http1/upstream.ts';
import { SessionPool } from './http2/sessions.ts';
import { Http2Upstream } from './http2/upstream.ts';
import { type Turn, Turns } from './turns.ts';

/** Of a handshake with an app that may not know TLS and say nothing; more in a guest where a mere connection takes long. */
const PROBE_MS = 2000;
const PROBE_PER_CONNECT = 20;
/** Of one with an app that is known to. */
const HANDSHAKE_MS = 60_000;
/** Of one answer. */
const ANSWER_LIMITS = { headerBytes: 65_536, headerCount: 1000 };

/** What an app was found to speak at a port. */
type Speech = 'plain' | `tls ${Alpn}`;
/** By port; kept across suspends, since it is the app that has it. */
type Speeches = Map<number, Speech>;

export class Upstreams implements Disposable {
  readonly #clock: Clock;
  readonly #ways = new Map<Machine, Ways>();
  readonly #speeches = new Map<string, Speeches>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** To a port of the machine, in the protocol that suits the request and the app. */
  to(machine: Machine, port: number, request: RequestHead): Upstream {
    return (this.#ways.get(machine) ?? this.#meet(machine)).to(port, forcesHttp2(request.headers));
  }

  /** A connection for what is no exchange, when its turn has come. @throws MachineError, the signal's reason */
  open(machine: Machine, port: number, signal: AbortSignal): Promise<Opened> {
    return (this.#ways.get(machine) ?? this.#meet(machine)).open(port, signal);
  }

  /** Lets go of the connections into a microVM that ended, and of what is known about it. */
  forget(microvmId: string): void {
    this.#speeches.delete(microvmId);
    this.#dropAll(microvmId);
  }

  [Symbol.dispose](): void {
    for (const machine of [...this.#ways.keys()]) this.#drop(machine);
  }

  #meet(machine: Machine): Ways {
    this.#dropAll(machine.id);
    let speeches = this.#speeches.get(machine.id);
    if (speeches === undefined) {
      speeches = new Map();
      this.#speeches.set(machine.id, speeches);
    }
    const ways = new Ways(machine, speeches, this.#clock);
    this.#ways.set(machine, ways);
    void machine.exited.then(() => this.#drop(machine));
    return ways;
  }

  #dropAll(microvmId: string): void {
    for (const machine of [...this.#ways.keys()]) if (machine.id === microvmId) this.#drop(machine);
  }

  #drop(machine: Machine): void {
    this.#ways.get(machine)?.[Symbol.dispose]();
    this.#ways.delete(machine);
  }
}

/** A connection into an app that has said nothing yet: the turn is to be ended once it has. */
export interface Opened {
  readonly tunnel: Duplex;
  readonly turn: Turn;
}

/** Into one machine. */
class Ways implements Disposable {
  readonly #machine: Machine;
  readonly #speeches: Speeches;
  readonly #clock: Clock;
  readonly #plain: Http1Upstreams;
  readonly #secure: Http1Upstreams;
  readonly #sessions = new Map<string, SessionPool>();
  readonly #probes = new Map<number, Promise<boolean>>();
  readonly #turns = new Map<number, Turns>();

  constructor(machine: Machine, speeches: Speeches, clock: Clock) {
    this.#machine = machine;
    this.#speeches = speeches;
    this.#clock = clock;
    this.#plain = new Http1Upstreams(machine, clock);
    const connect: Machine['connect'] = (port, { signal = NEVER }) => this.#secured(port, ['http/1.1'], signal);
    this.#secure = new Http1Upstreams({ connect }, clock);
  }

  to(port: number, forcesHttp2: boolean): Upstream {
    const speech = this.#speeches.get(port);
    if (speech === 'tls http/1.1') return forcesHttp2 ? NO_HTTP2 : this.#secure.to(port);
    if (speech === 'tls h2') return this.#inTlsHttp2(port);
    const plain = forcesHttp2 ? new Http2Upstream(this.#sessionsTo(port, 'http'), 'http') : this.#plain.to(port);
    if (speech === 'plain') return plain;
    return new DetectingUpstream({
      plain,
      inTls: () => this.#probe(port).then((found) => (found ? this.to(port, forcesHttp2) : undefined)),
      isPlain: () => void this.#remember(port, 'plain'),
    });
  }

  async open(port: number, signal: AbortSignal): Promise<Opened> {
    let turns = this.#turns.get(port);
    if (turns === undefined) {
      turns = new Turns(this.#clock);
      this.#turns.set(port, turns);
    }
    const turn = await turns.next(signal);
    try {
      const tunnel = await this.#machine.connect(port, { signal });
      turn.opened();
      return { tunnel, turn };
    } catch (error) {
      turn[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    for (const turns of this.#turns.values()) turns[Symbol.dispose]();
    this.#plain[Symbol.dispose]();
    this.#secure[Symbol.dispose]();
    for (const pool of this.#sessions.values()) pool[Symbol.dispose]();
  }

  #inTlsHttp2(port: number): Upstream {
    return new Http2Upstream(this.#sessionsTo(port, 'https'), 'https');
  }

  #sessionsTo(port: number, scheme: 'http' | 'https'): SessionPool {
    const key = `${scheme} ${port}`;
    let pool = this.#sessions.get(key);
    if (pool === undefined) {
      const connect = (signal: AbortSignal): Promise<Duplex> =>
        scheme === 'http' ? this.#machine.connect(port, { signal }) : this.#secured(port, ['h2'], signal);
      pool = new SessionPool({ ...ANSWER_LIMITS, connect, clock: this.#clock });
      this.#sessions.set(key, pool);
    }
    return pool;
  }

  async #secured(port: number, protocols: readonly Alpn[], signal: AbortSignal): Promise<TLSSocket> {
    const tunnel = await this.#machine.connect(port, { signal });
    return this.#handshake(tunnel, protocols, HANDSHAKE_MS, signal);
  }

  #handshake(tunnel: Duplex, protocols: readonly Alpn[], limitMs: number, signal: AbortSignal): Promise<TLSSocket> {
    const work = (bounded: AbortSignal) => secure(tunnel, protocols, bounded);
    return withDeadline('a TLS handshake with the app', limitMs, work, { signal, clock: this.#clock });
  }

  /** Whether the app speaks TLS; asked by many at once, tried once. */
  #probe(port: number): Promise<boolean> {
    let probe = this.#probes.get(port);
    if (probe === undefined) {
      probe = this.#tryTls(port).finally(() => this.#probes.delete(port));
      this.#probes.set(port, probe);
    }
    return probe;
  }

  async #tryTls(port: number): Promise<boolean> {
    try {
      const askedMs = this.#clock.monotonicMs();
      const tunnel = await this.#machine.connect(port, {});
      const tookMs = this.#clock.monotonicMs() - askedMs;
      const limitMs = Math.min(HANDSHAKE_MS, Math.max(PROBE_MS, PROBE_PER_CONNECT * tookMs));
      const socket = await this.#handshake(tunnel, ['h2', 'http/1.1'], limitMs, NEVER);
      this.#remember(port, socket.alpnProtocol === 'h2' ? 'tls h2' : 'tls http/1.1');
      socket.destroy();
      return true;
    } catch {
      return false;
    }
  }

  #remember(port: number, speech: Speech): void {
    if (this.#speeches.get(port) === undefined) this.#speeches.set(port, speech);
  }
}

const NEVER = new AbortController().signal;
/** The app speaks TLS and HTTP/1.1 in it, and HTTP/2 was asked for. */
const NO_HTTP2: Upstream = { send: () => Promise.reject(new Error('the app does not speak HTTP/2')) };

/** True when the machine itself is gone (not merely the port closed): asking for the machine again may help. */
export function isMachineGone(error: unknown): boolean {
  return error instanceof MachineError && (error.kind === 'exited' || error.kind === 'protocol');
}
