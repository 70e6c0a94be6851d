/**
 * Runs h2spec, the conformance suite for HTTP/2, against the endpoint's HTTP/2: `node bench/h2spec.ts [cases]`, e.g. `http2/6.5`.
 * Needs Go, which builds the suite from the version pinned in `bench/h2spec`.
 *
 * The suite can send no token, so the front stands here behind TLS by itself, in front of the same forwarding, and lets
 * everybody in. A failure that is not listed below fails the run, and so does one that is listed and no longer happens.
 */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createFakeEngine } from '../src/engine/index.ts';
import { openAuthority } from '../src/ingress/authority.ts';
import type { Arrival } from '../src/ingress/doors.ts';
import { forward } from '../src/ingress/forward.ts';
import { Http2Front } from '../src/ingress/http2/front.ts';
import { DEFAULT_LIMITS } from '../src/ingress/limits.ts';
import { Terminator } from '../src/ingress/terminator.ts';
import { Upstreams } from '../src/ingress/upstream.ts';
import { randomIds, silentLogger, systemClock } from '../src/lib/index.ts';

const run = promisify(execFile);
const MINUTES = 60_000;
const ID = 'microvm-1';

const CLOSED = 'RFC 9113 §5.1 lets frames on closed streams be dropped';
/** The suite tests RFC 7540. What differs is decided in Node and nghttp2, and harms nobody. */
const EXPECTED: Readonly<Record<string, string>> = {
  'http2/5.1: closed: Sends a DATA frame after sending RST_STREAM frame': CLOSED,
  'http2/5.1: closed: Sends a HEADERS frame after sending RST_STREAM frame': CLOSED,
  'http2/5.1: closed: Sends a DATA frame': CLOSED,
  'http2/5.1: closed: Sends a HEADERS frame': CLOSED,
  'http2/5.1.1: Sends stream identifier that is numerically smaller than previous':
    'nghttp2 drops it, since it may be the trailers of a stream that was reset',
  'http2/5.3.1: Sends PRIORITY frame that depend on itself': 'RFC 9113 §5.3.2 does away with priorities',
  'http2/6.3: Sends a PRIORITY frame with 0x0 stream identifier': 'RFC 9113 §5.3.2 does away with priorities',
  'http2/6.7: Sends a PING frame with ACK': 'Node ends a connection that answers pings nobody sent',
  'http2/6.9.1: Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream':
    'Node ends the connection, not only the stream',
};
/** The app takes so long, so that streams are still open when the suite sends what they must refuse. */
const ANSWER_MS = 100;

async function main(cases: readonly string[]): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-h2spec-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const suite = join(dir, 'h2spec');
  await run('go', ['build', '-o', suite, 'github.com/summerwind/h2spec/cmd/h2spec'], {
    cwd: join(import.meta.dirname, 'h2spec'),
    timeout: 5 * MINUTES,
  });
  const port = await openFront(stack, dir);
  const report = join(dir, 'report.xml');
  const options = ['-t', '-k', '-h', 'localhost', '-p', String(port), '--timeout', '3', '-j', report];
  // It ends with 1 when a case failed.
  await run(suite, [...options, ...cases], { timeout: 10 * MINUTES }).catch((error: unknown) => {
    if ((error as { code?: unknown }).code !== 1) throw error;
  });
  judge(await readFile(report, 'utf8'), cases.length === 0);
}

/** The front behind TLS, whose every request reaches an app that reads it and answers. */
async function openFront(stack: AsyncDisposableStack, dir: string): Promise<number> {
  const [clock, log, limits] = [systemClock, silentLogger, DEFAULT_LIMITS];
  const app = () => (request: IncomingMessage, response: ServerResponse) => {
    request.resume().once('end', () => clock.after(ANSWER_MS, () => response.end('hello')));
  };
  const engine = stack.use(createFakeEngine({ anySnapshot: true, app }));
  const machine = await engine.launch({ id: ID, snapshotDir: dir }, {});
  const upstreams = stack.use(new Upstreams(clock));
  const exchange = () => ({
    servedMs: Number.MAX_SAFE_INTEGER,
    active: () => {},
    answered: () => {},
    [Symbol.dispose]: () => {},
  });
  const microvms = { wake: async () => machine, activity: () => {}, exchange };
  const front = new Http2Front({
    limits,
    clock,
    log,
    take: (client) =>
      void forward(
        client,
        { microvmId: ID, port: 8080, requestId: randomIds.uuid() },
        { microvms, upstreams, clock, log },
      ),
    refuse: (client, status) => {
      client.head({ status, reason: '', headers: [], bodyLength: 0 });
      client.end([]);
    },
  });
  const tls = await openAuthority(join(dir, 'tls'), { clock, ids: randomIds });
  const fronts = { h2: front.take.bind(front), 'http/1.1': (socket: Socket) => void socket.destroy() };
  const terminator = stack.use(new Terminator(fronts, { tls, limits, log }));
  const anywhere: Arrival = { admits: () => true, destinationOf: () => ({ kind: 'microvm', microvmId: ID }) };
  const server = createServer((socket) =>
    terminator.take(
      socket.on('error', () => {}),
      anywhere,
    ),
  );
  stack.defer(() => void server.close());
  server.listen({ host: 'localhost', port: 0 });
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

function judge(report: string, isWhole: boolean): void {
  const failures = new Map<string, string>();
  let count = 0;
  for (const [, section, title, rest = ''] of report.matchAll(CASE)) {
    count += 1;
    if (/<(?:failure|error)/.test(rest)) failures.set(`${section}: ${unescaped(title ?? '')}`, rest);
  }
  const surprises = [...failures.keys()].filter((name) => EXPECTED[name] === undefined);
  const mended = isWhole ? Object.keys(EXPECTED).filter((name) => !failures.has(name)) : [];
  for (const name of surprises) console.log(`FAILED ${name}\n${failures.get(name)}`);
  for (const name of mended) console.log(`PASSED unexpectedly: ${name}`);
  for (const [name, why] of Object.entries(EXPECTED)) if (failures.has(name)) console.log(`expected: ${name} (${why})`);
  console.log(
    `${count} cases, ${count - failures.size} passed, ${failures.size - surprises.length} failed as expected`,
  );
  if (count === 0 || surprises.length > 0 || mended.length > 0) process.exitCode = 1;
}

function unescaped(text: string): string {
  return text.replaceAll('&#34;', '"').replaceAll('&amp;', '&');
}

/** `ClassName` of the report is the case's title, `package` its section. */
const CASE = /<testcase package="([^"]*)" classname="([^"]*)"[^>]*?(?:\/>|>([\s\S]*?)<\/testcase>)/g;

await main(process.argv.slice(2));
