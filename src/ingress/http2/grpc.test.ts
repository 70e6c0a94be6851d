/** gRPC with its own client and server for Node, through the endpoint. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as netConnect } from 'node:net';
import { after, before, test } from 'node:test';
import {
  type CallOptions,
  Client,
  credentials,
  Metadata,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  type ServiceError,
  type StatusObject,
  type sendUnaryData,
  status,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { createHttp2Bench, type Http2Bench } from './test-bench.ts';

const text = { serialize: (value: string) => Buffer.from(value), deserialize: (bytes: Buffer) => bytes.toString() };

function method(name: string, requestStream: boolean, responseStream: boolean): MethodDefinition<string, string> {
  return {
    path: `/test.Echo/${name}`,
    requestStream,
    responseStream,
    requestSerialize: text.serialize,
    requestDeserialize: text.deserialize,
    responseSerialize: text.serialize,
    responseDeserialize: text.deserialize,
  };
}

const SERVICE = {
  unary: method('Unary', false, false),
  upload: method('Upload', true, false),
  download: method('Download', false, true),
  chat: method('Chat', true, true),
} satisfies ServiceDefinition;

let app: { port: number; server: Server; cancelled: Promise<void> };

before(async () => {
  const cancelled = Promise.withResolvers<void>();
  const server = new Server();
  const echo: UntypedServiceImplementation = {
    unary(call: ServerUnaryCall<string, string>, done: sendUnaryData<string>) {
      if (call.request === 'fail') return done({ code: status.FAILED_PRECONDITION, details: 'not now' });
      if (call.request === 'never') return void call.once('cancelled', () => cancelled.resolve());
      call.sendMetadata(metadataOf({ 'x-head': 'head' }));
      done(null, `echo ${call.request}`, metadataOf({ 'x-tail': 'tail' }));
    },
    upload(call: ServerReadableStream<string, string>, done: sendUnaryData<string>) {
      let bytes = 0;
      call.on('data', (part: string) => {
        bytes += part.length;
      });
      call.once('end', () => done(null, String(bytes)));
    },
    download(call: ServerWritableStream<string, string>) {
      for (let i = 0; i < Number(call.request); i++) call.write(`part ${i}`);
      call.end();
    },
    chat(call: ServerDuplexStream<string, string>) {
      call.on('data', (part: string) => call.write(`heard ${part}`));
      call.once('end', () => call.end());
    },
  };
  server.addService(SERVICE, echo);
  const port = await new Promise<number>((resolve, reject) => {
    const bound = (error: Error | null, at: number) => (error === null ? resolve(at) : reject(error));
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), bound);
  });
  app = { port, server, cancelled: cancelled.promise };
});

after(() => app.server.forceShutdown());

function metadataOf(entries: Record<string, string>): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(entries)) metadata.set(name, value);
  return metadata;
}

/** A client whose calls go through the endpoint to the server. */
async function createGrpc(): Promise<AsyncDisposable & { bench: Http2Bench; client: Client; metadata: Metadata }> {
  const bench = await createHttp2Bench();
  bench.listen(50_051, (connection) => {
    const socket = netConnect(app.port, '127.0.0.1');
    connection.pipe(socket).pipe(connection);
    socket.on('error', () => connection.destroy()).once('close', () => connection.destroy());
    connection.once('close', () => socket.destroy());
  });
  const trusted = credentials.createSsl(Buffer.from(bench.ingress.caPem));
  const client = new Client(`localhost:${bench.port}`, trusted);
  return {
    bench,
    client,
    metadata: metadataOf({
      'x-aws-proxy-auth': bench.token,
      'x-aws-proxy-port': '50051',
      'x-aws-proxy-force-h2': 'true',
    }),
    [Symbol.asyncDispose]: () => {
      client.close();
      return bench[Symbol.asyncDispose]();
    },
  };
}

interface Unary {
  readonly answer: string | undefined;
  readonly error: ServiceError | null;
  readonly head: Metadata | undefined;
  readonly status: StatusObject;
}

