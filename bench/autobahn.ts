/**
 * Runs the Autobahn test suite against a WebSocket echo server twice, straight and through the endpoint, and compares case by
 * case: `node bench/autobahn.ts <python2.7> [cases]`, by default all but the 216 about compression, which is opaque to us.
 *
 * The suite is `pip install autobahntestsuite==0.8.2` for CPython 2.7; `PYTHONPATH` says where, when it is not where Python
 * looks. It can set no header and trusts no private authority, so a shim adds token and TLS. What differs between the two is
 * printed and fails the run.
 */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import { promisify } from 'node:util';
import { WebSocketServer } from 'ws';
import { createFakeEngine, type Machine } from '../src/engine/index.ts';
import { createIngress } from '../src/ingress/index.ts';
import { randomIds, silentLogger, systemClock } from '../src/lib/index.ts';

const ID = 'microvm-1';
const TOKEN = 'aa..bb.cc.dd';
const MINUTES = 60_000;
const run = promisify(execFile);

interface CaseResult {
  readonly behavior: string;
  readonly behaviorClose: string;
  readonly remoteCloseCode: number | null;
}

async function main([python, ...cases]: readonly string[]): Promise<void> {
  if (python === undefined) throw new Error('usage: node bench/autobahn.ts <python2.7> [cases]');
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-autobahn-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const echo = new WebSocketServer({
    host: '127.0.0.1',
    port: 0,
    maxPayload: 64 * 1024 * 1024,
    skipUTF8Validation: false,
  });
  stack.defer(() => echo.close());
  echo.on('connection', (socket) => {
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
    socket.on('error', () => {});
  });
  await once(echo, 'listening');
  const app = (echo.address() as AddressInfo).port;
  const endpoint = await openEndpoint(stack, dir, app);
  const shim = await openShim(stack, endpoint);
  const results: Record<string, Record<string, CaseResult>> = {};
  for (const [agent, port] of [
    ['straight', app],
    ['endpoint', shim],
  ] as const) {
    const spec = join(dir, `${agent}.json`);
    const outdir = join(dir, agent);
    await writeFile(
      spec,
      JSON.stringify({
        outdir,
        servers: [{ agent, url: `ws://127.0.0.1:${port}`, options: { version: 18 } }],
        cases: cases.length > 0 ? cases : ['*'],
        'exclude-cases': cases.length > 0 ? [] : ['12.*', '13.*'],
        'exclude-agent-cases': {},
      }),
    );
    console.error(`autobahn: ${agent} ...`);
    await run(python, ['-m', 'autobahntestsuite.wstest', '-m', 'fuzzingclient', '-s', spec], {
      timeout: 30 * MINUTES,
      maxBuffer: 64 * 1024 * 1024,
    });
    const index = JSON.parse(await readFile(join(outdir, 'index.json'), 'utf8'));
    results[agent] = index[agent];
  }
  report(results.straight ?? {}, results.endpoint ?? {});
}

function report(straight: Record<string, CaseResult>, endpoint: Record<string, CaseResult>): void {
  const told = (result: CaseResult | undefined) =>
    `${result?.behavior} ${result?.behaviorClose} ${result?.remoteCloseCode}`;
  const verdicts = new Map<string, number>();
  let differences = 0;
  for (const [name, direct] of Object.entries(straight)) {
    const through = endpoint[name];
    verdicts.set(told(through), (verdicts.get(told(through)) ?? 0) + 1);
    if (told(through) === told(direct)) continue;
    differences++;
    console.log(`${name}: straight ${told(direct)}, through the endpoint ${told(through)}`);
  }
  for (const [verdict, count] of verdicts) console.log(`${String(count).padStart(4)} ${verdict}`);
  console.log(`${Object.keys(straight).length} cases, ${differences} of them different through the endpoint`);
  if (differences > 0) process.exitCode = 1;
}

/** An endpoint whose machine is this host. */
async function openEndpoint(
  stack: AsyncDisposableStack,
  dir: string,
  app: number,
): Promise<{ port: number; ca: string }> {
  const engine = stack.use(createFakeEngine({ anySnapshot: true }));
  const fake = await engine.launch({ id: ID, snapshotDir: dir }, {});
  const machine: Machine = new Proxy(fake, {
    get: (target, name) =>
      name === 'connect'
        ? async () => connect({ host: '127.0.0.1', port: app, noDelay: true })
        : Reflect.get(target, name),
  });
  const ingress = stack.use(
    await createIngress({ tlsDir: join(dir, 'tls'), clock: systemClock, ids: randomIds, log: silentLogger }),
  );
  ingress.serve({
    verifyToken: async () => ({
      kind: 'valid',
      claims: { microvmId: ID, kind: 'app', ports: 'all', expiresAt: Number.MAX_SAFE_INTEGER },
    }),
    endpointIdOf: async () => undefined,
    wake: async () => machine,
    exchange: () => ({ servedMs: 0, active: () => {}, answered: () => {}, [Symbol.dispose]: () => {} }),
    activity: () => {},
  });
  const { port } = await ingress.open({ microvmId: ID, endpointId: 'endpoint-1', port: null, memoryMiB: 2048 });
  if (port === null) throw new Error('port mode gives a port');
  return { port, ca: ingress.caPem };
}

/** Adds TLS and the token to what the suite sends. */
async function openShim(stack: AsyncDisposableStack, endpoint: { port: number; ca: string }): Promise<number> {
  const server: Server = createServer({ noDelay: true, allowHalfOpen: true }, (socket: Socket) => {
    const { port, ca } = endpoint;
    const secure = tlsConnect({ host: 'localhost', port, ca, ALPNProtocols: ['http/1.1'] });
    const cut = () => {
      socket.destroySoon();
      secure.destroySoon();
    };
    for (const side of [socket, secure]) side.on('error', cut).once('close', cut);
    let head = '';
    const onHead = (chunk: Buffer) => {
      head += chunk.toString('latin1');
      const end = head.indexOf('\r\n') + 2;
      if (!head.includes('\r\n\r\n')) return;
      socket.off('data', onHead);
      secure.write(`${head.slice(0, end)}X-aws-proxy-auth: ${TOKEN}\r\n${head.slice(end)}`, 'latin1');
      socket.pipe(secure).pipe(socket);
    };
    socket.on('data', onHead);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  stack.defer(() => void server.close());
  return (server.address() as AddressInfo).port;
}

await main(process.argv.slice(2));
