/**
 * A real guest behind the endpoint, for `bench/endpoint.ts guest`: `guest.ts <folder>`. The same process offers the bare link, a stream
 * of it without ingress, HTTP and TLS: a line `up BYTES`, `down BYTES` or `requests CONNECTIONS SECONDS` on its input is measured there.
 * Answers each with a line of JSON, the first when it is ready; ends with its input.
 */
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Duplex } from 'node:stream';
import { loadConfig } from '../../src/config.ts';
import { createEngine, loadRuntime } from '../../src/engine/index.ts';
import { randomIds, silentLogger, systemClock } from '../../src/lib/index.ts';
import { openDoor } from './door.ts';

const PORT = 8080;
/** As little as can be said to speak HTTP: what is measured is the way there. */
const APP = `import re, socket, threading
zeroes = bytes(1 << 18)
def serve(client):
    sink = bytearray(1 << 18)
    held = b''
    while True:
        while b'\\r\\n\\r\\n' not in held:
            more = client.recv(65536)
            if not more: return client.close()
            held += more
        head, held = held.split(b'\\r\\n\\r\\n', 1)
        length = re.search(rb'content-length: (\\d+)', head, re.I)
        left = int(length[1]) - len(held) if length else 0
        if length: held = b''
        while left > 0: left -= client.recv_into(sink, min(left, len(sink)))
        asked = re.match(rb'GET /\\?bytes=(\\d+)', head)
        left = int(asked[1]) if asked else 2
        client.sendall(b'HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n' % left)
        while left > 0: left -= client.send(zeroes[:left] if left < len(zeroes) else zeroes)
server = socket.create_server(('127.0.0.1', ${PORT}), backlog=64)
while True:
    client = server.accept()[0]
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=serve, args=(client,), daemon=True).start()
`;

const [folder = ''] = process.argv.slice(2);
const { cacheDir } = loadConfig({}, process.env);
const runtime = loadRuntime(cacheDir);
const common = { runtime, stateDir: folder, cacheDir, log: silentLogger, clock: systemClock, ids: randomIds };
await using engine = await createEngine(common);
const snapshotDir = join(folder, 'images/bench/1.0/snapshot');
const env = ['PATH=/usr/bin:/bin'];
const config = { entrypoint: ['python3', '-c'], cmd: [APP], env, workingDir: '/', user: '', exposedPorts: [] };
const disk = { diskPath: runtime.base.disk, config, usedBytes: 0 };
const readiness = { kind: 'listening', port: PORT, graceMs: 60_000 } as const;
const build = { buildId: 'bench', disk, config, capabilities: 'default', memoryMiB: 512, readiness } as const;
await engine.seal({ ...build, snapshotDir, onLog: () => {} }, {});
const machine = await engine.launch({ id: 'microvm-bench', snapshotDir }, {});
await using door = await openDoor(join(folder, 'tls'), machine);
const { port, token, caFile } = door;
say({ port, token, caFile });
for await (const line of createInterface(process.stdin)) {
  const [what, first, second] = line.split(' ');
  if (what === 'requests') say({ perSecond: await requests(Number(first), Number(second)) });
  else say({ mibPerSecond: await transfer(what === 'up', Number(first)) });
}

async function transfer(isUp: boolean, bytes: number): Promise<number> {
  const stream = await machine.connect(PORT, {});
  await exchange(stream, 'GET / HTTP/1.1\r\n\r\n', 2);
  const startedAt = performance.now();
  if (isUp) {
    stream.write(`POST / HTTP/1.1\r\ncontent-length: ${bytes}\r\n\r\n`);
    const block = Buffer.alloc(65_536);
    for (let left = bytes; left > 0; left -= block.length) {
      if (!stream.write(block.subarray(0, left))) await new Promise((resolve) => stream.once('drain', resolve));
    }
    await exchange(stream, '', 2);
  } else await exchange(stream, `GET /?bytes=${bytes} HTTP/1.1\r\n\r\n`, bytes);
  const seconds = (performance.now() - startedAt) / 1000;
  stream.destroy();
  return bytes / 1024 ** 2 / seconds;
}

async function requests(connections: number, seconds: number): Promise<number> {
  const streams = await Promise.all(Array.from({ length: connections }, () => machine.connect(PORT, {})));
  const startedAt = performance.now();
  let count = 0;
  await Promise.all(
    streams.map(async (stream) => {
      while (performance.now() - startedAt < seconds * 1000) {
        await exchange(stream, 'GET / HTTP/1.1\r\nhost: app\r\n\r\n', 2);
        count += 1;
      }
      stream.destroy();
    }),
  );
  return (count / (performance.now() - startedAt)) * 1000;
}

/** Sends, and waits for an answer with so many bytes behind its head. */
function exchange(stream: Duplex, text: string, bytes: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let left: number | undefined;
  const onData = (chunk: Buffer) => {
    // The head is small and comes first, so in one piece.
    left = (left ?? bytes + chunk.indexOf('\r\n\r\n') + 4) - chunk.length;
    if (left > 0) return;
    stream.off('data', onData).off('close', onClose);
    resolve();
  };
  const onClose = () => reject(new Error('the guest closed the connection'));
  stream.on('data', onData).on('close', onClose);
  if (text !== '') stream.write(text);
  return promise;
}

function say(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}
