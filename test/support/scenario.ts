/**
 * Scenarios: what a client does and must see, as data, so that every client runs the same. A step is one call; `$name` in its
 * parameters and expectations stands for what an earlier step saved.
 */
import assert from 'node:assert/strict';
import { sleep } from '../../src/lib/index.ts';
import type { Limits } from './api-bench.ts';
import type { Client, Service } from './clients.ts';

export interface Scenario {
  readonly name: string;
  readonly limits?: Limits;
  readonly steps: readonly Step[];
}

export interface Step {
  readonly call: string;
  /** Default `lambda-microvms`. */
  readonly service?: Service;
  readonly with?: Readonly<Record<string, unknown>>;
  readonly pageSize?: number;
  /** Members the output must have; lists must be equal in length, objects may have more. */
  readonly sees?: Readonly<Record<string, unknown>>;
  /** Asked again until the output has these members. */
  readonly until?: Readonly<Record<string, unknown>>;
  /** Asked again until it is refused so. */
  readonly untilFails?: string;
  readonly fails?: { readonly name: string; readonly message?: string };
  /** Names for members of the output, by dotted path. */
  readonly save?: Readonly<Record<string, string>>;
}

const PATIENCE_MS = 30_000;
const PAUSE_MS = 25;

/** Which services a scenario needs. */
export function servicesOf({ steps }: Scenario): Set<Service> {
  return new Set(steps.map((step) => step.service ?? 'lambda-microvms'));
}

export async function playScenario({ steps }: Scenario, client: Client): Promise<void> {
  const saved = new Map<string, unknown>();
  for (const [index, step] of steps.entries()) {
    try {
      await playStep(step, client, saved);
    } catch (error) {
      throw new Error(`step ${index + 1}, ${step.call}: ${error instanceof Error ? error.message : String(error)}`, {
        cause: error,
      });
    }
  }
}

async function playStep(step: Step, client: Client, saved: Map<string, unknown>): Promise<void> {
  const params = filled(step.with ?? {}, saved) as Record<string, unknown>;
  const { service = 'lambda-microvms', pageSize } = step;
  const ask = () => client.call({ service, operation: step.call, params, ...(pageSize !== undefined && { pageSize }) });
  const giveUpAt = performance.now() + PATIENCE_MS;
  for (;;) {
    const outcome = await ask();
    const isLate = performance.now() > giveUpAt;
    if (step.fails !== undefined || step.untilFails !== undefined) {
      if (step.untilFails !== undefined && 'output' in outcome && !isLate) {
        await sleep(PAUSE_MS);
        continue;
      }
      assert.ok('error' in outcome, `succeeded with ${JSON.stringify(outcome)}`);
      assert.equal(outcome.error.name, step.fails?.name ?? step.untilFails, outcome.error.message);
      if (step.fails?.message !== undefined) assert.equal(outcome.error.message, filled(step.fails.message, saved));
      return;
    }
    assert.ok('output' in outcome, `refused with ${JSON.stringify(outcome)}`);
    if (step.until !== undefined && !isLate && !has(outcome.output, filled(step.until, saved))) {
      await sleep(PAUSE_MS);
      continue;
    }
    const wanted = filled({ ...step.until, ...step.sees }, saved);
    assert.ok(has(outcome.output, wanted), `saw ${JSON.stringify(outcome.output)}\nwanted ${JSON.stringify(wanted)}`);
    for (const [name, path] of Object.entries(step.save ?? {})) saved.set(name, at(outcome.output, path));
    return;
  }
}

/** Whether `value` has everything `wanted` has. */
function has(value: unknown, wanted: unknown): boolean {
  if (Array.isArray(wanted)) {
    return Array.isArray(value) && value.length === wanted.length && wanted.every((one, at) => has(value[at], one));
  }
  if (typeof wanted === 'object' && wanted !== null) {
    if (typeof value !== 'object' || value === null) return false;
    const members = value as Record<string, unknown>;
    return Object.entries(wanted).every(([name, inner]) => has(members[name], inner));
  }
  // Clients leave out what is null.
  return value === wanted || (wanted === null && value === undefined);
}

function filled(value: unknown, saved: ReadonlyMap<string, unknown>): unknown {
  if (typeof value === 'string') {
    const whole = /^\$(\w+)$/.exec(value)?.[1];
    if (whole !== undefined) return known(whole, saved);
    return value.replace(/\$\{(\w+)\}/g, (_, name: string) => String(known(name, saved)));
  }
  if (Array.isArray(value)) return value.map((one) => filled(one, saved));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [String(filled(name, saved)), filled(inner, saved)]),
  );
}

function known(name: string, saved: ReadonlyMap<string, unknown>): unknown {
  assert.ok(saved.has(name), `nothing was saved as ${name}`);
  return saved.get(name);
}

function at(value: unknown, path: string): unknown {
  return path
    .split('.')
    .reduce<unknown>((inner, name) => (inner as Record<string, unknown> | undefined)?.[name], value);
}
