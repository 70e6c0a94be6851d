/**
 * What a microVM feels of a neighbour that takes all it can get: p50 and p99 of its answers, quiet and beside hogs of CPU, memory,
 * disk and network. `node bench/neighbours.ts [kinds]`. Quiet and loud rounds alternate, so that a drift of the machine
 * falls on both.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type EndpointClient, endpointClient } from '../test/support/endpoint.ts';
import { type ArtifactFiles, buildImage, counterApp } from '../test/support/images.ts';
import { startServer, type TestServer } from '../test/support/server.ts';
import { printTable, type Row } from './table.ts';

const KINDS = ['cpu', 'memory', 'disk', 'network'] as const;
const ROUNDS = 5;
const REQUESTS = 120;
const PAUSE_MS = 10;

/** Hogs until told to stop: each request to /hog/<kind> starts processes, /quiet ends them. */
const hogApp: ArtifactFiles = {
  ...counterApp,
  'app.py': `import http.server, multiprocessing, os, socket, time

hogs = []

def cpu():
    while True:
        pass

def memory():
    held = []
    while True:
        try:
            held.append(bytearray(os.urandom(1024 * 1024) * 64))
        except MemoryError:
            held.clear()
        if len(held) > 24:
            held.clear()

def disk():
    block = os.urandom(1024 * 1024)
    while True:
        with open("/app/hog", "wb") as file:
            for _ in range(256):
                file.write(block)
            os.fsync(file.fileno())

def network():
    while True:
        try:
            socket.create_connection(("192.0.0.1", 9), timeout=1).close()
        except OSError:
            pass
        try:
            socket.getaddrinfo("hog.invalid", 80)
        except OSError:
            pass

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/hog/"):
            work = {"cpu": cpu, "memory": memory, "disk": disk, "network": network}[self.path[5:]]
            for _ in range(2 * os.cpu_count()):
                hog = multiprocessing.Process(target=work, daemon=True)
                hog.start()
                hogs.append(hog)
        elif self.path == "/quiet":
            for hog in hogs:
                hog.kill()
                hog.join()
            hogs.clear()
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
`,
};

async function main(): Promise<void> {
  const wanted = process.argv.slice(2);
  const kinds = wanted.length === 0 ? KINDS : KINDS.filter((kind) => wanted.includes(kind));
  await using server = await startServer();
  const image = await buildImage(server, 'neighbours', hogApp);
  if (image.state !== 'CREATED') throw new Error(`the image is ${image.state}: ${image.stateReason}`);
  await using stack = new AsyncDisposableStack();
  const victim = await launch(server, image.imageArn, stack);
  const hog = await launch(server, image.imageArn, stack);
  await answers(victim);
  const rows: Row[] = [];
  for (const kind of kinds) {
    const quiet: number[] = [];
    const loud: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      quiet.push(...(await answers(victim)));
      await ask(hog, `/hog/${kind}`);
      await delay(1000);
      loud.push(...(await answers(victim)));
      await ask(hog, '/quiet');
      await delay(500);
    }
    const ratio = quantile(loud, 0.99) / quantile(quiet, 0.99);
    rows.push(
      { what: `quiet, before ${kind}: p50, p99`, value: both(quiet) },
      { what: `beside a hog of ${kind}: p50, p99`, value: both(loud) },
      { what: `p99 beside a hog of ${kind} against quiet`, value: ratio.toFixed(2), promise: '<= 2', kept: ratio <= 2 },
    );
  }
  printTable('Neighbours', rows);
}

async function launch(server: TestServer, imageArn: string, stack: AsyncDisposableStack): Promise<EndpointClient> {
  const { microvmId = '', endpoint = '' } = await server.microvms.runMicrovm({ imageIdentifier: imageArn });
  stack.defer(async () => void (await server.microvms.terminateMicrovm({ microvmIdentifier: microvmId })));
  const client = await endpointClient(server, { microvmId, endpoint });
  stack.defer(() => client[Symbol.dispose]());
  await ask(client, '/');
  return client;
}

async function ask(client: EndpointClient, path: string): Promise<number> {
  const startedAt = performance.now();
  const answer = await client.get(path);
  if (answer.status !== 200) throw new Error(`${path} answered ${answer.status}: ${answer.body}`);
  return performance.now() - startedAt;
}

async function answers(client: EndpointClient): Promise<number[]> {
  const tookMs: number[] = [];
  for (let i = 0; i < REQUESTS; i++) {
    tookMs.push(await ask(client, '/'));
    await delay(PAUSE_MS);
  }
  return tookMs;
}

function quantile(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN;
}

function both(values: readonly number[]): string {
  return `${quantile(values, 0.5).toFixed(1)} ms, ${quantile(values, 0.99).toFixed(1)} ms`;
}

await main();
