/** Runs files of node:test tests, each in a process of its own with a time limit, and counts what they report. */
import { run } from 'node:test';
import { inspect } from 'node:util';
import { NOTHING, type Outcome, sum, type Voice } from './outcome.ts';

export interface NodeTestsOptions {
  readonly files: readonly string[];
  /** How many files at a time. */
  readonly concurrency: number;
  /** For one file from start to exit: a file that leaves a handle open would otherwise stay for good. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  readonly voice: Voice;
  readonly name: string;
  /** Name each file when it is done, for slow ones; else a line now and then. */
  readonly nameFiles: boolean;
}

const PROGRESS_MS = 10_000;

export async function runNodeTests(options: NodeTestsOptions): Promise<Outcome> {
  const outcomes: Outcome[] = [];
  const queue = [...options.files];
  let saidAt = performance.now();
  const work = async () => {
    for (let file = queue.shift(); file !== undefined && !options.signal.aborted; file = queue.shift()) {
      const startedAt = performance.now();
      const outcome = await runFile(file, options);
      outcomes.push(outcome);
      if (options.nameFiles) {
        const seconds = ((performance.now() - startedAt) / 1_000).toFixed(1);
        options.voice.say(`${options.name}: ${file}: ${outcome.passed} passed, ${outcome.failed} failed, ${seconds} s`);
      } else if (performance.now() - saidAt > PROGRESS_MS) {
        saidAt = performance.now();
        options.voice.say(`${options.name}: ${outcomes.length} of ${options.files.length} files ...`);
      }
    }
  };
  await Promise.all(Array.from({ length: options.concurrency }, work));
  return sum(outcomes);
}

/** Only tests count, not the suites and files around them. */
async function runFile(file: string, options: NodeTestsOptions): Promise<Outcome> {
  const counts = { ...NOTHING } as { passed: number; failed: number; skipped: number };
  const limit = AbortSignal.timeout(options.timeoutMs);
  const stream = run({ files: [file], concurrency: 1, signal: AbortSignal.any([options.signal, limit]) });
  let stderr = '';
  for await (const { type, data } of stream) {
    if (type === 'test:stderr') {
      stderr = (stderr + data.message).slice(-4_096);
    } else if (type === 'test:pass' && !isContainer(data)) {
      if (data.skip !== undefined || data.todo !== undefined) counts.skipped++;
      else counts.passed++;
    } else if (type === 'test:fail' && isFailure(data) && !limit.aborted) {
      counts.failed++;
      // A file that fails as a whole says why on its standard error.
      options.voice.report(`${file}: ${data.name}\n${isContainer(data) ? stderr : describe(data.details.error)}`);
    }
  }
  if (limit.aborted) {
    counts.failed++;
    options.voice.report(`${file}: did not end within ${options.timeoutMs / 1_000} s; was a handle left open?`);
  }
  return counts;
}

interface Ended {
  readonly name: string;
  readonly file?: string;
  readonly nesting: number;
  readonly details: { readonly type?: string; readonly error?: unknown };
}

/** A suite, or the entry node:test makes for a whole file. */
function isContainer(data: Ended): boolean {
  return data.details.type === 'suite' || (data.nesting === 0 && data.file !== undefined && data.name === data.file);
}

/**
 * Of a failed test inside a suite only the test counts; a suite or file counts when it failed by itself, e.g. did not
 * load or ran over its time.
 */
function isFailure(data: Ended): boolean {
  const error = data.details.error;
  const kind = error instanceof Error && 'failureType' in error ? error.failureType : undefined;
  return kind !== 'subtestsFailed';
}

function describe(error: unknown): string {
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
  return inspect(cause, { depth: 4 }).split('\n').slice(0, 40).join('\n');
}
