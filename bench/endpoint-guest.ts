/**
 * A real guest through the endpoint, beside what the bare link to it carries: `node_modules/.bin/node bench/endpoint-guest.ts [MiB]`, after
 * set-up. Bare is a stream of the link in the same process, without ingress, TLS and a client beside it. The two take turns; the
 * ratio is of each turn, because the guest's speed is the neighbours' doing.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { median, printTable, type Row } from './table.ts';

const TURNS = 5;
const SECONDS = 5;
const GUEST_BYTES = Number(process.argv[2] ?? 32) * 1024 ** 2;
const GUEST_CONNECTIONS = 4;
const WRK = '/usr/bin/wrk';
const run = promisify(execFile);

async function main(): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-endpoint-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const peer = join(dir, 'peer');
  await run('go', ['build', '-o', peer, '.'], { cwd: join(import.meta.dirname, 'endpoint/peer') });
  const guest = spawn(process.execPath, [join(import.meta.dirname, 'endpoint/guest.ts'), dir], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  stack.defer(async () => {
    if (guest.exitCode !== null) return;
    const ended = once(guest, 'exit');
    guest.stdin.end();
    await ended;
  });
  const lines = createInterface(guest.stdout)[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error('the guest ended');
    return JSON.parse(value) as Record<string, number>;
  };
  const { port, token, caFile } = (await next()) as unknown as { port: number; token: string; caFile: string };
  const url = `https://localhost:${port}/`;
  const bare = async (line: string, field: string) => {
    guest.stdin.write(`${line}\n`);
    return (await next())[field] ?? Number.NaN;
  };
  const seen = new Map<string, [bare: number, endpoint: number][]>();
  for (let turn = 0; turn < TURNS; turn++) {
    for (const what of ['down', 'up']) {
      const alone = await bare(`${what} ${GUEST_BYTES}`, 'mibPerSecond');
      const { stdout } = await run(peer, [what, url, caFile, token, String(GUEST_BYTES)]);
      const { mibPerSecond } = JSON.parse(stdout) as { mibPerSecond: number };
      const name = `bulk ${what}, MiB/s`;
      seen.set(name, [...(seen.get(name) ?? []), [alone, mibPerSecond]]);
    }
    const alone = await bare(`requests ${GUEST_CONNECTIONS} ${SECONDS}`, 'perSecond');
    const auth = `X-aws-proxy-auth: ${token}`;
    const { stdout } = await run(WRK, ['-t1', `-c${GUEST_CONNECTIONS}`, `-d${SECONDS}s`, '-H', auth, url]);
    const perSecond = Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]);
    seen.set('requests/s', [...(seen.get('requests/s') ?? []), [alone, perSecond]]);
  }
  const rows: Row[] = [...seen].map(([name, turns]) => {
    const ratio = median(turns.map(([alone, endpoint]) => endpoint / alone));
    const both = [0, 1].map((i) => median(turns.map((turn) => turn[i] ?? 0)).toFixed(name === 'requests/s' ? 0 : 1));
    return {
      what: `a real guest, ${name}: bare link, endpoint`,
      value: `${both.join(', ')} (${ratio.toFixed(2)} turn by turn)`,
      promise: '>= 0.9',
      kept: ratio >= 0.9,
    };
  });
  printTable('A real guest through the endpoint', rows);
}

await main();
