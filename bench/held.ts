/**
 * Many callers of one sleeping microVM: `node_modules/.bin/node bench/held.ts [requests, default 1000]`.
 *
 * Each has a connection of its own, open before (silent ones wake nobody). All send at once and are held while one resume brings
 * the microVM back. Every answer is counted by the app, so none is lost and none delivered twice. The app is Python's own server:
 * it lets five connections wait, and gives each it accepts a thread.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect, type TLSSocket } from 'node:tls';
import { buildImage, counterApp, untilState } from '../test/support/images.ts';
import { startServer } from '../test/support/server.ts';
import { printTable, spread } from './table.ts';

const REQUESTS = Number(process.argv[2] ?? 1000);
const HANDSHAKES_AT_ONCE = 50;
const HANDSHAKE_TIMEOUT_MS = 20_000;
const ANSWER_TIMEOUT_MS = 100_000;

interface Answered {
  readonly status: number;
  readonly body: string;
  readonly tookMs: number;
}

async function main(): Promise<void> {
  await using server = await startServer({ args: ['--log-level', 'debug'] });
  const image = await buildImage(server, 'held', counterApp);
  if (image.state !== 'CREATED') throw new Error(`the bench image is ${image.state}: ${image.stateReason}`);
  const { microvmId = '', endpoint = '' } = await server.microvms.runMicrovm({
    imageIdentifier: image.imageArn,
    idlePolicy: { maxIdleDurationSeconds: 600, suspendedDurationSeconds: 600, autoResumeEnabled: true },
  });
  await untilState(server, microvmId, 'RUNNING');
  const { authToken } = await server.microvms.createMicrovmAuthToken({
    microvmIdentifier: microvmId,
    expirationInMinutes: 15,
    allowedPorts: [{ port: 8080 }],
  });
  await server.microvms.suspendMicrovm({ microvmIdentifier: microvmId });
  await untilState(server, microvmId, 'SUSPENDED');

  const { hostname, port } = new URL(`https://${endpoint}`);
  const ca = readFileSync(server.env.NODE_EXTRA_CA_CERTS ?? '');
  const sockets: TLSSocket[] = [];
  for (let opened = 0; opened < REQUESTS; opened += HANDSHAKES_AT_ONCE) {
    const some = Array.from({ length: Math.min(HANDSHAKES_AT_ONCE, REQUESTS - opened) }, () =>
      connect({ host: hostname, servername: hostname, port: Number(port), ca, ALPNProtocols: ['http/1.1'] }),
    );
    await Promise.all(
      some.map((socket) => once(socket, 'secureConnect', { signal: AbortSignal.timeout(HANDSHAKE_TIMEOUT_MS) })),
    );
    sockets.push(...some);
  }
  const { state } = await server.microvms.getMicrovm({ microvmIdentifier: microvmId });
  if (state !== 'SUSPENDED') throw new Error(`silent connections woke it: ${state}`);

  const head = `GET /count HTTP/1.1\r\nHost: ${hostname}\r\nX-aws-proxy-auth: ${authToken?.['X-aws-proxy-auth']}\r\nConnection: close\r\n\r\n`;
  const answers = await Promise.all(sockets.map((socket) => ask(socket, head)));
  const good = answers.filter(({ status }) => status === 200);
  const other = answers.find(({ status }) => status !== 200);
  if (other !== undefined) console.error(`bench: one was answered ${other.status} ${other.body}`);
  const counts = new Set(good.map(({ body }) => Number(body)));
  const resumes = server.log().split('"what":"resume"').length - 1;
  const isRight = counts.size === REQUESTS && Math.max(...counts) === REQUESTS && resumes === 1;
  printTable('Requests held during one resume', [
    { what: `${REQUESTS} at once: answered 200`, value: `${good.length}`, promise: 'all', kept: isRight },
    { what: '  requests the app has counted, resumes', value: `${Math.max(...counts)}, ${resumes}` },
    { what: '  from sending to the whole answer', value: spread(answers.map(({ tookMs }) => tookMs)) },
  ]);
}

async function ask(socket: TLSSocket, head: string): Promise<Answered> {
  const startedAt = performance.now();
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  const ended = once(socket, 'close', { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
  socket.write(head);
  await ended.catch(() => socket.destroy());
  const text = Buffer.concat(chunks).toString('latin1');
  const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(text)?.[1] ?? 0);
  return { status, body: text.slice(text.indexOf('\r\n\r\n') + 4), tookMs: performance.now() - startedAt };
}

await main();
