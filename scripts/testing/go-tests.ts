/** Counts the tests of a Go module from the event stream of `go test -json` (cmd/test2json). */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Outcome, Voice } from './outcome.ts';

interface GoEvent {
  readonly Action: string;
  readonly Package?: string;
  readonly Test?: string;
  readonly Output?: string;
}

/** Takes events one by one; a package that fails without a failed test (it did not build) counts as one failure. */
export class GoTestCounter {
  #passed = 0;
  #failed = 0;
  #skipped = 0;
  readonly #output = new Map<string, string>();
  readonly #packagesWithFailure = new Set<string>();
  readonly #failures: string[] = [];

  take(line: string): void {
    const event = parse(line);
    if (event === undefined) return;
    const key = `${event.Package ?? ''} ${event.Test ?? ''}`.trim();
    if (event.Action === 'output' || event.Action === 'build-output') {
      this.#output.set(key, ((this.#output.get(key) ?? '') + (event.Output ?? '')).slice(-8_192));
    } else if (event.Action === 'fail' || event.Action === 'pass' || event.Action === 'skip') {
      this.#end(event, key);
    }
  }

  #end(event: GoEvent, key: string): void {
    const ofTest = event.Test !== undefined;
    if (ofTest && event.Action === 'pass') this.#passed++;
    if (ofTest && event.Action === 'skip') this.#skipped++;
    if (event.Action === 'fail' && (ofTest || !this.#packagesWithFailure.has(event.Package ?? ''))) {
      this.#failed++;
      this.#packagesWithFailure.add(event.Package ?? '');
      this.#failures.push(`${key}\n${this.#output.get(key) ?? ''}`);
    }
    this.#output.delete(key);
  }

  get outcome(): Outcome {
    return { passed: this.#passed, failed: this.#failed, skipped: this.#skipped };
  }

  get failures(): readonly string[] {
    return this.#failures;
  }
}

/** Runs `go test` of a module. */
export async function runGoTests(
  go: string,
  moduleDir: string,
  options: { env: NodeJS.ProcessEnv; signal: AbortSignal; voice: Voice },
): Promise<Outcome> {
  const child = spawn(go, ['test', '-json', './...'], {
    cwd: moduleDir,
    env: options.env,
    signal: options.signal,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-8_192);
  });
  const ended = new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? 1));
  });
  ended.catch(() => {});
  const counter = new GoTestCounter();
  for await (const line of createInterface({ input: child.stdout })) counter.take(line);
  const code = await ended;
  for (const failure of counter.failures) options.voice.report(failure);
  if (code !== 0 && counter.outcome.failed === 0) {
    options.voice.report(`go test: exit code ${code}\n${stderr}`);
    return { ...counter.outcome, failed: 1 };
  }
  return counter.outcome;
}

function parse(line: string): GoEvent | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    return JSON.parse(line) as GoEvent;
  } catch {
    return undefined;
  }
}
