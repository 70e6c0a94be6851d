/**
 * A byte tunnel into a port of a microVM over a WebSocket: Rekindle's own subprotocol `rekindle.tunnel`, for what speaks no
 * HTTP. The same token, port and scope as for a request; what an app could offer under that name never sees it.
 */
import { CLOSE, carryBytes, MachineError, messageOf } from '../../lib/index.ts';
import { BAD_GATEWAY } from '../answers.ts';
import type { Surroundings } from '../forward.ts';
import { reach } from '../reach.ts';
import type { OwnSockets } from '../sockets/sockets.ts';
import { refuseUpgrade, type Upgrade } from '../upgrade.ts';

/** Never rejects. The upgrade's socket belongs to this function. */
export async function serveTunnel(upgrade: Upgrade, around: Surroundings, sockets: OwnSockets): Promise<void> {
  const { microvmId, port, requestId } = upgrade;
  const key = sockets.keyOf(upgrade);
  if (key === undefined) return;
  const gone = new AbortController();
  const onClose = () => gone.abort();
  upgrade.socket.once('close', onClose);
  try {
    const { got, underWay } = await reach(microvmId, around, gone.signal, (machine, signal) =>
      machine.connect(port, { signal }),
    );
    using _underWay = underWay;
    const socket = sockets.accept(upgrade, key);
    if (socket === undefined) got.destroy();
    else carryBytes(socket, got, () => around.microvms.activity(microvmId));
  } catch (error) {
    if (gone.signal.aborted) return;
    around.log.debug({ microvmId, requestId, error: messageOf(error) }, 'endpoint refuses a tunnel');
    // A guest that lives and refuses: the client is told, which a status would keep from browsers.
    const isAnswer = error instanceof MachineError && error.kind === 'failed';
    const socket = isAnswer ? sockets.accept(upgrade, key) : undefined;
    if (socket !== undefined) sockets.close(socket, CLOSE.failed, `nothing listens on port ${port}`);
    else refuseUpgrade(upgrade.socket, BAD_GATEWAY, requestId);
  } finally {
    upgrade.socket.off('close', onClose);
  }
}
