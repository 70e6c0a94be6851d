import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, get, type IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { createIdentity } from '../../identity/index.ts';
import { DomainError, silentLogger } from '../../lib/index.ts';
import type { FlowRecord } from '../../microvms/index.ts';
import { answerExtension, type ExtensionRequest, type ExtensionRooms } from './extensions.ts';

interface Listening extends AsyncDisposable {
  ask(path: string, method?: string): Promise<{ status: number; body: string }>;
  url(path: string): string;
}

const everything: ExtensionRequest = { body: Buffer.alloc(0), demand: () => {}, demandOn: async () => {} };

async function serve(rooms: Partial<ExtensionRooms>, asked = everything): Promise<Listening> {
  const all: ExtensionRooms = {
    images: { buildLog: () => refuse(), rebuild: noMicrovm },
    upkeep: noUpkeep,
    microvms: { get: noMicrovm, logs: () => refuse(), flows: () => refuse() },
    drain: { drain: noMicrovm, undrain: () => {}, drainStatus: noMicrovm },
    tokens: { rotateTokenKey: noMicrovm },
    connectors: { domains: noMicrovm, setDomains: noMicrovm },
    identity: createIdentity({ account: '000000000000', rootKeys: [] }),
    host: () => ({ accelerator: 'tcg' }),
    ...rooms,
  };
  const server = createServer((request, response) => void answerExtension(request, response, all, asked, silentLogger));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  const url = (path: string) => `http://127.0.0.1:${address.port}${path}`;
  return {
    url,
    ask: async (path, method = 'GET') => {
      const response = await fetch(url(path), { method });
      return { status: response.status, body: await response.text() };
    },
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function noMicrovm(): Promise<never> {
  throw new DomainError('NOT_FOUND', 'There is no such thing.');
}

const noUpkeep: ExtensionRooms['upkeep'] = {
  diskUse: noMicrovm,
  collectGarbage: noMicrovm,
  exportVersion: () => refuse(),
  provenance: noMicrovm,
  importVersion: noMicrovm,
  reseal: noMicrovm,
};

// biome-ignore lint/correctness/useYield: a stream that fails before its first piece
async function* refuse(): AsyncGenerator<never> {
  throw new DomainError('NOT_FOUND', 'There is no such thing.');
}

test('a build log is passed on as bytes, for the image and version in the path', async () => {
  const asked: unknown[] = [];
  await using server = await serve({
    images: {
      rebuild: noMicrovm,
      async *buildLog(arn, version, { follow }) {
        asked.push(arn, version, follow);
        yield Buffer.from('#1 [1/2] ');
        yield Buffer.from('FROM base\n');
      },
    },
  });
  const path = '/rekindle/v1/images/arn%3Aaws%3Alambda%3Ax/versions/1.0/build-log';
  assert.deepEqual(await server.ask(`${path}?follow=true`), { status: 200, body: '#1 [1/2] FROM base\n' });
  assert.deepEqual(asked, ['arn:aws:lambda:x', '1.0', true]);
});

test("an app's output is one JSON document a line, from a cursor on", async () => {
  await using server = await serve({
    microvms: {
      get: noMicrovm,
      flows: () => refuse(),
      async *logs(_id, { cursor = 0 }) {
        yield { cursor, at: 5, stream: 'stdout', text: 'hello' };
      },
    },
  });
  const { body } = await server.ask('/rekindle/v1/microvms/microvm-1/logs?cursor=7');
  assert.equal(body, '{"cursor":7,"at":5,"stream":"stdout","text":"hello"}\n');
});

test('what is not there, not allowed or malformed has its status and a sentence', async () => {
  await using server = await serve({});
  const cases: [path: string, method: string, status: number][] = [
    ['/rekindle/v1/microvms/microvm-1/logs', 'GET', 404],
    ['/rekindle/v1/nothing', 'GET', 404],
    ['/rekindle/v1/host', 'POST', 405],
    ['/rekindle/v1/images/a/versions/1.0/rebuild', 'GET', 405],
    ['/rekindle/v1/images/a/versions/1.0/rebuild', 'POST', 404],
    ['/rekindle/v1/microvms/x/logs?follow=maybe', 'GET', 400],
    ['/rekindle/v1/microvms/x/logs?cursor=-1', 'GET', 400],
    ['/rekindle/v1/microvms/%zz/logs', 'GET', 400],
  ];
  for (const [path, method, status] of cases) {
    const answer = await server.ask(path, method);
    assert.equal(answer.status, status, path);
    assert.equal(typeof JSON.parse(answer.body).message, 'string');
  }
  assert.deepEqual(await server.ask('/rekindle/v1/host'), { status: 200, body: '{"accelerator":"tcg"}' });
});

test('a stream that fails half way is cut, and one whose client goes is ended', async () => {
  const arrived = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  await using server = await serve({
    images: {
      rebuild: noMicrovm,
      async *buildLog() {
        yield Buffer.from('half');
        await arrived.promise;
        throw new Error('disk gone');
      },
    },
    microvms: {
      get: noMicrovm,
      flows: () => refuse(),
      async *logs(_id, { signal }) {
        yield { cursor: 0, at: 0, stream: 'stdout', text: 'first' };
        await new Promise((resolve) => signal?.addEventListener('abort', resolve, { once: true }));
        ended.resolve();
      },
    },
  });
  const log = get(server.url('/rekindle/v1/images/a/versions/1.0/build-log'));
  const [cut]: IncomingMessage[] = await once(log, 'response');
  assert.ok(cut);
  arrived.resolve();
  await assert.rejects(text(cut), /aborted/);

  const follower = get(server.url('/rekindle/v1/microvms/m/logs?follow=true'));
  const [following]: IncomingMessage[] = await once(follower, 'response');
  following?.on('error', () => {});
  follower.destroy();
  await ended.promise;
});

test('nothing is answered to who may not see it, and reading logs is a right on the image', async () => {
  const asked: unknown[] = [];
  const demand = (action: string, resource: string | undefined) => {
    asked.push([action, resource]);
    throw new DomainError('DENIED', 'No.');
  };
  const demandOn = async (action: string, resource: string | undefined) => demand(action, resource);
  await using server = await serve({}, { body: Buffer.alloc(0), demand, demandOn });
  const paths = [
    'images/arn%3Ax/versions/1.0/build-log',
    'microvms/m-1/logs',
    'host',
    'microvms/m-1/flows',
    'network-connectors/nc-1/domains',
  ];
  for (const path of paths) {
    assert.deepEqual(await server.ask(`/rekindle/v1/${path}`), { status: 403, body: '{"message":"No."}' }, path);
  }
  assert.deepEqual(asked, [
    ['rekindle:GetBuildLog', 'arn:x'],
    ['rekindle:GetMicrovmLogs', undefined],
    ['rekindle:GetHost', '*'],
    ['lambda:GetMicrovm', undefined],
    ['lambda:GetNetworkConnector', undefined],
  ]);
});

const common = {
  at: '2027-01-01T00:00:00.000Z',
  guest: 'm',
  principal: 'p',
  imageArn: 'arn:x',
  imageVersion: '1.0',
} as const;
const judged = { rule: null, reason: null, durationMs: 1 } as const;
const flow = {
  ...judged,
  kind: 'flow',
  protocol: 'tcp',
  to: '192.0.2.1:443',
  name: null,
  bytesOut: 1,
  bytesIn: 1,
} as const;
const query = { ...judged, kind: 'dns', name: 'a.example', type: 'A', answers: [] } as const;
const RECORDS: readonly FlowRecord[] = [
  { ...common, ...flow, verdict: 'allowed' },
  { ...common, ...flow, verdict: 'refused' },
  { ...common, ...query, verdict: 'allowed' },
  { ...common, ...query, verdict: 'refused' },
  { ...common, kind: 'drop', what: 'fragment', count: 1 },
  { ...common, kind: 'suppressed', count: 7 },
];

test('flows are answered as they were written, all or those asked for, and a gap is always told', async () => {
  await using server = await serve({
    microvms: {
      get: noMicrovm,
      logs: () => refuse(),
      async *flows() {
        yield* RECORDS;
      },
    },
  });
  const asked = async (query: string) => {
    const { status, body } = await server.ask(`/rekindle/v1/microvms/m/flows${query}`);
    assert.equal(status, 200);
    const lines = body.trimEnd().split('\n');
    return lines.map((line) => RECORDS.findIndex((record) => JSON.stringify(record) === line));
  };
  assert.deepEqual(await asked(''), [0, 1, 2, 3, 4, 5]);
  assert.deepEqual(await asked('?refused=true'), [1, 3, 4, 5]);
  assert.deepEqual(await asked('?kind=dns'), [2, 3, 5]);
  assert.deepEqual(await asked('?kind=flow&refused=true'), [1, 5]);
  for (const query of ['?refused=yes', '?kind=drop', '?follow=1']) {
    assert.equal((await server.ask(`/rekindle/v1/microvms/m/flows${query}`)).status, 400, query);
  }
});

test('disk use is asked of an image or of everything; what is to go is said in full and no more', async () => {
  const calls: unknown[] = [];
  const demanded: string[] = [];
  const space = { bytes: 0, apparentBytes: 0 };
  const rooms: Partial<ExtensionRooms> = {
    upkeep: {
      ...noUpkeep,
      diskUse: async (arn) => {
        calls.push(arn);
        return { total: space, images: [], microvms: [], fileSystem: { bytes: 0, freeBytes: 0 } };
      },
      collectGarbage: async (request) => {
        calls.push(request);
        return { dryRun: request.dryRun, files: [], versions: [], left: [], total: space };
      },
    },
  };
  const ask = async (body: string, path: string, method: string) => {
    await using server = await serve(rooms, {
      ...everything,
      body: Buffer.from(body),
      demand: (action, resource) => void demanded.push(`${action} ${resource}`),
    });
    return (await server.ask(path, method)).status;
  };
  assert.equal(await ask('', '/rekindle/v1/disk', 'GET'), 200);
  assert.equal(await ask('', '/rekindle/v1/disk?image=arn%3Aa', 'GET'), 200);
  const gc = '/rekindle/v1/images/gc';
  assert.equal(await ask('', gc, 'POST'), 200);
  assert.equal(await ask('{"dryRun":true,"keep":2,"olderThanDays":30}', gc, 'POST'), 200);
  for (const wrong of ['[]', 'x', '{"keep":-1}', '{"keep":1.5}', '{"keep":"2"}', '{"dryRun":1}', '{"dryrun":true}']) {
    assert.equal(await ask(wrong, gc, 'POST'), 400, wrong);
  }
  assert.equal(await ask('', gc, 'GET'), 405);
  assert.deepEqual(calls, [
    undefined,
    'arn:a',
    { dryRun: false, keep: undefined, olderThanDays: undefined },
    { dryRun: true, keep: 2, olderThanDays: 30 },
  ]);
  assert.deepEqual(demanded.slice(0, 3), [
    'rekindle:GetDiskUse *',
    'rekindle:GetDiskUse arn:a',
    'rekindle:CollectGarbage *',
  ]);
});

test('an import names the digest of its manifest, is allowed as a create is, and its refusal is read by who still sends', async () => {
  const demanded: string[] = [];
  const seen: unknown[] = [];
  const digest = 'ab'.repeat(32);
  const rooms: Partial<ExtensionRooms> = {
    upkeep: {
      ...noUpkeep,
      importVersion: async (source, { accept, ...request }) => {
        for await (const chunk of source) if (chunk.length > 0) break;
        seen.push(request, await accept({ name: 'shop' }, 'arn:shop'));
        throw new DomainError('CAPACITY', 'The disk is full.');
      },
    },
  };
  const content = async function* () {
    for (let piece = 0; piece < 64; piece++) yield Buffer.alloc(65_536, 1);
  };
  await using server = await serve(rooms, {
    ...everything,
    content: content(),
    demand: (action, resource) => void demanded.push(`${action} ${resource}`),
    checkOperation: async (name, input) => {
      demanded.push(name);
      return input as never;
    },
  });
  const path = '/rekindle/v1/images/import';
  const answered = await server.ask(`${path}?manifest=${digest}&name=shop&egress=arn%3Aa&egress=arn%3Ab`, 'POST');
  assert.deepEqual([answered.status, JSON.parse(answered.body)], [503, { message: 'The disk is full.' }]);
  assert.deepEqual(seen, [
    { name: 'shop', egressNetworkConnectors: ['arn:a', 'arn:b'], manifestDigest: digest },
    { name: 'shop' },
  ]);
  assert.deepEqual(demanded, ['rekindle:ImportMicrovmImageVersion arn:shop', 'CreateMicrovmImage']);
  for (const wrong of ['', '?manifest=abc', `?manifest=${digest.toUpperCase()}`]) {
    assert.equal((await server.ask(path + wrong, 'POST')).status, 400);
  }
  assert.equal((await server.ask(path, 'GET')).status, 405);
});
