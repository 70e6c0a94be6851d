/**
 * What an idle WebSocket costs the server: `node bench/websockets.ts [count] [prototype]`, 5,000 by default, over TLS, through the ingress and
 * the agent's link, to an app that agrees and says nothing. Memory is the resident one of the ingress process with the sockets
 * open, less that with a tenth as many that were opened and closed again, both after a collection. The same is taken of Node's
 * TLS server alone: what it costs, nothing written in JavaScript over it can undercut.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Duplex } from 'node:stream';
import { promisify } from 'node:util';
import { printTable } from './table.ts';

const MICROVMS = 5;
const SETTLE_MS = 3000;
const PROMISED_KIB = 40;
const run = promisify(execFile);

interface Memory {
  readonly rss: number;
  readonly heapUsed: number;
}

interface Listening {
  readonly endpoints: readonly { readonly port: number; readonly token: string }[];
  readonly caFile: string;
}

async function main(count: number, withPrototype: boolean): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-websockets-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const peer = join(dir, 'peer');
  await run('go', ['build', '-o', peer, '.'], { cwd: join(import.meta.dirname, 'endpoint/peer') });
  const links = Array.from({ length: MICROVMS }, (_, i) => join(dir, `link-${i}`));
  for (const link of links) await started(stack, peer, ['link', link]).next();
  const app = await startApp(stack);
  const script = (name: string) => join(import.meta.dirname, 'websockets', name);
  const node = (name: string, ...args: string[]) => ({
    peer,
    program: process.execPath,
    args: ['--expose-gc', script(name), ...args],
  });
  const bare = await measure(stack, node('bare.ts', join(dir, 'bare')), count);
  const ours = await measure(stack, node('ingress.ts', join(dir, 'tls'), String(app), ...links), count);
  const native = withPrototype ? await measure(stack, await prototype(), count) : undefined;

  /** A link has one host at a time, so the prototype has links of its own. */
  async function prototype(): Promise<Server> {
    const program = join(dir, 'front');
    await run('go', ['build', '-o', program, '.'], { cwd: join(import.meta.dirname, 'prototypes/front') });
    const own = links.map((link) => `${link}-native`);
    for (const link of own) await started(stack, peer, ['link', link]).next();
    const [pem, key, ca] = ['server.pem', 'server.key', 'ca.pem'].map((name) => join(dir, 'tls', name));
    return { peer, program, args: [pem ?? '', key ?? '', ca ?? '', 'token', String(app), ...own] };
  }

  const kib = (n: number) => `${n.toFixed(1)} KiB`;
  const mib = ({ rss, heapUsed }: Memory) => `${rss.toFixed(0)} MiB, heap ${heapUsed.toFixed(0)} MiB`;
  const promise = `<= ${PROMISED_KIB} KiB`;
  printTable(`${count} idle WebSockets on one server, ${ours.lost} lost`, [
    { what: 'resident memory each', value: kib(ours.rssKiB), promise, kept: ours.rssKiB <= PROMISED_KIB },
    { what: 'of it JavaScript heap', value: kib(ours.heapKiB) },
    { what: 'a bare TLS connection of Node', value: kib(bare.rssKiB) },
    { what: 'of it JavaScript heap', value: kib(bare.heapKiB) },
    { what: 'what the endpoint adds', value: kib(ours.rssKiB - bare.rssKiB) },
    ...(native === undefined ? [] : [{ what: 'the native front of bench/prototypes', value: kib(native.rssKiB) }]),
    { what: 'server before', value: mib(ours.before) },
    { what: 'server with all open', value: mib(ours.after) },
    { what: 'server after all closed', value: mib(ours.closed) },
  ]);
}

interface Measured {
  readonly before: Memory;
  readonly after: Memory;
  readonly closed: Memory;
  readonly rssKiB: number;
  readonly heapKiB: number;
  readonly lost: number;
}

interface Server {
  readonly program: string;
  readonly args: readonly string[];
  readonly peer: string;
}

async function measure(stack: AsyncDisposableStack, { program, args, peer }: Server, count: number): Promise<Measured> {
  const server = started(stack, program, args);
  const { endpoints, caFile } = JSON.parse(await server.next()) as Listening;
  const clients = started(stack, peer, ['hold', caFile, JSON.stringify(endpoints)]);
  const ask = (line: string) => {
    clients.say(line);
    return clients.next();
  };
  const memory = async (): Promise<Memory> => {
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    server.say('collect');
    return JSON.parse(await server.next()) as Memory;
  };
  await ask(String(Math.ceil(count / 10)));
  await ask('close');
  const before = await memory();
  await ask(String(count));
  const after = await memory();
  const lost = Number(await ask('lost'));
  await ask('close');
  const closed = await memory();
  const each = (name: keyof Memory) => ((after[name] - before[name]) * 1024) / count;
  return { before, after, closed, rssKiB: each('rss'), heapKiB: each('heapUsed'), lost };
}

/** Agrees to every upgrade and keeps it. */
async function startApp(stack: AsyncDisposableStack): Promise<number> {
  const held = new Set<Duplex>();
  const server = createServer();
  server.on('upgrade', (_request, socket: Duplex) => {
    held.add(socket);
    socket.on('error', () => {}).on('close', () => held.delete(socket));
    socket.on('end', () => socket.end()).resume();
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  stack.defer(() => {
    for (const socket of held) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

interface Started {
  say(line: string): void;
  next(): Promise<string>;
}

function started(stack: AsyncDisposableStack, program: string, args: readonly string[]): Started {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  stack.defer(async () => {
    child.kill();
    await exited;
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    say: (line) => void child.stdin.write(`${line}\n`),
    next: async () => {
      const line = await lines.next();
      if (line.done === true) throw new Error(`${program} ended`);
      return line.value;
    },
  };
}

await main(Number(process.argv[2] ?? 5000), process.argv.includes('prototype'));
