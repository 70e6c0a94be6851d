/**
 * Runs every check and test and ends with the line `N passed, N failed`; the exit code says the same.
 *
 *   node scripts/test.ts [--fast]        --fast leaves out the tests on real machines
 */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { globSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { availableParallelism, homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { AGENT_EXPERIMENT, findGo, goEnvironment } from './setup/toolchain.ts';
import { runGoTests } from './testing/go-tests.ts';
import { waitForNone } from './testing/leftovers.ts';
import { runNodeTests } from './testing/node-tests.ts';
import { type Outcome, sum, type Voice } from './testing/outcome.ts';
import { setUpPythonClients } from './testing/python-clients.ts';

const UNIT_FILES = ['src/**/*.test.ts', 'test/*.test.ts', 'test/support/**/*.test.ts', 'spec/**/*.test.ts'];
const SCRIPT_FILES = ['scripts/**/*.test.ts', 'bench/**/*.test.ts'];
const CONTRACT_FILES = ['test/contract/**/*.test.ts'];
const VM_FILES = ['test/vm/**/*.test.ts'];
/** A guest has one busy vCPU most of the time; what waits for one file leaves room for another. */
const VM_FILES_AT_ONCE = 2;

const repoDir = dirname(import.meta.dirname);
const voice: Voice = {
  say: (line) => void process.stdout.write(`test: ${line}\n`),
  report: (text) => void process.stdout.write(`\nFAILED ${text.trimEnd()}\n\n`),
};

async function main(args: readonly string[]): Promise<number> {
  const unknown = args.find((argument) => argument !== '--fast');
  if (unknown !== undefined) {
    process.stderr.write(`test: unknown argument ${unknown}; usage: npm test -- [--fast]\n`);
    return 2;
  }
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => controller.abort(new Error('interrupted')));
  }
  const { signal } = controller;
  process.chdir(repoDir);
  // Children inherit both; leftovers of this run are told by them.
  const mark = `REKINDLE_TEST_RUN=${randomUUID()}`;
  const temporary = await mkdtemp(join(tmpdir(), 'rk-'));
  process.env.REKINDLE_TEST_RUN = mark.slice(mark.indexOf('=') + 1);
  process.env.TMPDIR = temporary;

  const outcomes: Outcome[] = [];
  const part = async (name: string, work: () => Promise<Outcome>) => {
    if (signal.aborted) return;
    const startedAt = performance.now();
    voice.say(`${name} ...`);
    const outcome = await work().catch((error: unknown): Outcome => {
      voice.report(`${name}\n${error instanceof Error ? error.message : String(error)}`);
      return { passed: 0, failed: 1, skipped: 0 };
    });
    outcomes.push(outcome);
    const skipped = outcome.skipped === 0 ? '' : `, ${outcome.skipped} skipped`;
    const seconds = ((performance.now() - startedAt) / 1_000).toFixed(1);
    voice.say(`${name} ... ${outcome.passed} passed, ${outcome.failed} failed${skipped}, ${seconds} s`);
  };
  const node = (name: string, globs: readonly string[], concurrency: number, timeoutMs: number) =>
    part(name, () => {
      const files = globSync([...globs]).sort();
      return runNodeTests({ name, files, concurrency, timeoutMs, signal, voice, nameFiles: name === 'vm' });
    });

  const bin = join(repoDir, 'node_modules/.bin');
  await part('types', () => check(join(bin, 'tsc'), ['--noEmit'], { signal }));
  await part('lint', () => check(join(bin, 'biome'), ['check', '--error-on-warnings'], { signal }));
  await goParts(part, signal);
  const parallel = Math.max(2, availableParallelism());
  await node('unit', UNIT_FILES, parallel, 120_000);
  await node('scripts', SCRIPT_FILES, parallel, 120_000);
  await setUpPythonClients({ env: process.env, signal, say: voice.say }).catch((error: unknown) =>
    voice.say(`python clients: ${error instanceof Error ? error.message : String(error)}`),
  );
  await node('contract', CONTRACT_FILES, parallel, 300_000);
  if (!args.includes('--fast')) await node('vm', VM_FILES, VM_FILES_AT_ONCE, 1_200_000);
  await part('nothing left behind', () => checkLeftovers(mark, temporary));

  const total = sum(outcomes);
  const failed = signal.aborted ? total.failed + 1 : total.failed;
  if (signal.aborted) voice.report('interrupted before the end');
  if (total.skipped > 0) voice.say(`${total.skipped} skipped`);
  process.stdout.write(`${total.passed} passed, ${failed} failed\n`);
  return failed === 0 ? 0 : 1;
}

async function goParts(
  part: (name: string, work: () => Promise<Outcome>) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const cacheDir =
    process.env.REKINDLE_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'rekindle');
  const common = goEnvironment(process.env, cacheDir);
  const go = await findGo({ env: process.env, cacheDir, signal });
  for (const module of ['agent', 'gateway', 'scripts/tsc']) {
    const moduleDir = join(repoDir, module);
    const env = { ...common, ...(module === 'agent' && { GOEXPERIMENT: AGENT_EXPERIMENT }) };
    await part(`go vet (${module})`, () => check(needed(go), ['vet', './...'], { cwd: moduleDir, env, signal }));
    await part(`go test (${module})`, () => runGoTests(needed(go), moduleDir, { env, signal, voice }));
  }
}

function needed(go: string | undefined): string {
  if (go === undefined) throw new Error('Go is missing. Run: npm run setup');
  return go;
}

/** One check that is a program's exit code. */
function check(
  program: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv; signal: AbortSignal },
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, [...args], { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text;
      });
    }
    child.once('error', reject);
    child.once('close', (code) => {
      if (code !== 0) voice.report(`${program} ${args.join(' ')}\n${output.slice(-16_384)}`);
      resolve({ passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, skipped: 0 });
    });
  });
}

/** No process and no temporary file may outlive the run. What is found is reported, then ended and removed. */
async function checkLeftovers(mark: string, temporary: string): Promise<Outcome> {
  const processes = await waitForNone({ mark, folder: temporary }, 3_000);
  for (const { pid, command } of processes) {
    voice.report(`a process outlived the tests: ${pid} ${command}`);
    endGroup(pid);
  }
  const files = await readdir(temporary);
  if (files.length > 0) voice.report(`temporary files outlived the tests: ${files.slice(0, 10).join(', ')}`);
  await rm(temporary, { recursive: true, force: true });
  const clean = processes.length === 0 && files.length === 0;
  return { passed: clean ? 1 : 0, failed: clean ? 0 : 1, skipped: 0 };
}

/** What started a confined process leads its group; what is inside does not know of the run. */
function endGroup(pid: number): void {
  for (const target of [-pid, pid]) {
    try {
      process.kill(target, 'SIGKILL');
    } catch {
      // gone, or leads no group
    }
  }
}

process.exitCode = await main(process.argv.slice(2));
