/**
 * Measures what loud apps cost the server: `node bench/logs.ts [MB]`.
 *
 * First the server's part alone, from the agent's bytes to both copies, without the pace: CPU time a line, which says what the pace
 * is worth. Then one real microVM whose app prints in bursts of [MB] (default 100; 0: none). Of each burst: what was kept of it
 * and how fast, the server's CPU time and memory, and how long a GetMicrovm took meanwhile beside a quiet one's.
 */
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { readLog } from '../src/guest/answers.ts';
import { silentLogger } from '../src/lib/index.ts';
import { createLogs } from '../src/logs/index.ts';
import { AppLogs } from '../src/microvms/app-log.ts';
import { type EndpointClient, endpointClient } from '../test/support/endpoint.ts';
import { type ArtifactFiles, buildImage, untilState } from '../test/support/images.ts';
import { startServer, type TestServer } from '../test/support/server.ts';
import { printTable, type Row } from './table.ts';

const QUIET_MS = 5_000;
const POLL_MS = 500;
/** Nothing more is stored for so long: the burst is over. */
const SETTLED_MS = 4_000;
const CALL_EVERY_MS = 25;
const BURST_TIMEOUT_MS = 600_000;

/** GET /<kind>/<MB> prints and answers with the bytes and lines it wrote and the seconds that took. */
const APP: ArtifactFiles = {
  Dockerfile:
    'FROM public.ecr.aws/lambda/microvms:al2023-minimal\nCOPY app.py /\nEXPOSE 8080\nCMD ["python3", "/app.py"]\n',
  'app.py': `import http.server, json, os, time

MB = 1000 * 1000
UNIT = {
    "lines": b"x" * 99 + b"\\n",
    "short": b"y\\n",
    "long": b"z" * (MB - 1) + b"\\n",
    "binary": os.urandom(MB),
    "unended": b"u" * MB,
}

def put(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        _, kind, amount = self.path.split("/")
        block = UNIT[kind] * max(1, MB // len(UNIT[kind]))
        start = time.monotonic()
        times = max(1, int(float(amount) * MB) // len(block))
        for _ in range(times):
            put(block)
        data = json.dumps({"bytes": times * len(block), "seconds": time.monotonic() - start}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, format, *args):
        pass

http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
`,
};

/** Of the log events so far; what was counted once is not looked at again. */
interface Stored {
  readonly lines: number;
  readonly bytes: number;
  readonly dropped: number;
  readonly lastId: number;
}
const NOTHING: Stored = { lines: 0, bytes: 0, dropped: 0, lastId: 0 };

async function main(): Promise<void> {
  const megabytes = Number(process.argv[2] ?? 100);
  const alone: Row[] = [];
  for (const length of [1, 100, 1_000, 16_000]) alone.push(await serversPart(length));
  printTable("Logs, the server's part alone", alone);
  if (megabytes > 0) await measureMachine(megabytes);
}

/** Lines of this length as the agent sends them, through the link's reader into the kept copy and the log events. */
async function serversPart(length: number): Promise<Row> {
  await using stack = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), 'rekindle-bench-logs-'));
  stack.defer(() => rm(folder, { recursive: true }));
  const logs = stack.use(createLogs({ file: join(folder, 'events.sqlite'), log: silentLogger }));
  const sink = logs.resumableSink('group', 'stream', 'microvm');
  let jumps = 0;
  const appLogs = new AppLogs(
    folder,
    silentLogger,
    async () => sink,
    () => 1e6 * jumps++,
  );
  const count = Math.min(100_000, Math.ceil(2e7 / length));
  const printed = Promise.withResolvers<void>();
  const before = process.cpuUsage();
  const collection = appLogs.collect({
    id: 'microvm',
    logs: async function* () {
      yield* readLog(Readable.from(pieces(count, 'x'.repeat(length))));
      printed.resolve();
    },
  });
  await printed.promise;
  await collection.stop();
  logs.flush();
  const { user, system } = process.cpuUsage(before);
  const perLine = (user + system) / count;
  return {
    what: `lines of ${length} bytes`,
    value: `${perLine.toFixed(1)} us of CPU each, ${(perLine / length).toFixed(3)} s a MB`,
  };
}

function* pieces(count: number, text: string): Generator<Buffer> {
  const PIECE_LINES = 64;
  for (let cursor = 0; cursor < count; cursor += PIECE_LINES) {
    const lines = Array.from({ length: PIECE_LINES }, (_, n) => ({
      c: cursor + n,
      t: 1_700_000_000_000,
      s: 1,
      d: text,
    }));
    yield Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  }
}

