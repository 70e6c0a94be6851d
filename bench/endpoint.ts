/**
 * Measures the endpoint beside HAProxy and nginx, in one run, in front of the same backend:
 * `node bench/endpoint.ts [requests] [latency] [bulk] [prototype]`, all parts when none is named; `prototype` has the native front of
 * `bench/prototypes` take part.
 *
 * All three speak TLS with the same certificate to the client and HTTP/1.1 to the backend, HAProxy and nginx over TCP with one
 * thread, ours through the agent's own link code on a unix socket. Requests per second per core come from the CPU time that
 * the proxy's process took, so the client and the backend, which share the machine, do not count. The proxies take turns.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { median, printTable, type Row } from './table.ts';

const PARTS = ['requests', 'latency', 'bulk'] as const;
const TURNS = 5;
const SECONDS = 5;
/** A server runs for weeks: what its compiler does in the first seconds is not what a request costs. */
const WARM_SECONDS = 12;
const CONNECTIONS = 32;
const RATE = 300;
const BULK_BYTES = 1024 ** 3;
const TICKS_PER_SECOND = 100;
const PROGRAMS = { haproxy: '/usr/sbin/haproxy', nginx: '/usr/sbin/nginx', wrk: '/usr/bin/wrk' } as const;
const run = promisify(execFile);

interface Contender {
  readonly name: string;
  readonly url: string;
  /** Whose CPU time counts. */
  readonly pid: number | undefined;
  /** Of the agent's end of the link, where there is one. */
  readonly linkPid?: number | undefined;
}

interface Around {
  readonly peer: string;
  readonly caFile: string;
  readonly token: string;
  readonly backendPid: number | undefined;
}

async function main(): Promise<void> {
  const wanted = process.argv.slice(2);
  const named = PARTS.filter((part) => wanted.includes(part));
  const parts = named.length === 0 ? PARTS : named;
  const missing = Object.entries(PROGRAMS).filter(([, path]) => !existsSync(path));
  if (missing.length > 0) {
    const names = missing.map(([name]) => name).join(' ');
    throw new Error(`this bench needs ${names}: apt-get install ${names}, and stop what that starts`);
  }
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-endpoint-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const peer = join(dir, 'peer');
  await run('go', ['build', '-o', peer, '.'], { cwd: join(import.meta.dirname, 'endpoint/peer') });

  const served = started(stack, peer, ['backend']);
  const backend = Number(await served.firstLine);
  const socket = join(dir, 'link.sock');
  const link = started(stack, peer, ['link', socket]);
  await link.firstLine;
  const ours = started(stack, process.execPath, [
    join(import.meta.dirname, 'endpoint/ingress.ts'),
    dir,
    socket,
    String(backend),
  ]);
  const { port, token, caFile } = JSON.parse(await ours.firstLine) as { port: number; token: string; caFile: string };
  const around = { peer, caFile, token, backendPid: served.child.pid };
  const contenders: Contender[] = [
    { name: 'direct', url: `http://127.0.0.1:${backend}/`, pid: undefined },
    { name: 'rekindle', url: `https://localhost:${port}/`, pid: ours.child.pid, linkPid: link.child.pid },
    await haproxy(stack, dir, backend),
    await nginx(stack, dir, backend),
    ...(wanted.includes('prototype') ? [await prototype(stack, dir, { ...around, backend })] : []),
  ];
  const rows: Row[] = [];
  if (parts.includes('requests')) rows.push(...(await measureRequests(contenders, around)));
  if (parts.includes('latency')) rows.push(...(await measureLatency(contenders, around)));
  if (parts.includes('bulk')) rows.push(...(await measureBulk(contenders, around)));
  printTable('The endpoint beside HAProxy and nginx', rows);
}

