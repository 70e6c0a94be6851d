import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, get, type IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { createIdentity } from '../../identity/index.ts';
import { DomainError, silentLogger } from '../../lib/index.ts';
import { answerExtension, type ExtensionRequest, type ExtensionRooms } from './extensions.ts';

interface Listening extends AsyncDisposable {
  ask(path: string, method?: string): Promise<{ status: number; body: string }>;
  url(path: string): string;
}

const everything: ExtensionRequest = { body: Buffer.alloc(0), demand: () => {} };

async function serve(rooms: Partial<ExtensionRooms>, asked = everything): Promise<Listening> {
  const all: ExtensionRooms = {
    images: { buildLog: () => refuse(), rebuild: noMicrovm },
    microvms: { get: noMicrovm, logs: () => refuse() },
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
  await using server = await serve({}, { body: Buffer.alloc(0), demand });
  const paths = ['images/arn%3Ax/versions/1.0/build-log', 'microvms/m-1/logs', 'host'];
  for (const path of paths) {
    assert.deepEqual(await server.ask(`/rekindle/v1/${path}`), { status: 403, body: '{"message":"No."}' }, path);
  }
  assert.deepEqual(asked, [
    ['rekindle:GetBuildLog', 'arn:x'],
    ['rekindle:GetMicrovmLogs', undefined],
    ['rekindle:GetHost', '*'],
  ]);
});
