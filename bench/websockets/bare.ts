/** Node's own TLS server and nothing else, for `bench/websockets.ts`: `bare.ts <folder>`. Speaks like `ingress.ts` beside it,
 * and exchanges keys as the endpoint does on loopback. */
import { createInterface } from 'node:readline';
import { createServer, type TLSSocket } from 'node:tls';
import { openAuthority } from '../../src/ingress/authority.ts';
import { randomIds, systemClock } from '../../src/lib/index.ts';

const tls = await openAuthority(process.argv[2] ?? '', { clock: systemClock, ids: randomIds });
const held = new Set<TLSSocket>();
const server = createServer(
  { key: tls.keyPem, cert: tls.certPem, ALPNProtocols: ['http/1.1'], ecdhCurve: 'X25519' },
  (socket) => {
    held.add(socket);
    socket.on('data', () => socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n'));
    socket.on('error', () => {}).on('close', () => held.delete(socket));
  },
);
server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  process.stdout.write(`${JSON.stringify({ endpoints: [{ port, token: '' }], caFile: tls.caFile })}\n`);
});
for await (const line of createInterface(process.stdin)) {
  if (line === 'collect') for (let i = 0; i < 2; i++) globalThis.gc?.();
  const { rss, heapUsed } = process.memoryUsage();
  process.stdout.write(`${JSON.stringify({ rss: rss / 2 ** 20, heapUsed: heapUsed / 2 ** 20 })}\n`);
}
process.exit(0);
