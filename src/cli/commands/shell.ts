/**
 * `rekindle shell`: this terminal as the terminal of a root shell in a microVM's app container.
 *
 * Invariant: however it ends, the terminal is left as it was found.
 */
import type { ReadStream, WriteStream } from 'node:tty';
import type { RawData, WebSocket } from 'ws';
import type { Environment } from '../../config.ts';
import { CLOSE } from '../../lib/index.ts';
import { openEndpointSocket } from '../endpoint-socket.ts';
import { CliError, EXIT } from '../exit.ts';
import { type CommonOptions, openSession, type Session } from '../session.ts';
import { readCa } from '../target.ts';

const EXITED = 'shell exited';
/** The endpoint asks for signs of life twice as often. */
const SILENCE_MS = 90_000;
/** Input waits while so much of it is under way. */
const MAX_WAITING_BYTES = 256 * 1024;
/** At the end of piped input: whoever reads it hears of the end, and the shell is told to go. */
const FAREWELL = '\x04exit\r';

interface Ended {
  readonly code: number;
  readonly reason: string;
}

/** @returns the exit code: 0 once the shell exited, 130 when interrupted. @throws CliError when it ended otherwise */
export async function shell(microvmId: string, options: CommonOptions, env: Environment): Promise<number> {
  const session = await openSession(options, env);
  const socket = await connect(session, microvmId);
  const { stdin, stdout } = process as { stdin: ReadStream; stdout: WriteStream };
  const ended = await attached(socket, stdin, stdout);
  if (ended === 'interrupted') return EXIT.interrupted;
  if (ended.code === CLOSE.done && ended.reason === EXITED) return EXIT.ok;
  throw new CliError(sentenceFor(microvmId, ended));
}

async function connect({ client, target }: Session, microvmId: string): Promise<WebSocket> {
  const { endpoint = '', ingressNetworkConnectors = [] } = await client.getMicrovm({ microvmIdentifier: microvmId });
  if (!ingressNetworkConnectors.some((arn) => arn.endsWith(':SHELL_INGRESS'))) {
    throw new CliError(`${microvmId} was launched without a shell; "rekindle run --shell" launches one with it.`);
  }
  const { authToken = {} } = await client.createMicrovmShellAuthToken({
    microvmIdentifier: microvmId,
    expirationInMinutes: 5,
  });
  return openEndpointSocket({ endpoint, path: '/shell', headers: authToken, ca: readCa(target) });
}

/** Joins the two until either ends; the terminal is restored then. */
async function attached(socket: WebSocket, stdin: ReadStream, stdout: WriteStream): Promise<Ended | 'interrupted'> {
  const { promise, resolve } = Promise.withResolvers<Ended | 'interrupted'>();
  using stack = new DisposableStack();
  let silence = setTimeout(lost, SILENCE_MS);
  stack.defer(() => clearTimeout(silence));
  function lost(): void {
    socket.terminate();
  }
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(lost, SILENCE_MS);
  };
  socket.once('close', (code, reason) => resolve({ code, reason: reason.toString() }));
  socket.on('ping', heard);
  socket.on('message', (data: RawData, isBinary: boolean) => {
    heard();
    if (isBinary && !stdout.write(data as Buffer)) socket.pause();
  });
  const onDrain = () => socket.resume();
  stdout.on('drain', onDrain);
  stack.defer(() => stdout.off('drain', onDrain));

  const interrupted = () => {
    socket.terminate();
    resolve('interrupted');
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, interrupted);
    stack.defer(() => process.off(signal, interrupted));
  }
  passSizes(socket, stdout, stack);
  passInput(socket, stdin, stack);
  return await promise;
}

function passSizes(socket: WebSocket, stdout: WriteStream, stack: DisposableStack): void {
  if (!stdout.isTTY) return;
  const tell = () => socket.send(JSON.stringify({ type: 'resize', cols: stdout.columns, rows: stdout.rows }));
  stdout.on('resize', tell);
  stack.defer(() => stdout.off('resize', tell));
  tell();
}

function passInput(socket: WebSocket, stdin: ReadStream, stack: DisposableStack): void {
  if (stdin.isTTY) {
    stdin.setRawMode(true);
    const restore = () => stdin.setRawMode(false);
    // Also when something throws where nobody catches.
    process.once('exit', restore);
    stack.defer(() => {
      process.off('exit', restore);
      restore();
    });
  }
  let isAtLineStart = true;
  const send = (bytes: Buffer | string) => {
    socket.send(bytes, { binary: true }, () => {
      if (stdin.isPaused() && socket.bufferedAmount < MAX_WAITING_BYTES / 2) stdin.resume();
    });
    if (socket.bufferedAmount > MAX_WAITING_BYTES) stdin.pause();
  };
  const onData = (chunk: Buffer) => {
    isAtLineStart = chunk.at(-1) === 10;
    // What ends a line in a file is not the key that does so on a terminal.
    send(stdin.isTTY ? chunk : Buffer.from(chunk.map((byte) => (byte === 10 ? 13 : byte))));
  };
  const onEnd = () => send(isAtLineStart ? FAREWELL : `\r${FAREWELL}`);
  stdin.on('data', onData).once('end', onEnd);
  stack.defer(() => {
    stdin.off('data', onData).off('end', onEnd).pause();
    stdin.unref?.();
  });
}

function sentenceFor(microvmId: string, { code, reason }: Ended): string {
  if (code === CLOSE.goingAway) return `The shell was cut off: ${reason}. Open another: rekindle shell ${microvmId}`;
  if (code === CLOSE.failed) return `${microvmId} gives no shell: ${reason}.`;
  return `The connection to the shell was lost (${code}${reason === '' ? '' : ` ${reason}`}).`;
}
