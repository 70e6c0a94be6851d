/** The other side of `remote-engine.ts`: an engine that does what its parent asks, until the parent is gone. */
import { mkdir, rm, utimes, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { loadConfig } from '../../src/config.ts';
import {
  createEngine,
  type Egress,
  type Engine,
  loadRuntime,
  type Machine,
  openRegistries,
} from '../../src/engine/index.ts';
import { createLogger, messageOf, randomIds, systemClock } from '../../src/lib/index.ts';
import type { Answer, Built, Calls, Question, Setting } from './remote-engine.ts';

const PORT = 8080;
const APP = `
import contextlib, http.server, io, traceback
variables = {}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        code = self.rfile.read(int(self.headers['content-length'])).decode()
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            try: exec(compile(code, 'test', 'exec'), variables)
            except BaseException: traceback.print_exc(file=out)
        body = out.getvalue().encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('127.0.0.1', ${PORT}), Handler).serve_forever()
`;

let engine: Engine;
let stateDir: string;
const machines = new Map<string, Machine>();
const { cacheDir } = loadConfig({}, process.env);
const runtime = loadRuntime(cacheDir);

const calls: Calls = {
  async open(setting: Setting) {
    ({ stateDir } = setting);
    const log = createLogger('debug');
    const { network, registriesFile } = setting;
    const registries = registriesFile === undefined ? {} : { registries: await openRegistries(registriesFile, log) };
    const common = { runtime, stateDir, cacheDir, log, clock: systemClock, ids: randomIds };
    engine = await createEngine({ ...common, network, ...registries });
  },
  async build(dockerfile, egress) {
    return (await build({ Dockerfile: Buffer.from(dockerfile) }, egress)).log;
  },
  async buildContext(files, egress) {
    const decoded = Object.entries(files).map(([name, text]) => [name, Buffer.from(text, 'base64')] as const);
    return build(Object.fromEntries(decoded), egress);
  },
  async seal(capabilities, egress) {
    const config = {
      entrypoint: ['python3', '-c'],
      cmd: [APP],
      env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin'],
      workingDir: '/',
      user: '',
      exposedPorts: [],
    };
    await mkdir(path.dirname(snapshotDir()), { recursive: true });
    await engine.seal(
      {
        buildId: 'seal',
        disk: { diskPath: runtime.base.disk, config, usedBytes: 0 },
        config,
        capabilities,
        memoryMiB: 512,
        readiness: { kind: 'listening', port: PORT, graceMs: 60_000 },
        snapshotDir: snapshotDir(),
        ...given(egress),
        onLog() {},
      },
      {},
    );
  },
  launch: (id, egress) => timed(id, () => engine.launch({ id, snapshotDir: snapshotDir(), ...given(egress) }, {})),
  resume: (id, egress) => timed(id, () => engine.resume({ id, snapshotDir: snapshotDir(), ...given(egress) }, {})),
  async suspend(id) {
    await machineOf(id).suspend({});
  },
  end: (id) => engine.destroy(id),
  setEgress: (id, egress) => engine.setEgress(id, egress),
  async flows(id) {
    return Array.fromAsync(engine.flows(id, {}));
  },
  async python(id, code) {
    const stream = await machineOf(id).connect(PORT, {});
    return new Promise((resolve, reject) => {
      const body = Buffer.from(code);
      request(
        { createConnection: () => stream, method: 'POST', headers: { 'content-length': body.length } },
        (response) => void buffer(response).then((bytes) => resolve(bytes.toString()), reject),
      )
        .on('error', reject)
        .end(body);
    });
  },
  async close() {
    await engine[Symbol.asyncDispose]();
  },
};

/** Many a program that makes archives gives everything one time. */
const ARCHIVED = new Date('1980-01-01');

async function build(files: Readonly<Record<string, Buffer>>, egress: Egress | null): Promise<Built> {
  const work = path.join(stateDir, 'build');
  const contextDir = path.join(work, 'context');
  for (const [name, bytes] of Object.entries(files)) {
    const file = path.join(contextDir, name);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, bytes);
    await utimes(file, ARCHIVED, ARCHIVED);
  }
  let log = '';
  const onLog = (chunk: Buffer) => {
    log += chunk.toString();
  };
  const request = { buildId: 'build', contextDir, cacheOwner: 'test', outDir: path.join(work, 'out'), onLog };
  try {
    const { config } = await engine.build({ ...request, ...given(egress) }, {});
    return { log, config };
  } catch (error) {
    return { log: `${log}${messageOf(error)}\n`, config: null };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function timed(id: string, start: () => Promise<Machine>): Promise<number> {
  const startedAt = performance.now();
  machines.set(id, await start());
  return performance.now() - startedAt;
}

function machineOf(id: string): Machine {
  const machine = machines.get(id);
  if (machine === undefined) throw new Error(`no machine ${id}`);
  return machine;
}

function snapshotDir(): string {
  return path.join(stateDir, 'images/test/1.0/snapshot');
}

function given(egress: Egress | null): { egress?: Egress } {
  return egress === null ? {} : { egress };
}

process.on('message', ({ id, call, args }: Question) => {
  const work = calls[call] as (...args: readonly unknown[]) => Promise<unknown>;
  const answer = (message: Answer) => process.connected && process.send?.(message);
  work(...args).then(
    (result) => answer({ id, result }),
    (error: unknown) => answer({ id, error: messageOf(error) }),
  );
});
// The parent died: nothing may outlive the test.
process.once('disconnect', () => {
  engine[Symbol.asyncDispose]().then(
    () => process.exit(0),
    () => process.exit(1),
  );
});
