/**
 * The servers of one place of the test network, in a process of their own: HTTP on 80 and 8080, TLS on 443, UDP echo on
 * 7000, a TCP port 9000 that says `hello` and then waits, and DNS on 53 where names are given. Ends with its standard input.
 *
 *   nsenter … node network-servers.ts <ServersPlan as JSON>
 */
// Needed by @peculiar/x509, before it.
import 'reflect-metadata';

import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { createServer, type Server } from 'node:net';
import { X509CertificateGenerator } from '@peculiar/x509';

export interface ServersPlan {
  /** What the servers call themselves. */
  readonly place: 'internet' | 'private' | 'host';
  readonly names: Readonly<Record<string, readonly string[]>>;
}

const TYPE_A = 1;
const TTL_SECONDS = 30;

async function main(plan: ServersPlan): Promise<void> {
  process.stdin.on('end', () => process.exit(0)).resume();
  const page: RequestListener = (request, response) => {
    const bytes = Number(/^\/bytes\/(\d+)$/.exec(request.url ?? '')?.[1] ?? 0);
    const body =
      bytes > 0 ? Buffer.alloc(bytes) : `${plan.place} ${request.headers.host ?? ''} ${request.socket.remoteAddress}\n`;
    response.end(body);
  };
  await Promise.all([
    listening(createHttpServer(page), 80),
    listening(createHttpServer(page), 8080),
    listening(createHttpsServer(await selfSigned(), page), 443),
    listening(
      createServer((socket) => void socket.on('error', () => {}).write('hello\n')),
      9000,
    ),
    echoes(7000),
    plan.place === 'host' ? undefined : answersNames(plan.names),
  ]);
  process.stdout.write('ready\n');
}

async function listening(server: Server, port: number): Promise<void> {
  server.listen(port, '0.0.0.0');
  await once(server, 'listening');
}

async function echoes(port: number): Promise<void> {
  const socket = createSocket('udp4');
  socket.on('message', (message, from) => socket.send(message, from.port, from.address));
  socket.bind(port, '0.0.0.0');
  await once(socket, 'listening');
}

async function selfSigned(): Promise<{ key: string; cert: string }> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const cert = await X509CertificateGenerator.createSelfSigned({ name: 'CN=test', keys, signingAlgorithm: algorithm });
  const der = Buffer.from(await crypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
  return { cert: cert.toString('pem'), key: `-----BEGIN PRIVATE KEY-----\n${der}\n-----END PRIVATE KEY-----\n` };
}

/** Answers A questions; any other type of a known name has no records, an unknown name does not exist. */
async function answersNames(names: ServersPlan['names']): Promise<void> {
  const udp = createSocket('udp4');
  udp.on('message', (query, from) => {
    const answer = answerTo(query, names);
    if (answer !== undefined) udp.send(answer, from.port, from.address);
  });
  udp.bind(53, '0.0.0.0');
  const tcp = createServer((socket) => {
    let held = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => {
      held = Buffer.concat([held, chunk]);
      while (held.length >= 2 && held.length >= 2 + held.readUInt16BE(0)) {
        const answer = answerTo(held.subarray(2, 2 + held.readUInt16BE(0)), names);
        held = held.subarray(2 + held.readUInt16BE(0));
        if (answer === undefined) continue;
        const length = Buffer.alloc(2);
        length.writeUInt16BE(answer.length);
        socket.write(Buffer.concat([length, answer]));
      }
    });
  });
  await Promise.all([once(udp, 'listening'), listening(tcp, 53)]);
}

function answerTo(query: Buffer, names: ServersPlan['names']): Buffer | undefined {
  const labels: string[] = [];
  let at = 12;
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  const end = at + 5;
  if (end > query.length) return undefined;
  const addresses = names[labels.join('.').toLowerCase()];
  const found = addresses !== undefined && query.readUInt16BE(at + 1) === TYPE_A ? addresses : [];
  const header = Buffer.from(query.subarray(0, 12));
  header.writeUInt16BE(0x8180 | (addresses === undefined ? 3 : 0), 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(found.length, 6);
  header.writeUInt32BE(0, 8);
  const records = found.map((address) => {
    const record = Buffer.alloc(16);
    record.writeUInt16BE(0xc00c, 0);
    record.writeUInt16BE(TYPE_A, 2);
    record.writeUInt16BE(1, 4);
    record.writeUInt32BE(TTL_SECONDS, 6);
    record.writeUInt16BE(4, 10);
    record.set(address.split('.').map(Number), 12);
    return record;
  });
  return Buffer.concat([header, query.subarray(12, end), ...records]);
}

if (import.meta.main) await main(JSON.parse(process.argv[2] ?? '') as ServersPlan);