function ask(client: Client, metadata: Metadata, request: string, options: CallOptions = {}): Promise<Unary> {
  const { promise, resolve } = Promise.withResolvers<Unary>();
  const { path } = SERVICE.unary;
  let answered: { error: ServiceError | null; answer: string | undefined } | undefined;
  let head: Metadata | undefined;
  const call = client.makeUnaryRequest(
    path,
    text.serialize,
    text.deserialize,
    request,
    metadata,
    options,
    (error, answer) => {
      answered = { error, answer };
    },
  );
  call.once('metadata', (got) => {
    head = got;
  });
  call.once('status', (told) =>
    setImmediate(() => resolve({ error: null, answer: undefined, ...answered, head, status: told })),
  );
  return promise;
}

test('a unary call brings its answer, its headers, its trailers and its errors', async () => {
  await using grpc = await createGrpc();
  const { client, metadata } = grpc;
  const told = await ask(client, metadata, 'hello');
  assert.deepEqual([told.error, told.answer], [null, 'echo hello']);
  assert.deepEqual([told.head?.get('x-head'), told.status.metadata.get('x-tail')], [['head'], ['tail']]);
  assert.equal(told.head?.get('x-amzn-requestid').length, 1);
  const failed = await ask(client, metadata, 'fail');
  assert.deepEqual([failed.error?.code, failed.error?.details], [status.FAILED_PRECONDITION, 'not now']);
});

test('streams of the client, of the server and of both pass', async () => {
  await using grpc = await createGrpc();
  const { client, metadata } = grpc;
  const { serialize, deserialize } = text;
  const uploaded = Promise.withResolvers<string | undefined>();
  const upload = client.makeClientStreamRequest(
    SERVICE.upload.path,
    serialize,
    deserialize,
    metadata,
    (_error, answer) => uploaded.resolve(answer),
  );
  for (let i = 0; i < 100; i++) if (!upload.write('x'.repeat(10_000))) await once(upload, 'drain');
  upload.end();
  assert.equal(await uploaded.promise, '1000000');

  const download = client.makeServerStreamRequest(SERVICE.download.path, serialize, deserialize, '500', metadata);
  const parts: string[] = [];
  for await (const part of download) parts.push(part);
  assert.deepEqual([parts.length, parts[499]], [500, 'part 499']);

  const chat = client.makeBidiStreamRequest(SERVICE.chat.path, serialize, deserialize, metadata);
  for (const word of ['one', 'two', 'three']) {
    const heard = once(chat, 'data');
    chat.write(word);
    assert.deepEqual(await heard, [`heard ${word}`]);
  }
  const over = once(chat, 'status');
  chat.end();
  chat.resume();
  assert.equal((await over)[0].code, status.OK);
});

test('a deadline ends the call at the client and at the server', async () => {
  await using grpc = await createGrpc();
  const told = await ask(grpc.client, grpc.metadata, 'never', { deadline: Date.now() + 300 });
  assert.equal(told.error?.code, status.DEADLINE_EXCEEDED);
  await app.cancelled;
});

test('a cancelled call is cancelled at the server', async () => {
  await using grpc = await createGrpc();
  const { client, metadata, bench } = grpc;
  const chat = client.makeBidiStreamRequest(SERVICE.chat.path, text.serialize, text.deserialize, metadata);
  const over = Promise.withResolvers<StatusObject>();
  chat.on('error', () => {}).once('status', (told) => over.resolve(told));
  chat.write('one');
  await once(chat, 'data');
  chat.cancel();
  assert.equal((await over.promise).code, status.CANCELLED);
  while (bench.traffic.underWay > 0) await new Promise((resolve) => setImmediate(resolve));
});

test('a call without a token, to a port where nothing listens or to a microVM that ended says so', async () => {
  await using grpc = await createGrpc();
  const { client, metadata } = grpc;
  assert.equal((await ask(client, new Metadata(), 'hello')).error?.code, status.PERMISSION_DENIED);
  const closed = metadata.clone();
  closed.set('x-aws-proxy-port', '50052');
  assert.equal((await ask(client, closed, 'hello')).error?.code, status.UNAVAILABLE);
});

test('a call to a sleeping microVM is held until it is awake', async () => {
  await using grpc = await createGrpc();
  const { bench, client, metadata } = grpc;
  const machine = await bench.traffic.onWake(bench.id);
  const woken = Promise.withResolvers<typeof machine>();
  bench.traffic.onWake = () => woken.promise;
  const told = ask(client, metadata, 'hello');
  while (bench.traffic.wakes === 0) await new Promise((resolve) => setImmediate(resolve));
  woken.resolve(machine);
  assert.equal((await told).answer, 'echo hello');
});
