/**
 * A load generator that costs less than what it measures: requests signed beforehand, plain sockets, one request at a time on
 * each. Latency is from the write to the last byte of the answer.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

export interface Load {
  readonly requestsPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly count: number;
}

/** Sends `requests` round and round on `connections` sockets for `seconds`. @throws Error on any answer but 200 */
export async function generateLoad(
  port: number,
  requests: readonly Buffer[],
  options: { connections: number; seconds: number },
): Promise<Load> {
  const latencies: number[] = [];
  const startedAt = performance.now();
  const endAt = startedAt + options.seconds * 1000;
  let next = 0;
  const work = async () => {
    const socket = connect(port, '127.0.0.1').setNoDelay();
    await once(socket, 'connect');
    while (performance.now() < endAt) {
      const request = requests[next++ % requests.length];
      const sentAt = performance.now();
      if (request !== undefined) socket.write(request);
      await readAnswer(socket);
      latencies.push(performance.now() - sentAt);
    }
    socket.destroy();
  };
  await Promise.all(Array.from({ length: options.connections }, work));
  const seconds = (performance.now() - startedAt) / 1000;
  latencies.sort((a, b) => a - b);
  const at = (share: number) => latencies[Math.floor(latencies.length * share)] ?? Number.NaN;
  return {
    requestsPerSecond: latencies.length / seconds,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    maxMs: latencies.at(-1) ?? Number.NaN,
    count: latencies.length,
  };
}

/** Answers have a Content-Length, come one at a time, and usually in one piece. */
function readAnswer(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    let received = '';
    const done = (error?: Error) => {
      socket.off('data', onData).off('close', onClose);
      if (error === undefined) resolve();
      else reject(error);
    };
    const onClose = () => done(new Error('the server closed the connection'));
    const onData = (piece: Buffer) => {
      received += piece.toString('latin1');
      const end = received.indexOf('\r\n\r\n');
      if (end < 0) return;
      const length = Number(/content-length: (\d+)/i.exec(received)?.[1] ?? 0);
      if (received.length < end + 4 + length) return;
      if (received.startsWith('HTTP/1.1 200')) done();
      else done(new Error(received));
    };
    socket.on('data', onData).on('close', onClose);
  });
}
