// GET / lists the workspace, PUT /files/<name> writes into it, /terminal is a WebSocket that runs each message as a command.
import { execFile } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { createServer } from 'node:http';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { WebSocketServer } from 'ws';

const WORKSPACE = '/workspace';

const server = createServer(async (request, response) => {
  try {
    const name = /^\/files\/([^/]+)$/.exec(request.url ?? '')?.[1];
    if (request.method === 'PUT' && name !== undefined) {
      await pipeline(request, createWriteStream(join(WORKSPACE, basename(decodeURIComponent(name)))));
      response.writeHead(204).end();
    } else if (request.url === '/') {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ user: process.getuid?.(), files: await readdir(WORKSPACE) }));
    } else response.writeHead(404).end();
  } catch (error) {
    response.writeHead(500).end(String(error));
  }
});

const terminals = new WebSocketServer({ server, path: '/terminal' });
terminals.on('connection', (socket) => {
  socket.on('message', (command) => {
    execFile('/bin/sh', ['-c', String(command)], { cwd: WORKSPACE, timeout: 10_000 }, (_error, stdout, stderr) =>
      socket.send(stdout + stderr),
    );
  });
});

server.listen(8080, '0.0.0.0', () => console.log('listening on 8080'));