async function measureMachine(megabytes: number): Promise<void> {
  await using server = await startServer();
  const image = await buildImage(server, 'printer', APP);
  if (image.state !== 'CREATED') throw new Error(`the image is ${image.state}: ${image.stateReason}`);
  const started = await server.microvms.runMicrovm({ imageIdentifier: image.imageArn });
  const microvm = { microvmId: started.microvmId ?? '', endpoint: started.endpoint ?? '' };
  await untilState(server, microvm.microvmId, 'RUNNING');
  using client = await endpointClient(server, microvm);
  const rows: Row[] = [{ what: 'load of the host at the start', value: loadavg()[0]?.toFixed(1) ?? '?' }];
  const quiet = await callsDuring(server, microvm.microvmId, () => sleep(QUIET_MS));
  rows.push({ what: 'GetMicrovm, quiet: p50, p99', value: percentiles(quiet.calls) });
  const kinds: readonly (readonly [string, number])[] = [
    ['lines', megabytes],
    ['short', megabytes / 10],
    ['long', megabytes],
    ['binary', megabytes],
    ['unended', megabytes],
  ];
  for (const [kind, amount] of kinds) rows.push(...(await burst(server, client, microvm.microvmId, kind, amount)));
  rows.push({ what: 'logs/events.sqlite at the end', value: mb(statSync(databaseOf(server)).size) });
  rows.push({ what: 'load of the host at the end', value: loadavg()[0]?.toFixed(1) ?? '?' });
  printTable('Logs', rows);
}

async function burst(
  server: TestServer,
  client: EndpointClient,
  microvmId: string,
  kind: string,
  amount: number,
): Promise<Row[]> {
  // Begins the peak of the server's memory anew.
  writeFileSync(`/proc/${server.pid}/clear_refs`, '5');
  const before = stored(server, NOTHING);
  let now = before;
  const cpuBefore = cpuSeconds(server.pid);
  const startedAt = performance.now();
  let endedAt = startedAt;
  const { result: wrote, calls } = await callsDuring(server, microvmId, async () => {
    const answer = await client.get(`/${kind}/${amount}`, { timeoutMs: BURST_TIMEOUT_MS });
    if (answer.status !== 200) throw new Error(`${kind}: ${answer.status} ${answer.body}`);
    for (let since = performance.now(); performance.now() - since < SETTLED_MS; await sleep(POLL_MS)) {
      const { lines } = now;
      now = stored(server, now);
      if (now.lines > lines) since = endedAt = performance.now();
    }
    return JSON.parse(answer.body) as { bytes: number; seconds: number };
  });
  const [lines, bytes, dropped] = [now.lines - before.lines, now.bytes - before.bytes, now.dropped - before.dropped];
  const seconds = (endedAt - startedAt) / 1000;
  const cpu = cpuSeconds(server.pid) - cpuBefore;
  return [
    { what: `${kind}: written`, value: `${mb(wrote.bytes)} in ${wrote.seconds.toFixed(1)} s` },
    {
      what: '  kept',
      value: `${mb(bytes)}, ${lines} lines of ${lines + dropped}, ${((100 * lines) / (lines + dropped)).toFixed(1)} %`,
    },
    { what: '  stored', value: `${Math.round(lines / seconds)} lines/s, ${(bytes / 1e6 / seconds).toFixed(2)} MB/s` },
    {
      what: '  CPU of the server',
      value: `${cpu.toFixed(2)} s, ${((100 * cpu) / seconds).toFixed(0)} % of a core, ${((1e6 * cpu) / lines).toFixed(0)} us a line`,
    },
    { what: '  its memory at most (VmHWM)', value: mb(peakBytes(server.pid)) },
    { what: '  GetMicrovm beside: p50, p99', value: percentiles(calls) },
  ];
}

/** Asks the API one call after the other while `work` goes on. */
async function callsDuring<T>(
  server: TestServer,
  microvmId: string,
  work: () => Promise<T>,
): Promise<{ result: T; calls: number[] }> {
  let isOver = false;
  const working = work().finally(() => {
    isOver = true;
  });
  working.catch(() => {});
  const calls: number[] = [];
  while (!isOver) {
    const startedAt = performance.now();
    await server.microvms.getMicrovm({ microvmIdentifier: microvmId });
    calls.push(performance.now() - startedAt);
    await sleep(CALL_EVERY_MS);
  }
  return { result: await working, calls };
}

function databaseOf(server: TestServer): string {
  return join(server.stateDir, 'logs', 'events.sqlite');
}

function stored(server: TestServer, known: Stored): Stored {
  using stack = new DisposableStack();
  const database = stack.adopt(new DatabaseSync(databaseOf(server), { readOnly: true }), (open) => open.close());
  const row = database
    .prepare(
      `SELECT count(*) AS lines, coalesce(sum(octet_length(message)), 0) AS bytes, coalesce(max(id), ?) AS last,
       coalesce(sum(CASE WHEN message LIKE '[rekindle] % lines dropped' THEN CAST(substr(message, 12) AS INTEGER) END), 0)
       AS dropped FROM events WHERE id > ?`,
    )
    .get(known.lastId, known.lastId);
  return {
    lines: known.lines + Number(row?.lines),
    bytes: known.bytes + Number(row?.bytes),
    dropped: known.dropped + Number(row?.dropped),
    lastId: Number(row?.last),
  };
}

function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  // The kernel counts in hundredths.
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

function peakBytes(pid: number): number {
  return 1024 * Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
}

function mb(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function percentiles(values: readonly number[]): string {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => (sorted[Math.floor(share * (sorted.length - 1))] ?? Number.NaN).toFixed(1);
  return `${at(0.5)}, ${at(0.99)} ms`;
}

await main();