async function measureRequests(contenders: readonly Contender[], { token }: Around): Promise<Row[]> {
  const perCore = new Map<string, number[]>();
  const perSecond = new Map<string, number[]>();
  for (let turn = 0; turn <= TURNS; turn++) {
    for (const { name, url, pid } of contenders) {
      const before = await cpuSeconds(pid);
      const args = [
        '-t1',
        `-c${CONNECTIONS}`,
        `-d${turn === 0 ? WARM_SECONDS : SECONDS}s`,
        '-H',
        `X-aws-proxy-auth: ${token}`,
        url,
      ];
      const { stdout } = await run(PROGRAMS.wrk, args);
      if (/Non-2xx|Socket errors/.test(stdout)) throw new Error(`${name}: ${stdout}`);
      const count = Number(/(\d+) requests in/.exec(stdout)?.[1]);
      const used = (await cpuSeconds(pid)) - before;
      if (turn === 0) continue;
      add(perSecond, name, Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]));
      if (pid !== undefined) add(perCore, name, count / used);
    }
  }
  const ratio = of(perCore, 'rekindle') / of(perCore, 'haproxy');
  const bestRatio = best(perCore.get('rekindle') ?? []) / best(perCore.get('haproxy') ?? []);
  return [
    ...contenders.map(({ name }) => ({
      what: `requests/s with all on this machine, ${name}`,
      value: of(perSecond, name).toFixed(0),
    })),
    ...[...perCore].map(([name, values]) => ({
      what: `requests/s per core of the proxy, ${name}`,
      value: `${median(values).toFixed(0)} (best turn ${best(values).toFixed(0)})`,
    })),
    { what: 'rekindle / HAProxy', value: ratio.toFixed(2), promise: '>= 0.5', kept: ratio >= 0.5 },
    // Neighbours on the machine only ever add to what a request costs, so the best turns tell most about the proxies.
    { what: 'rekindle / HAProxy, best turns', value: bestRatio.toFixed(2) },
    { what: 'rekindle / nginx', value: (of(perCore, 'rekindle') / of(perCore, 'nginx')).toFixed(2) },
  ];
}

async function measureLatency(contenders: readonly Contender[], { peer, caFile, token }: Around): Promise<Row[]> {
  const p50 = new Map<string, number[]>();
  const p99 = new Map<string, number[]>();
  for (let turn = 0; turn < TURNS; turn++) {
    for (const { name, url } of contenders) {
      const args = ['rate', url, caFile, token, String(RATE), '8', String(SECONDS)];
      const { stdout } = await run(peer, args);
      const seen = JSON.parse(stdout) as { p50Ms: number; p99Ms: number };
      add(p50, name, seen.p50Ms);
      add(p99, name, seen.p99Ms);
    }
  }
  const added = (of: Map<string, number[]>, name: string) =>
    median(of.get(name) ?? []) - median(of.get('direct') ?? []);
  return contenders.slice(1).map(({ name }) => {
    const p99Ms = added(p99, name);
    return {
      what: `added at ${RATE} requests/s, p50 / p99, ${name}`,
      value: `${added(p50, name).toFixed(2)} / ${p99Ms.toFixed(2)} ms`,
      ...(name === 'rekindle' ? { promise: 'p99 <= 1 ms', kept: p99Ms <= 1 } : {}),
    };
  });
}

async function measureBulk(contenders: readonly Contender[], around: Around): Promise<Row[]> {
  const { peer, caFile, token, backendPid } = around;
  const rows: Row[] = [];
  const mib = BULK_BYTES / 1024 ** 2;
  for (const direction of ['down', 'up']) {
    const speed = new Map<string, number[]>();
    const perCore = new Map<string, number[]>();
    const costs = new Map<string, number[][]>();
    for (let turn = 0; turn < TURNS; turn++) {
      for (const { name, url, pid, linkPid } of contenders) {
        const all = () => Promise.all([clientSeconds(), cpuSeconds(pid), cpuSeconds(linkPid), cpuSeconds(backendPid)]);
        const before = await all();
        const { stdout } = await run(peer, [direction, url, caFile, token, String(BULK_BYTES)]);
        const used = (await all()).map((seconds, i) => seconds - (before[i] ?? 0));
        add(speed, name, (JSON.parse(stdout) as { mibPerSecond: number }).mibPerSecond);
        if (pid !== undefined) add(perCore, name, mib / (used[1] ?? 0));
        costs.set(name, [...(costs.get(name) ?? []), used]);
      }
    }
    for (const { name } of contenders) {
      const cpu = perCore.has(name) ? `, ${of(perCore, name).toFixed(0)} per core` : '';
      rows.push({ what: `bulk ${direction}, ${name}`, value: `${of(speed, name).toFixed(0)} MiB/s${cpu}` });
      const each = [0, 1, 2, 3].map((i) => (1000 * median((costs.get(name) ?? []).map((used) => used[i] ?? 0))) / mib);
      const sum = each.reduce((all, one) => all + one, 0);
      // What this machine's cores carry of it when none ever waits.
      const most = ((1000 * availableParallelism()) / sum).toFixed(0);
      rows.push({
        what: '  CPU of client, proxy, link, backend',
        value: `${each.map((ms) => ms.toFixed(2)).join(', ')} ms/MiB: at most ${most} MiB/s`,
      });
    }
    const ratio = of(speed, 'rekindle') / of(speed, 'haproxy');
    const coreRatio = of(perCore, 'rekindle') / of(perCore, 'haproxy');
    rows.push({
      what: `bulk ${direction}, rekindle / HAProxy; per core`,
      value: `${ratio.toFixed(2)}; ${coreRatio.toFixed(2)}`,
      promise: '>= 0.8',
      kept: ratio >= 0.8,
    });
  }
  return rows;
}

