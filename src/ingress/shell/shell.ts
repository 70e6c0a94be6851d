/**
 * The shell of a microVM over a WebSocket (behaviour.md §10): a root terminal in the app's container.
 *
 * Invariant: a shell lives exactly as long as its WebSocket. Only bytes count as activity: a shell at its prompt lets the
 * microVM be suspended, which closes it.
 */
import type { RawData, WebSocket } from 'ws';
import { CLOSE, MachineError, messageOf, sendPaced, withDeadline } from '../../lib/index.ts';
import type { Machine, Shell, TerminalSize } from '../../microvms/index.ts';
import { BAD_GATEWAY } from '../answers.ts';
import type { Surroundings } from '../forward.ts';
import { reach } from '../reach.ts';
import type { OwnSockets } from '../sockets/sockets.ts';
import { refuseUpgrade, type Upgrade } from '../upgrade.ts';

/** Until the client says otherwise. */
const FIRST_SIZE: TerminalSize = { cols: 80, rows: 24 };
/** crun in a guest without hardware virtualisation takes its time. */
const OPEN_TIMEOUT_MS = 30_000;
const MAX_SIDE = 65_535;
/** A resize message is shorter; what is longer need not be parsed to know that it is typed. */
const MAX_RESIZE_LENGTH = 256;

/** Never rejects. The upgrade's socket belongs to this function. */
export async function serveShell(upgrade: Upgrade, around: Surroundings, sockets: OwnSockets): Promise<void> {
  const { microvmId, requestId } = upgrade;
  // Not the app's paths: a 502, as for a shell token on an ordinary request. GUESS: shell-refusals
  if (!isShellPath(upgrade.request.url)) return refuseUpgrade(upgrade.socket, BAD_GATEWAY, requestId);
  const key = sockets.keyOf(upgrade);
  if (key === undefined) return;
  const gone = new AbortController();
  const onClose = () => gone.abort();
  upgrade.socket.once('close', onClose);
  try {
    const { got, underWay } = await reach(microvmId, around, gone.signal, openShell);
    using _underWay = underWay;
    const socket = sockets.accept(upgrade, key);
    if (got instanceof Error) {
      around.log.info({ microvmId, requestId, error: messageOf(got) }, 'shell refused');
      if (socket !== undefined) sockets.close(socket, CLOSE.failed, got.message);
    } else if (socket === undefined) got.destroy();
    else attach(socket, got, { upgrade, around, sockets });
  } catch (error) {
    if (gone.signal.aborted) return;
    around.log.debug({ microvmId, requestId, error: messageOf(error) }, 'endpoint answers a shell with 502');
    refuseUpgrade(upgrade.socket, BAD_GATEWAY, requestId);
  } finally {
    upgrade.socket.off('close', onClose);
  }
}

/** A guest that lives but opens none says why, and the client is told. */
async function openShell(machine: Machine, signal: AbortSignal): Promise<Shell | Error> {
  try {
    const open = (bounded: AbortSignal) => machine.openShell(FIRST_SIZE, { signal: bounded });
    return await withDeadline('opening a shell', OPEN_TIMEOUT_MS, open, { signal });
  } catch (error) {
    const isAnswer = error instanceof MachineError && (error.kind === 'failed' || error.kind === 'unsupported');
    if (isAnswer) return error;
    throw error;
  }
}

function attach(
  socket: WebSocket,
  shell: Shell,
  { upgrade, around, sockets }: { upgrade: Upgrade; around: Surroundings; sockets: OwnSockets },
): void {
  const { microvmId, requestId } = upgrade;
  const sessionId = sockets.ids.uuid();
  const activity = () => around.microvms.activity(microvmId);
  around.log.info({ microvmId, requestId, sessionId }, 'shell opened');
  socket.send(JSON.stringify({ type: 'session_init', session_id: sessionId }));

  socket.on('message', (data: RawData, isBinary: boolean) => {
    activity();
    const size = isBinary ? undefined : resizeIn(data);
    if (size !== undefined) shell.resize(size);
    else if (shell.writable && !shell.write(data)) socket.pause();
  });
  shell.on('drain', () => socket.resume());
  shell.on('data', (chunk: Buffer) => {
    activity();
    sendPaced(socket, chunk, shell);
  });
  void shell.exited.then(() => sockets.close(socket, CLOSE.done, 'shell exited'));
  // GUESS: shell-suspend
  shell.once('close', () => {
    if (!shell.readableEnded) sockets.close(socket, CLOSE.goingAway, 'the microVM was suspended or ended');
  });
  shell.on('error', (error) => around.log.debug({ microvmId, sessionId, error: messageOf(error) }, 'shell cut off'));
  // What the shell started goes with it, setsid aside. GUESS: shell-session-end
  socket.once('close', (code) => {
    around.log.info({ microvmId, sessionId, code }, 'shell closed');
    shell.destroy();
  });
}

function isShellPath(url: string | undefined): boolean {
  const [path] = (url ?? '').split('?', 1);
  return path === '/' || path === '/shell';
}

/** Undefined: the text is to be typed. */
function resizeIn(data: RawData): TerminalSize | undefined {
  const text = data.toString();
  if (text.length > MAX_RESIZE_LENGTH || !text.startsWith('{')) return undefined;
  let said: { type?: unknown; cols?: unknown; rows?: unknown };
  try {
    said = JSON.parse(text);
  } catch {
    return undefined;
  }
  const { type, cols, rows } = said;
  return type === 'resize' && isSide(cols) && isSide(rows) ? { cols, rows } : undefined;
}

function isSide(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= MAX_SIDE;
}
