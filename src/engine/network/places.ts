/** Where the gateway's things lie under a state folder, and how sockets there are reached however deep it is. */
import { type FileHandle, open } from 'node:fs/promises';
import path from 'node:path';

export interface Places {
  /** The gateway's own: `control.sock`, `net/<guest>/net.sock`. It writes there; the server only reads. */
  readonly dir: string;
  /** The flow log; written by the gateway alone. */
  readonly flows: string;
  /** The server's: the process that was started, and what it was given. */
  readonly record: string;
  readonly config: string;
  readonly log: string;
}

export function placesUnder(stateDir: string): Places {
  const root = path.resolve(stateDir);
  return {
    dir: path.join(root, 'gateway'),
    flows: path.join(root, 'logs/flows'),
    record: path.join(root, 'gateway.json'),
    config: path.join(root, 'gateway-config.json'),
    log: path.join(root, 'logs/gateway.log'),
  };
}

export function guestDir({ dir }: Places, guest: string): string {
  return path.join(dir, 'net', guest);
}

/** A socket's path is limited to 107 bytes: through the handle of its folder it is short. */
export async function controlSocket({ dir }: Places): Promise<{ path: string; folder: FileHandle }> {
  const folder = await open(dir, 'r');
  return { path: `/proc/self/fd/${folder.fd}/control.sock`, folder };
}
