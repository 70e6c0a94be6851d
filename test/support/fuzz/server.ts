/**
 * The server that is fuzzed, in a process of its own: the real ingress and microVMs room over fake machines whose app tells
 * its own id, so that a request in the wrong place shows. Speaks with its parent over IPC.
 */
import type { FakeApp } from '../../../src/engine/index.ts';
import { createEndpoints, type Endpoint } from '../../../src/test-endpoints.ts';

/** From the fuzzed server. */
export type Report =
  | { readonly kind: 'ready'; readonly endpoints: readonly Endpoint[]; readonly ca: string; readonly foreign: string }
  | { readonly kind: 'facts'; readonly facts: Facts };

export interface Facts {
  readonly heapMiB: number;
  readonly rssMiB: number;
  readonly files: number;
  readonly connections: number;
  /** What must never be: requests at another microVM's app, without admission, or made of the bytes of another. */
  readonly violations: readonly string[];
  /** By the case that they say they belong to. */
  readonly requests: Readonly<Record<string, number>>;
  readonly crashes: readonly string[];
}

const MICROVMS = 3;
const SETTLE_MS = 20;
const violations: string[] = [];
const crashes: string[] = [];
let requests: Record<string, number> = {};

const app: FakeApp = (guest) => (request, response) => {
  const name = String(request.headers['x-case'] ?? '');
  const meant = request.headers['x-vm'];
  // What a mutation made of an id is nobody's; that of another is.
  const others = endpoints.filter(({ id }) => id !== guest.id && String(meant).includes(id));
  if (others.length > 0) violations.push(`${guest.id} got ${request.method} ${request.url} meant for ${meant}`);
  if (request.url?.includes('smuggled')) violations.push(`${guest.id} got ${request.method} ${request.url} in ${name}`);
  const leaked = request.rawHeaders.find((header) => /^x-aws-proxy-|lambda-microvms/i.test(header));
  if (leaked !== undefined) violations.push(`${guest.id} saw ${leaked.slice(0, 40)} in ${name}`);
  requests[name] = (requests[name] ?? 0) + 1;
  let length = 0;
  request.on('data', (chunk: Buffer) => {
    length += chunk.length;
  });
  request.on('error', () => {});
  request.once('end', () => response.end(JSON.stringify({ vm: guest.id, case: name, length })));
};

process.on('uncaughtException', (error) => void crashes.push(String(error.stack)));
process.on('unhandledRejection', (error) => void crashes.push(`unhandled: ${String(error)}`));
process.on('warning', (warning) => {
  if (warning.name === 'MaxListenersExceededWarning') crashes.push(String(warning.stack));
});

const b = await createEndpoints({ engine: { app }, limits: { headersMs: 1500, keepAliveMs: 500, silentMs: 4000 } });
const endpoints: Endpoint[] = [];
for (let i = 0; i < MICROVMS; i++) endpoints.push(await b.run());
const elsewhere = await createEndpoints();
const foreign = (await elsewhere.run()).token;
await elsewhere[Symbol.asyncDispose]();

const say = (report: Report) => process.send?.(report);

process.on('message', (asked) => {
  if (asked === 'stop') return void b[Symbol.asyncDispose]().then(() => process.disconnect?.());
  void facts().then((found) => say({ kind: 'facts', facts: found }));
});

async function facts(): Promise<Facts> {
  const collect = globalThis.gc;
  // Two collections, with what the first one freed having had its say.
  for (let i = 0; i < 2; i++) {
    collect?.();
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  }
  const { heapUsed, external, rss } = process.memoryUsage();
  const open = process.getActiveResourcesInfo();
  const seen = requests;
  requests = {};
  return {
    heapMiB: (heapUsed + external) / 2 ** 20,
    rssMiB: rss / 2 ** 20,
    files: open.filter((name) => /Wrap|Handle/.test(name)).length,
    connections: open.filter((name) => name === 'TCPSocketWrap').length,
    violations: [...violations],
    requests: seen,
    crashes: [...crashes],
  };
}

say({ kind: 'ready', endpoints, ca: b.ingress.caPem, foreign });
