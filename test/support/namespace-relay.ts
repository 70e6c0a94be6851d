/**
 * Ways into a network namespace for clients outside it: a relay there takes connections on a unix socket, reads a port and
 * joins them to 127.0.0.1 in the namespace. The relay is this file, run in a process of its own; it ends with its standard input.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { Agent, type AgentOptions } from 'node:http';
import { Agent as TlsAgent } from 'node:https';
import { connect, createServer, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';
import type { Namespace } from './network.ts';

export interface Relay {
  readonly http: Agent;
  /** For endpoints whose certificate `ca` vouches for. */
  https(ca: Buffer): TlsAgent;
}

/** Ends with `stack`. `path` is where its socket may be. */
export async function openRelay(stack: AsyncDisposableStack, at: Namespace, path: string): Promise<Relay> {
  const [program = '', ...args] = at.command([process.execPath, import.meta.filename, path]);
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  stack.defer(() => ended(child));
  await once(child.stdout, 'data', { signal: AbortSignal.timeout(20_000) });
  const open = (port: number | string | undefined): Socket => {
    const socket = connect(path);
    socket.write(`${port}\n`);
    return socket;
  };
  const http = new RelayAgent(open, { keepAlive: true });
  stack.defer(() => http.destroy());
  return { http, https: (ca) => new RelayTlsAgent(open, { keepAlive: true, ca }) };
}

type Open = (port: number | string | undefined) => Socket;

class RelayAgent extends Agent {
  readonly #open: Open;

  constructor(open: Open, options: AgentOptions) {
    super(options);
    this.#open = open;
  }

  override createConnection(options: { port?: number | string | null | undefined }): Duplex {
    return this.#open(options.port ?? 80);
  }
}

class RelayTlsAgent extends TlsAgent {
  readonly #open: Open;

  constructor(open: Open, options: AgentOptions & { ca: Buffer }) {
    super(options);
    this.#open = open;
  }

  override createConnection(options: ConnectionOptions): Duplex {
    const { port, ca, servername, host } = options;
    const name = servername ?? host;
    return connectTls({
      socket: this.#open(port),
      ...(ca === undefined ? {} : { ca }),
      ...(name === undefined ? {} : { servername: name }),
    });
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.stdin?.end();
  child.kill('SIGKILL');
  await exit;
}

function serve(path: string): void {
  process.stdin.on('end', () => process.exit(0)).resume();
  const server = createServer((near) => {
    near.on('error', () => near.destroy());
    let head = '';
    const take = (chunk: Buffer) => {
      head += chunk.toString('latin1');
      const end = head.indexOf('\n');
      if (end < 0) return;
      near.off('data', take);
      near.pause();
      const far = connect(Number(head.slice(0, end)), '127.0.0.1');
      far.write(Buffer.from(head.slice(end + 1), 'latin1'));
      far.on('error', () => near.destroy());
      near.on('close', () => far.destroy());
      near.pipe(far).pipe(near);
    };
    near.on('data', take);
  });
  server.listen(path, () => process.stdout.write('ready\n'));
}

if (import.meta.main) serve(process.argv[2] ?? '');
