/**
 * The WebSockets that end in the ingress itself: shells, and byte tunnels.
 *
 * Invariant: every one that is open is known here, answers pings, is noticed when its peer is gone, and is told when the
 * server stops.
 */
import type { WebSocket } from 'ws';
import { CLOSE, type Clock, closeSocket, type Ids, TUNNEL_PROTOCOL } from '../../lib/index.ts';
import type { Surroundings } from '../forward.ts';
import { MARKER } from '../protocols.ts';
import { serveShell } from '../shell/shell.ts';
import { serveTunnel } from '../tunnel/tunnel.ts';
import { refuseUpgrade, type Upgrade } from '../upgrade.ts';
import { completeHandshake, handshakeKey } from './handshake.ts';

/** A peer that shows no sign of life for two of these is gone. */
const PING_MS = 30_000;
/** Further pings are not answered while so much waits for a peer that does not read; RFC 6455 lets them go. */
const MAX_WAITING_BYTES = 64 * 1024;
/** How long a peer may take over its half of a closing handshake. */
const CLOSING_MS = 2000;

export class OwnSockets implements Disposable {
  readonly ids: Ids;
  readonly #clock: Clock;
  readonly #open = new Set<WebSocket>();

  constructor({ clock, ids }: { clock: Clock; ids: Ids }) {
    this.#clock = clock;
    this.ids = ids;
  }

  /** Serves the upgrade if it is for the ingress itself; false: it is for the app, untouched. Never rejects. */
  async take(upgrade: Upgrade, around: Surroundings): Promise<boolean> {
    if (upgrade.isShell) await serveShell(upgrade, around, this);
    else if (offered(upgrade).includes(TUNNEL_PROTOCOL)) await serveTunnel(upgrade, around, this);
    else return false;
    return true;
  }

  /** The key to complete the handshake with; undefined: it was refused. */
  keyOf(upgrade: Upgrade): string | undefined {
    const key = handshakeKey(upgrade.request.rawHeaders);
    if (key === undefined) refuseUpgrade(upgrade.socket, { status: 400, text: 'Malformed request' }, upgrade.requestId);
    return key;
  }

  /** Undefined: the client is gone. */
  accept(upgrade: Upgrade, key: string): WebSocket | undefined {
    const protocol = offered(upgrade).includes(TUNNEL_PROTOCOL) && !upgrade.isShell ? TUNNEL_PROTOCOL : undefined;
    const socket = completeHandshake(upgrade, key, protocol ?? (upgrade.protocols?.marked ? MARKER : undefined));
    if (socket !== undefined) this.#keep(socket);
    return socket;
  }

  [Symbol.dispose](): void {
    for (const socket of this.#open) this.close(socket, CLOSE.goingAway, 'the server is stopping');
  }

  /** Closes in bounded time, whatever the peer does. */
  close(socket: WebSocket, code: number, reason: string): void {
    closeSocket(socket, code, reason);
    if (!this.#open.has(socket)) return;
    const deadline = this.#clock.after(CLOSING_MS, () => socket.terminate());
    socket.once('close', () => deadline[Symbol.dispose]());
  }

  #keep(socket: WebSocket): void {
    this.#open.add(socket);
    let isAlive = true;
    let timer = this.#clock.after(PING_MS, look);
    const clock = this.#clock;
    function look(): void {
      // Nothing of a paused one is read: not its pongs either.
      if (!isAlive && !socket.isPaused) {
        socket.terminate();
        return;
      }
      isAlive = false;
      socket.ping();
      timer = clock.after(PING_MS, look);
    }
    const lives = () => {
      isAlive = true;
    };
    socket.on('pong', lives).on('message', lives);
    socket.on('ping', (data) => {
      isAlive = true;
      if (socket.bufferedAmount < MAX_WAITING_BYTES) socket.pong(data);
    });
    socket.on('error', () => {});
    socket.once('close', () => {
      timer[Symbol.dispose]();
      this.#open.delete(socket);
    });
  }
}

function offered({ protocols }: Upgrade): readonly string[] {
  return protocols === undefined ? [] : protocols.forApp.split(', ');
}
