/**
 * gRPC through the endpoint to a real microVM: the official client and server for Node, over HTTP/2 in the clear behind TLS.
 * An image of its own, so not in every run.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import { type ArtifactFiles, buildImage, untilState } from '../support/images.ts';
import { repository, startServer, type TestServer } from '../support/server.ts';

const skip = process.env.REKINDLE_LONG_TESTS === undefined && 'builds an image: REKINDLE_LONG_TESTS=1 runs it';
const PORT = 50_051;
const DEADLINE_MS = 120_000;
/** What the server needs of npm, as it is installed here. */
const PACKAGES = ['@grpc/grpc-js', '@js-sdsl/ordered-map'];

const app = `const grpc = require('@grpc/grpc-js');
const text = { serialize: (value) => Buffer.from(value), deserialize: (bytes) => bytes.toString() };
const method = (name, requestStream, responseStream) => ({ path: '/test.Echo/' + name, requestStream, responseStream,
  requestSerialize: text.serialize, requestDeserialize: text.deserialize, responseSerialize: text.serialize, responseDeserialize: text.deserialize });
let calls = 0;
const server = new grpc.Server();
server.addService({ unary: method('Unary', false, false), chat: method('Chat', true, true) }, {
  unary(call, done) {
    const tail = new grpc.Metadata();
    tail.set('x-calls', String(++calls));
    done(null, 'echo ' + call.request, tail);
  },
  chat(call) {
    call.on('data', (part) => call.write('heard ' + part));
    call.on('end', () => call.end());
  },
});
server.bindAsync('127.0.0.1:${PORT}', grpc.ServerCredentials.createInsecure(), (error) => { if (error) throw error; });
`;

function artifact(): ArtifactFiles {
  const files: Record<string, string> = {
    Dockerfile: `FROM node:26\nWORKDIR /app\nCOPY . .\nEXPOSE ${PORT}\nCMD ["node", "app.cjs"]\n`,
    'app.cjs': app,
  };
  for (const name of PACKAGES) {
    const root = join(repository, 'node_modules', name);
    for (const path of readdirSync(root, { recursive: true, encoding: 'utf8' })) {
      if (/(^package|build\/src\/.*|dist\/cjs\/.*)\.js(on)?$/.test(path)) {
        files[`node_modules/${name}/${path}`] = readFileSync(join(root, path), 'utf8');
      }
    }
  }
  return files;
}

const toBytes = (value: string) => Buffer.from(value);
const toText = (bytes: Buffer) => bytes.toString();

describe('gRPC to a real microVM', { skip }, () => {
  let server: TestServer;
  let imageArn: string;

  before(async () => {
    server = await startServer();
    const image = await buildImage(server, 'grpc', artifact());
    assert.equal(image.state, 'CREATED', `${image.stateReason}\n${server.log()}`);
    imageArn = image.imageArn;
  });
  after(() => server[Symbol.asyncDispose]());

  test('calls of all kinds pass with trailers, and one to a suspended microVM is held and answered once', async () => {
    const { microvmId = '', endpoint = '' } = await server.microvms.runMicrovm({
      imageIdentifier: imageArn,
      idlePolicy: { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 900, autoResumeEnabled: true },
    });
    const { authToken = {} } = await server.microvms.createMicrovmAuthToken({
      microvmIdentifier: microvmId,
      expirationInMinutes: 60,
      allowedPorts: [{ port: PORT }],
    });
    const metadata = new Metadata();
    const headers = { ...authToken, 'x-aws-proxy-port': String(PORT), 'x-aws-proxy-force-h2': 'true' };
    for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
    const ca = readFileSync(server.env.NODE_EXTRA_CA_CERTS ?? '');
    const client = new Client(endpoint, credentials.createSsl(ca));
    const unary = (text: string) => {
      const { promise, resolve, reject } = Promise.withResolvers<{ answer: string; calls: string; tookMs: number }>();
      const startedAt = performance.now();
      let answer = '';
      const options = { deadline: Date.now() + DEADLINE_MS };
      const call = client.makeUnaryRequest(
        '/test.Echo/Unary',
        toBytes,
        toText,
        text,
        metadata,
        options,
        (error: ServiceError | null, value) => {
          answer = value ?? '';
          if (error !== null) reject(error);
        },
      );
      call.on('status', ({ metadata: tail }) =>
        resolve({ answer, calls: String(tail.get('x-calls')[0]), tookMs: performance.now() - startedAt }),
      );
      return promise;
    };
    try {
      const first = await unary('first');
      assert.deepEqual([first.answer, first.calls], ['echo first', '1']);

      await server.microvms.suspendMicrovm({ microvmIdentifier: microvmId });
      await untilState(server, microvmId, 'SUSPENDED');
      const held = await unary('held');
      assert.deepEqual([held.answer, held.calls], ['echo held', '2']);
      const warm = await unary('warm');
      assert.equal(warm.calls, '3', 'each call arrived once');

      const chat = client.makeBidiStreamRequest('/test.Echo/Chat', toBytes, toText, metadata, {
        deadline: Date.now() + DEADLINE_MS,
      });
      chat.write('a');
      chat.end('b');
      const heard: string[] = [];
      for await (const part of chat) heard.push(part as string);
      assert.deepEqual(heard, ['heard a', 'heard b']);
      console.log(
        `call on a suspended microVM ${held.tookMs.toFixed(0)} ms, on a running one ${warm.tookMs.toFixed(0)} ms`,
      );
    } finally {
      client.close();
    }
  });
});
