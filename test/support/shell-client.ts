/** A shell of a microVM as AWS's sample client opens it: a WebSocket with the token in a header. */
import { readFileSync } from 'node:fs';
import { WebSocket } from 'ws';
import type { TestServer } from './server.ts';

const LIMIT_MS = 60_000;

export interface ShellClient extends Disposable {
  /** The session's id, from the first frame. */
  readonly sessionId: string;
  readonly closed: Promise<{ code: number; reason: string }>;
  type(text: string): void;
  resize(cols: number, rows: number): void;
  /** Types a command line and resolves with what it printed. */
  run(line: string): Promise<string>;
  /** What was shown up to and with `text`, since the last of these. */
  until(text: string): Promise<string>;
}

export async function openShell(
  server: TestServer,
  { microvmId, endpoint }: { readonly microvmId: string; readonly endpoint: string },
): Promise<ShellClient> {
  const { authToken = {} } = await server.microvms.createMicrovmShellAuthToken({
    microvmIdentifier: microvmId,
    expirationInMinutes: 5,
  });
  const ca = readFileSync(server.env.NODE_EXTRA_CA_CERTS ?? '');
  const socket = new WebSocket(`wss://${endpoint}/shell`, {
    ca,
    headers: authToken,
  } as ConstructorParameters<typeof WebSocket>[2]);
  const closed = Promise.withResolvers<{ code: number; reason: string }>();
  const began = Promise.withResolvers<string>();
  let shown = '';
  let moved = Promise.withResolvers<void>();
  socket.on('error', (error) => began.reject(error));
  socket.on('message', (data, isBinary) => {
    if (isBinary) shown += data.toString();
    else began.resolve(data.toString());
    moved.resolve();
    moved = Promise.withResolvers();
  });
  socket.once('close', (code, reason) => {
    closed.resolve({ code, reason: reason.toString() });
    moved.resolve();
  });
  const { type, session_id: sessionId } = JSON.parse(await began.promise);
  if (type !== 'session_init') throw new Error(`a shell begins with ${type}`);

  const until = async (text: string) => {
    const deadline = performance.now() + LIMIT_MS;
    while (!shown.includes(text)) {
      if (socket.readyState !== socket.OPEN || performance.now() > deadline) {
        throw new Error(`"${text}" was never shown, but: ${shown}`);
      }
      await Promise.race([moved.promise, new Promise((resolve) => setTimeout(resolve, 1000).unref())]);
    }
    const end = shown.indexOf(text) + text.length;
    const before = shown.slice(0, end);
    shown = shown.slice(end);
    return before;
  };
  let lines = 0;
  return {
    sessionId,
    closed: closed.promise,
    type: (text) => socket.send(Buffer.from(text)),
    resize: (cols, rows) => socket.send(JSON.stringify({ type: 'resize', cols, rows })),
    until,
    async run(line) {
      lines += 1;
      // The quotes keep the echo of the line from looking like its output.
      socket.send(Buffer.from(`echo be''gin${lines}; ${line}; echo e''nd${lines}\r`));
      await until(`begin${lines}\r\n`);
      const output = await until(`end${lines}\r\n`);
      await until('λ $ ');
      return output.slice(0, -`end${lines}\r\n`.length).replaceAll('\r\n', '\n').trimEnd();
    },
    [Symbol.dispose]: () => socket.terminate(),
  };
}
