/**
 * A container registry for tests, in a process of its own on port 5000 of a namespace: OCI images of one file each, with and
 * without credentials. Says every request on its standard output and ends with its standard input.
 *
 *   nsenter … node registry.ts
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createInterface } from 'node:readline';
import type { Namespace } from './network.ts';

export const REGISTRY_PORT = 5000;
export const USER = 'reader';
export const PASSWORD = 'correct-horse-battery';
export const TOKEN = 'a-token-of-the-operator';

export interface TestRegistry {
  /** Of the one manifest that all names without `arm` have. */
  readonly digest: string;
  /** `<host> <method> <path> <status>` of all requests so far. */
  readonly requests: readonly string[];
}

/**
 * Ends with `stack`. Names: anything below `open/`, `basic/` (name and password), `bearer/` (a token), `hub/` (as a mirror of
 * others), each with the tag `1`; `open/arm:1` is for arm64 only.
 */
export async function startRegistry(stack: AsyncDisposableStack, at: Namespace): Promise<TestRegistry> {
  const [program = '', ...args] = at.command([process.execPath, import.meta.filename]);
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  stack.defer(() => ended(child));
  const lines = createInterface({ input: child.stdout });
  const [digest] = (await once(lines, 'line', { signal: AbortSignal.timeout(20_000) })) as [string];
  const requests: string[] = [];
  lines.on('line', (line) => requests.push(line));
  return { digest, requests };
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.stdin?.end();
  child.kill('SIGKILL');
  await exit;
}

interface Blob {
  readonly type: string;
  readonly bytes: Buffer;
  readonly digest: string;
}

const OCI = 'application/vnd.oci.image';

function blob(type: string, content: Buffer | object): Blob {
  const bytes = Buffer.isBuffer(content) ? content : Buffer.from(JSON.stringify(content));
  return { type, bytes, digest: `sha256:${createHash('sha256').update(bytes).digest('hex')}` };
}

const described = ({ type, bytes, digest }: Blob) => ({ mediaType: type, size: bytes.length, digest });

/** A tar of one file. */
export function tarOf(name: string, text: string): Buffer {
  const header = Buffer.alloc(512);
  header.write(name, 0);
  for (const [at, value] of [
    [100, '0000644'],
    [108, '0000000'],
    [116, '0000000'],
    [124, text.length.toString(8).padStart(11, '0')],
    [136, '00000000000'],
    [148, '        '],
    [156, '0'],
    [257, 'ustar\u000000'],
  ] as const) {
    header.write(value, at, 'latin1');
  }
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return Buffer.concat([header, Buffer.from(text.padEnd(512, '\0')), Buffer.alloc(1024)]);
}

function imageFor(architecture: string): { manifest: Blob; blobs: Blob[] } {
  const layer = blob(`${OCI}.layer.v1.tar`, tarOf('small.txt', `small for ${architecture}\n`));
  const config = blob(`${OCI}.config.v1+json`, {
    architecture,
    os: 'linux',
    config: { Env: ['OF_REGISTRY=yes'] },
    rootfs: { type: 'layers', diff_ids: [layer.digest] },
  });
  const type = `${OCI}.manifest.v1+json`;
  const manifest = blob(type, {
    schemaVersion: 2,
    mediaType: type,
    config: described(config),
    layers: [described(layer)],
  });
  return { manifest, blobs: [layer, config, manifest] };
}

function serve(): void {
  process.stdin.on('end', () => process.exit(0)).resume();
  const usual = imageFor('amd64');
  const arm = imageFor('arm64');
  const platform = { os: 'linux', architecture: 'arm64' };
  const type = `${OCI}.index.v1+json`;
  const armIndex = blob(type, {
    schemaVersion: 2,
    mediaType: type,
    manifests: [{ ...described(arm.manifest), platform }],
  });
  const blobs = new Map([...usual.blobs, ...arm.blobs, armIndex].map((one) => [one.digest, one]));

  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    const path = request.url ?? '';
    const wanted = challengeOf(path);
    if (wanted !== undefined && request.headers.authorization !== wanted.authorization) {
      response.writeHead(401, { 'www-authenticate': wanted.challenge }).end('{"errors":[{"code":"UNAUTHORIZED"}]}');
      return;
    }
    const [, name = '', kind = '', reference = ''] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/?]+)/.exec(path) ?? [];
    const tagged = name === 'open/arm' ? armIndex : usual.manifest;
    const found = kind === 'manifests' && reference === '1' && !name.endsWith('/none') ? tagged : blobs.get(reference);
    if (path === '/v2/') response.end('{}');
    else if (found === undefined) response.writeHead(404).end('{"errors":[{"code":"MANIFEST_UNKNOWN"}]}');
    else {
      const headers = { 'content-type': found.type, 'docker-content-digest': found.digest };
      response.writeHead(200, { ...headers, 'content-length': found.bytes.length });
      response.end(request.method === 'HEAD' ? undefined : found.bytes);
    }
  };
  const server = createServer((request, response) => {
    answer(request, response);
    process.stdout.write(`${request.headers.host} ${request.method} ${request.url} ${response.statusCode}\n`);
  });
  server.listen(REGISTRY_PORT, '0.0.0.0', () => process.stdout.write(`${usual.manifest.digest}\n`));
}

function challengeOf(path: string): { challenge: string; authorization: string } | undefined {
  if (path.startsWith('/v2/basic/')) {
    const secret = Buffer.from(`${USER}:${PASSWORD}`).toString('base64');
    return { challenge: 'Basic realm="test"', authorization: `Basic ${secret}` };
  }
  if (path.startsWith('/v2/bearer/')) {
    const challenge = 'Bearer realm="http://token.example.com:5000/token",service="test"';
    return { challenge, authorization: `Bearer ${TOKEN}` };
  }
  return undefined;
}

if (import.meta.main) serve();