async function haproxy(stack: AsyncDisposableStack, dir: string, backend: number): Promise<Contender> {
  const port = await freePort();
  const pem = await readFile(join(dir, 'server.pem'), 'utf8');
  await writeFile(join(dir, 'haproxy.pem'), pem + (await readFile(join(dir, 'server.key'), 'utf8')), { mode: 0o600 });
  await writeFile(
    join(dir, 'haproxy.cfg'),
    `global
  nbthread 1
  maxconn 1000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  bind 127.0.0.1:${port} ssl crt ${dir}/haproxy.pem alpn http/1.1
  default_backend app
backend app
  server app 127.0.0.1:${backend}
`,
  );
  const { child } = started(stack, PROGRAMS.haproxy, ['-db', '-f', join(dir, 'haproxy.cfg')]);
  await reachable(port);
  return { name: 'haproxy', url: `https://localhost:${port}/`, pid: child.pid };
}

async function nginx(stack: AsyncDisposableStack, dir: string, backend: number): Promise<Contender> {
  const port = await freePort();
  await writeFile(
    join(dir, 'nginx.conf'),
    `daemon off;
master_process off;
pid ${dir}/nginx.pid;
error_log stderr error;
events { worker_connections 1000; }
http {
  access_log off;
  client_body_temp_path ${dir}/body; proxy_temp_path ${dir}/proxy; fastcgi_temp_path ${dir}/f; uwsgi_temp_path ${dir}/u; scgi_temp_path ${dir}/s;
  client_max_body_size 0;
  keepalive_requests 100000000;
  upstream app { server 127.0.0.1:${backend}; keepalive 64; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:${port} ssl;
    ssl_certificate ${dir}/server.pem;
    ssl_certificate_key ${dir}/server.key;
    location / {
      proxy_pass http://app;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_request_buffering off;
      proxy_buffering off;
    }
  }
}
`,
  );
  const { child } = started(stack, PROGRAMS.nginx, ['-c', join(dir, 'nginx.conf'), '-p', dir]);
  await reachable(port);
  return { name: 'nginx', url: `https://localhost:${port}/`, pid: child.pid };
}

async function prototype(
  stack: AsyncDisposableStack,
  dir: string,
  { backend, peer, token, caFile }: Around & { backend: number },
): Promise<Contender> {
  const front = join(dir, 'front');
  await run('go', ['build', '-o', front, '.'], { cwd: join(import.meta.dirname, 'prototypes/front') });
  const link = join(dir, 'prototype.sock');
  const agent = started(stack, peer, ['link', link]);
  await agent.firstLine;
  const certificate = [join(dir, 'server.pem'), join(dir, 'server.key'), caFile];
  const { child, firstLine } = started(stack, front, [...certificate, token, String(backend), link]);
  const { endpoints } = JSON.parse(await firstLine) as { endpoints: readonly { port: number }[] };
  return {
    name: 'prototype',
    url: `https://localhost:${endpoints[0]?.port}/`,
    pid: child.pid,
    linkPid: agent.child.pid,
  };
}

/** A program that ends with the stack, and its first line. */
function started(
  stack: AsyncDisposableStack,
  program: string,
  args: readonly string[],
): { child: ChildProcess; firstLine: Promise<string> } {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  stack.defer(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGTERM');
    await ended;
  });
  const ended = once(child, 'exit').then(() => Promise.reject(new Error(`${program} ended`)));
  ended.catch(() => {});
  const line = once(createInterface(child.stdout), 'line').then(([text]) => String(text));
  line.catch(() => {});
  const firstLine = Promise.race([line, ended]);
  firstLine.catch(() => {});
  return { child, firstLine };
}

/** User and system time of a process, its threads included. */
async function cpuSeconds(pid: number | undefined): Promise<number> {
  if (pid === undefined) return 0;
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** Of the clients that have ended, which are all that this process starts and waits for in between. */
async function clientSeconds(): Promise<number> {
  const stat = await readFile('/proc/self/stat', 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[13]) + Number(fields[14])) / TICKS_PER_SECOND;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  if (typeof address !== 'object' || address === null) throw new Error('no port');
  return address.port;
}

async function reachable(port: number): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const socket = connect(port, '127.0.0.1');
    const ok = await once(socket, 'connect').then(
      () => true,
      () => false,
    );
    socket.destroy();
    if (ok) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`nothing listens on ${port}`);
}

function add(to: Map<string, number[]>, name: string, value: number): void {
  to.set(name, [...(to.get(name) ?? []), value]);
}

function best(values: readonly number[]): number {
  return Math.max(...values);
}

function of(values: Map<string, number[]>, name: string): number {
  return median(values.get(name) ?? []);
}

await main();
