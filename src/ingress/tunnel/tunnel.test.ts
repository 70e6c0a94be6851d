import assert from 'node:assert/strict';
import { type Duplex, duplexPair } from 'node:stream';
import { test } from 'node:test';
import { MachineError } from '../../lib/index.ts';
import type { Machine } from '../../microvms/index.ts';
import { dial } from '../sockets/test-client.ts';
import { type Bench, createBench } from '../test-bench.ts';

/** A bench whose machine's ports are raw streams; `serve` gets the guest's end of each. */
async function tunnelBench(serve: (end: Duplex, port: number) => void): Promise<Bench> {
  const bench = await createBench();
  const real = await bench.traffic.onWake(bench.id);
  const machine: Machine = Object.create(real, {
    connect: {
      value: async (port: number) => {
        const [near, far] = duplexPair();
        near.once('close', () => far.destroy());
        serve(far, port);
        return near;
      },
    },
  });
  bench.traffic.onWake = async () => machine;
  return bench;
}

const PROTOCOL = 'rekindle.tunnel';

test('a tunnel carries bytes both ways, each half to its own end', async () => {
  const ports: number[] = [];
  await using bench = await tunnelBench((end, port) => {
    ports.push(port);
    // Answers only when it has heard everything.
    let heard = '';
    end.on('data', (chunk: Buffer) => {
      heard += chunk;
    });
    end.once('end', () => end.end(`heard ${heard}`));
  });
  const auth = `lambda-microvms.authentication.${bench.token}`;
  const client = dial(bench, { protocols: ['lambda-microvms', auth, 'lambda-microvms.port.5432', PROTOCOL] });
  assert.equal(await client.answered, 101);
  assert.equal(client.socket.protocol, PROTOCOL);
  client.socket.send(Buffer.from('one '));
  client.socket.send(Buffer.from('two'));
  client.socket.send('end');
  assert.deepEqual(await client.closed, { code: 1000, reason: '' });
  assert.equal(client.shown, 'heard one two');
  assert.deepEqual(client.texts, ['end']);
  assert.deepEqual(ports, [5432]);
});

test('the token, its ports and its kind are judged as for a request', async () => {
  await using bench = await tunnelBench((end) => void end.pipe(end));
  const narrow = bench.traffic.issue({ microvmId: bench.id, ports: [[5432, 5432]] });
  const at = (token: string, port: string) =>
    dial(bench, { token, protocols: [PROTOCOL], headers: { 'x-aws-proxy-port': port } });
  assert.equal(await at(narrow, '5433').answered, 403);
  assert.equal(await dial(bench, { protocols: [PROTOCOL] }).answered, 403);
  const open = at(narrow, '5432');
  assert.equal(await open.answered, 101);
  open.socket.terminate();
});

test('a port where nothing listens is the reason of closing', async () => {
  await using bench = await createBench(undefined, [8080]);
  const client = dial(bench, { token: bench.token, protocols: [PROTOCOL], headers: { 'x-aws-proxy-port': '5432' } });
  assert.deepEqual(await client.closed, { code: 1011, reason: 'nothing listens on port 5432' });
});

test('a connection that breaks in the guest closes with 1011, never as if it had ended', async () => {
  let guest: Duplex | undefined;
  await using bench = await tunnelBench((end) => {
    guest = end.on('error', () => {});
    end.write('half');
  });
  const client = dial(bench, { token: bench.token, protocols: [PROTOCOL] });
  await client.until(({ shown }) => shown === 'half');
  client.socket.send('end');
  const machine = await bench.traffic.onWake(bench.id);
  assert.ok(machine !== undefined && guest !== undefined);
  guest.destroy(new MachineError('failed', 'reset'));
  assert.deepEqual(await client.closed, { code: 1011, reason: 'the connection broke' });
});

test('a client that goes takes the connection in the guest with it', async () => {
  const ended = Promise.withResolvers<void>();
  await using bench = await tunnelBench((end) => {
    end.resume().once('close', () => ended.resolve());
  });
  const client = dial(bench, { token: bench.token, protocols: [PROTOCOL] });
  await client.answered;
  client.socket.terminate();
  await ended.promise;
});

test('what is no message of a tunnel closes it with 1002', async () => {
  await using bench = await tunnelBench((end) => void end.resume());
  for (const messages of [['hello'], ['end', Buffer.from('more')], ['end', 'end']]) {
    const client = dial(bench, { token: bench.token, protocols: [PROTOCOL] });
    await client.answered;
    for (const message of messages) client.socket.send(message);
    assert.equal((await client.closed).code, 1002, String(messages));
  }
});

test('sixteen megabytes come back unchanged', async () => {
  await using bench = await tunnelBench((end) => void end.pipe(end));
  const client = dial(bench, { token: bench.token, protocols: [PROTOCOL] });
  await client.answered;
  const part = Buffer.alloc(65_536, 'abcdefg');
  for (let i = 0; i < 256; i++) client.socket.send(part);
  client.socket.send('end');
  assert.equal((await client.closed).code, 1000);
  assert.ok(client.shown === part.toString().repeat(256));
});
