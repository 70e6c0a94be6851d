import type { IncomingMessage } from 'node:http';
import { BlockList } from 'node:net';

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/** Whether a program of this host asks, and not a web page one of its browsers happens to show. */
export function isLocalProgram(request: IncomingMessage): boolean {
  return isLoopback(request.socket.remoteAddress) && request.headers.origin === undefined;
}

/** Whether a peer's address is this host's own. */
export function isLoopback(address: string | undefined): boolean {
  if (address === undefined) return false;
  const mapped = address.startsWith('::ffff:') ? address.slice(7) : address;
  return loopback.check(mapped, mapped.includes(':') ? 'ipv6' : 'ipv4');
}
