/**
 * Thousands of broken, doubtful and sound connections against the endpoint of a real server process: nothing crashes, nothing is
 * left behind, no request reaches a microVM it was not meant for, and bytes that could be one request or two are never two.
 * `REKINDLE_LONG_TESTS=1` plays 10,000 cases instead of 1,500; `REKINDLE_FUZZ_SEED` other ones.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect } from 'node:tls';
import { type Case, makeCase } from './support/fuzz/cases.ts';
import type { Facts, Report } from './support/fuzz/server.ts';

const CASES = process.env.REKINDLE_LONG_TESTS === '1' ? 10_000 : 1500;
const SEED = Number(process.env.REKINDLE_FUZZ_SEED ?? 20_260_601);
const AT_ONCE = 16;
/** Longer than any limit of the server: what still stands then hangs. */
const PATIENCE_MS = 20_000;
const server = join(import.meta.dirname, 'support/fuzz/server.ts');

test(`${CASES} cases of fuzz harm nobody (seed ${SEED})`, { timeout: 600_000 }, async () => {
  const child = spawn(process.execPath, ['--expose-gc', server], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  await using _child = { [Symbol.asyncDispose]: () => end(child) };
  const ready = await reportOf(child);
  assert.ok(ready.kind === 'ready');
  const { endpoints, ca, foreign } = ready;

  const failures: string[] = [];
  const requests = new Map<string, number>();
  const cases = new Map<string, Case>();
  const play = async (index: number) => {
    const { made, vm } = makeCase(index, SEED, endpoints, foreign);
    cases.set(made.name, made);
    const answer = await talk(made, vm.port, ca);
    if (answer === 'hangs') return void failures.push(`${made.name} hangs`);
    const seen = answer.split(`"case":"${made.name}"`).length - 1;
    for (const [, id] of answer.matchAll(/"vm":"([^"]+)"/g)) {
      if (id !== vm.id) failures.push(`${made.name} was answered by ${id}, not ${vm.id}`);
    }
    if (made.isSound && seen !== made.atMost)
      failures.push(`${made.name}: ${seen} of ${made.atMost} answers: ${answer.slice(0, 300)}`);
    if (made.refusal !== undefined && !made.refusal.test(answer))
      failures.push(`${made.name}: ${answer.slice(0, 100)}`);
  };
  const check = async (): Promise<Facts> => {
    const facts = await ask(child);
    for (const [name, count] of Object.entries(facts.requests)) requests.set(name, (requests.get(name) ?? 0) + count);
    return facts;
  };

  const warmUp = Math.floor(CASES / 3);
  await all(0, warmUp, play);
  const before = await check();
  await all(warmUp, CASES, play);
  const after = await check();

  assert.deepEqual(after.crashes, []);
  assert.deepEqual(after.violations, []);
  assert.deepEqual(failures, []);
  for (const [name, count] of requests) {
    const made = cases.get(name);
    // A mutated request may name a case that is none.
    if (made !== undefined)
      assert.ok(count <= made.atMost, `${name}: ${count} requests reached an app, of at most ${made.atMost}`);
  }
  assert.ok(
    after.connections <= before.connections + AT_ONCE,
    `${after.connections} connections stay, ${before.connections} before`,
  );
  const grownMiB = after.heapMiB - before.heapMiB;
  assert.ok(grownMiB < 16, `the heap grew by ${grownMiB.toFixed(1)} MiB`);
  console.log(
    `${requests.size} cases reached an app; heap ${before.heapMiB.toFixed(1)} to ${after.heapMiB.toFixed(1)} MiB, ` +
      `RSS ${before.rssMiB.toFixed(0)} to ${after.rssMiB.toFixed(0)} MiB, connections ${before.connections} to ${after.connections}`,
  );
});

async function all(from: number, to: number, play: (index: number) => Promise<void>): Promise<void> {
  let next = from;
  const worker = async () => {
    while (next < to) await play(next++);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

/** Everything the server answered until it closed or, for a sound case, until all answers came. */
function talk({ protocol, pieces, isSound, atMost, name }: Case, port: number, ca: string): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  const socket = connect({ host: 'localhost', port, ca, ALPNProtocols: [protocol] });
  let answer = '';
  const timer = setTimeout(() => {
    socket.destroy();
    resolve('hangs');
  }, PATIENCE_MS);
  socket.on('error', () => {});
  socket.once('close', () => {
    clearTimeout(timer);
    resolve(answer);
  });
  socket.on('data', (chunk: Buffer) => {
    answer += chunk.toString('latin1');
    if (isSound && answer.split(`"case":"${name}"`).length > atMost) socket.end();
  });
  void (async () => {
    for (const piece of pieces) {
      if (socket.destroyed) return;
      socket.write(piece);
      await new Promise(setImmediate);
    }
    // The end of what this client has to say; who waits for more may give up at once.
    if (!isSound) socket.end();
  })();
  return promise;
}

async function reportOf(child: ChildProcess): Promise<Report> {
  const exited = once(child, 'exit').then(([code]) => assert.fail(`the server ended with ${code}`));
  const [report] = (await Promise.race([once(child, 'message'), exited])) as [Report];
  return report;
}

async function ask(child: ChildProcess): Promise<Facts> {
  const answer = reportOf(child);
  child.send('facts');
  const report = await answer;
  assert.ok(report.kind === 'facts');
  return report.facts;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  if (child.connected) child.send('stop');
  const timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MS);
  await exited;
  clearTimeout(timer);
}
