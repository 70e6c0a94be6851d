/**
 * Host side of the agent link: typed calls and tunnels over one byte channel (spec/agent-protocol.md).
 *
 * Everything that comes back is untrusted: sizes, times and shapes are bounded here. The host always initiates.
 */
import type { Duplex } from 'node:stream';
import type { GuestShell, TerminalSize } from './shell.ts';

/** What the agent does before anything else after a restore; the session is not up until it confirmed all of it. */
export interface RestoreStep {
  /** Wall clock to set, ms since the epoch. */
  readonly wallClockMs: number;
  /** At least 32 fresh random bytes, mixed in and followed by the reseed ioctl. */
  readonly seed: Buffer;
  /** The secret that the sessions of this machine use from now on. */
  readonly nextSecret: string;
}

export interface LinkOptions {
  /** Unix socket of the virtio-serial port. */
  readonly socketPath: string;
  /** Secret of the running agent; any value is taken by an agent that has none yet (first session after a cold boot). */
  readonly secret: string;
  readonly restore?: RestoreStep;
  /** How long the first attempt waits for the agent's answer; for a guest that is still booting. */
  readonly patienceMs?: number;
  /** Bounds opening, reconnects included. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

export interface ExecRequest {
  readonly argv: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
}

export interface ContainerStart {
  readonly argv: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  readonly user: string;
  readonly capabilities: 'default' | 'all';
}

export type AppStatus = { readonly state: 'running' } | { readonly state: 'exited'; readonly exitCode: number };

export interface GuestLog {
  readonly cursor: number;
  readonly at: number;
  readonly stream: 'stdout' | 'stderr';
  readonly text: string;
}

export interface GuestLink extends AsyncDisposable {
  /** Agent protocol generation. */
  readonly generation: number;
  /** Resolves with the reason once the session is over and could not be re-established; never rejects. */
  readonly closed: Promise<Error>;
  ping(options: { timeoutMs: number; signal?: AbortSignal }): Promise<number>;
  /** Checks (e2fsck) and mounts the root disk. @throws MachineError `failed` with the checker's words */
  mountRoot(options: { timeoutMs: number; signal?: AbortSignal }): Promise<{ usedBytes: number }>;
  startContainer(start: ContainerStart, options: { timeoutMs: number; signal?: AbortSignal }): Promise<void>;
  /** Sets the wall clock to what `wallClockMs` says when the request leaves; resolves with how far off it was, in ms. */
  setClock(wallClockMs: () => number, options: { timeoutMs: number; signal?: AbortSignal }): Promise<number>;
  /** Resolves when the app ends. One long stream, not polling. */
  waitApp(options: { signal?: AbortSignal }): Promise<{ exitCode: number }>;
  appStatus(options: { timeoutMs: number; signal?: AbortSignal }): Promise<AppStatus>;
  isListening(port: number, options: { timeoutMs: number; signal?: AbortSignal }): Promise<boolean>;
  /**
   * What the metadata service serves from now on, as it stands; at most 16 KiB. It crosses the link sealed. Resolves with
   * whether the guest erases memory that is freed.
   */
  setCredentials(
    document: Buffer,
    options: { timeoutMs: number; signal?: AbortSignal },
  ): Promise<{ erasesFreed: boolean }>;
  /** Resolves when the metadata service serves nothing and the agent keeps no copy of what it served. */
  clearCredentials(options: { timeoutMs: number; signal?: AbortSignal }): Promise<void>;
  /** Syncs file systems, drops caches, waits for free pages to be reported. */
  quiesce(options: { dropCaches: boolean; timeoutMs: number; signal?: AbortSignal }): Promise<void>;
  /** Runs a program of the guest's own (never the app's) and streams what it prints; for the builder machine. */
  exec(
    request: ExecRequest,
    options: { onOutput(chunk: Buffer): void; timeoutMs: number; signal?: AbortSignal },
  ): Promise<{ exitCode: number }>;
  logs(options: { cursor?: number; follow?: boolean; signal?: AbortSignal }): AsyncIterable<GuestLog>;
  tunnel(port: number, options: { timeoutMs: number; signal?: AbortSignal }): Promise<Duplex>;
  /** A root shell in the app's container. @throws MachineError `unsupported` by an agent that knows none, `failed` by an image without one */
  shell(size: TerminalSize, options: { timeoutMs: number; signal?: AbortSignal }): Promise<GuestShell>;
}
