/** The other end of bench/network.ts, in a network namespace of its own: sinks, sources and answers single bytes. */
import { createServer } from 'node:net';

const CHUNK = Buffer.alloc(256 * 1024, 'x');

/** Reads until as many bytes came as the first line says, then answers one byte. */
const sink = createServer((socket) => {
  let left = -1;
  socket.on('error', () => {});
  socket.on('data', (chunk: Buffer) => {
    if (left < 0) {
      const end = chunk.indexOf('\n');
      left = Number(chunk.subarray(0, end).toString());
      left -= chunk.length - end - 1;
    } else {
      left -= chunk.length;
    }
    if (left === 0) socket.end('.');
  });
});

/** Sends as many bytes as the first line says. */
const source = createServer((socket) => {
  socket.on('error', () => {});
  socket.once('data', (line) => {
    let left = Number(line.toString());
    const pump = () => {
      while (left > 0) {
        const chunk = CHUNK.subarray(0, Math.min(left, CHUNK.length));
        left -= chunk.length;
        if (!socket.write(chunk)) return void socket.once('drain', pump);
      }
      socket.end();
    };
    pump();
  });
});

const byte = createServer((socket) => {
  socket.on('error', () => {});
  socket.end('.');
});

const [host = '0.0.0.0'] = process.argv.slice(2);
const servers = [sink, source, byte];
for (const [i, server] of servers.entries()) server.listen(7001 + i, host);
process.stdin.resume().on('end', () => process.exit(0));
