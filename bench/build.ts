/**
 * Measures builds, with where their time went: `sh scripts/with-node bench build [rounds]`.
 *
 * Each round is a server with a new state folder and builds the same image three times: with no cache of its owner's yet, again
 * without any change, and with one line of its code changed. Medians over the rounds; CPU time is that of the server and of the
 * machines it started. A digest of always the same tells how fast the machine was meanwhile: neighbours that cannot be seen can
 * make it, and all the rest, more than twice as slow.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { type ArtifactFiles, buildImage, counterApp } from '../test/support/images.ts';
import { startServer, type TestServer } from '../test/support/server.ts';
import { median, printTable, type Row, spread } from './table.ts';

const DOCKERFILE = [
  'FROM public.ecr.aws/lambda/microvms:al2023-minimal',
  'RUN python3 -m venv --without-pip /opt/venv && /opt/venv/bin/python -m compileall -q /usr/lib/python3/dist-packages || true',
  'RUN --mount=type=cache,target=/var/cache/app date >> /var/cache/app/builds && cat /var/cache/app/builds > /opt/builds',
  'WORKDIR /app',
  'COPY app.py .',
  'CMD ["python3", "-u", "app.py"]',
  '',
].join('\n');
const FILES: ArtifactFiles = { ...counterApp, Dockerfile: DOCKERFILE };
const CHANGED: ArtifactFiles = { ...FILES, 'app.py': `${FILES['app.py']}\n# changed\n` };

const KINDS = [
  { what: 'cold', files: FILES, promiseSeconds: 60 },
  { what: 'unchanged', files: FILES, promiseSeconds: 15 },
  { what: 'code changed', files: CHANGED, promiseSeconds: 20 },
] as const;

async function main(): Promise<void> {
  const rounds = Number(process.argv[2] ?? 1);
  const rows: Row[] = [{ what: 'load of the host at the start', value: loadavg()[0]?.toFixed(1) ?? '?' }];
  const took = new Map<string, number[]>();
  const cpu = new Map<string, number[]>();
  const hashes: number[] = [];
  for (let round = 0; round < rounds; round++) {
    await using server = await startServer();
    for (const [at, { what, files }] of KINDS.entries()) {
      hashes.push(hashSeconds());
      const before = cpuSeconds(server.pid);
      const image = await buildImage(server, `bench-${at}`, files);
      if (image.state !== 'CREATED') throw new Error(`the ${what} build is ${image.state}: ${image.stateReason}`);
      took.set(what, [...(took.get(what) ?? []), image.tookMs / 1000]);
      cpu.set(what, [...(cpu.get(what) ?? []), cpuSeconds(server.pid) - before]);
      console.error(`bench: ${what} ${(image.tookMs / 1000).toFixed(1)} s\n${await phasesOf(server, at + 1)}`);
    }
  }
  for (const { what, promiseSeconds } of KINDS) {
    const seconds = took.get(what) ?? [];
    const promise = { promise: `<= ${promiseSeconds} s`, kept: median(seconds) <= promiseSeconds };
    rows.push({ what: `build, ${what}`, value: spread(seconds, 's', 1), ...promise });
    rows.push({ what: `CPU time of it`, value: spread(cpu.get(what) ?? [], 's', 1) });
  }
  rows.push({ what: 'SHA-256 of 256 MiB meanwhile', value: spread(hashes, 's', 2) });
  rows.push({ what: 'load of the host at the end', value: loadavg()[0]?.toFixed(1) ?? '?' });
  printTable('Builds (medians, spread in brackets)', rows);
}

/** Not JavaScript, which is compiled now and then. */
function hashSeconds(): number {
  const startedAt = performance.now();
  for (let i = 0; i < 4; i++) createHash('sha256').update(HASHED).digest();
  return (performance.now() - startedAt) / 1000;
}

const HASHED = Buffer.alloc(64 * 1024 ** 2, 1);

/** Of the process and of all that it started, whether it has ended or waits; the kernel counts in hundredths. */
function cpuSeconds(pid: number): number {
  const parents = new Map<number, number>();
  const ticks = new Map<number, number>();
  for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    try {
      const text = readFileSync(`/proc/${name}/stat`, 'utf8');
      const words = text.slice(text.lastIndexOf(')') + 2).split(' ');
      parents.set(Number(name), Number(words[1]));
      // Its own, and of children that have ended.
      ticks.set(
        Number(name),
        words.slice(11, 15).reduce((sum, each) => sum + Number(each), 0),
      );
    } catch {
      // It ended meanwhile.
    }
  }
  const isOurs = (at: number | undefined): boolean => at === pid || (at !== undefined && isOurs(parents.get(at)));
  return [...ticks].reduce((sum, [at, each]) => (isOurs(at) ? sum + each : sum), 0) / 100;
}

/** What the newest of `count` logs says of it. */
async function phasesOf(server: TestServer, count: number): Promise<string> {
  const folder = join(server.stateDir, 'logs/builds');
  const names = await readdir(folder);
  if (names.length !== count) throw new Error(`${names.length} build logs, not ${count}`);
  const logs = await Promise.all(names.map((name) => readFile(join(folder, name), 'utf8')));
  const said = logs.map((log) => log.split('\n').filter((line) => line.includes('took: ')));
  const newest = said.find((lines) => !seen.has(lines.join('\n'))) ?? [];
  seen.add(newest.join('\n'));
  return newest.join('\n');
}

const seen = new Set<string>();

await main();
