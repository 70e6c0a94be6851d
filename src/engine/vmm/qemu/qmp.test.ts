import assert from 'node:assert/strict';
import { type Duplex, duplexPair } from 'node:stream';
import { test } from 'node:test';
import { MachineError } from '../../../lib/index.ts';
import { Qmp } from './qmp.ts';

function channel(): { qmp: Qmp; vmm: Duplex; received: string[] } {
  const [near, vmm] = duplexPair();
  const received: string[] = [];
  vmm.on('data', (chunk: Buffer) => received.push(...chunk.toString().trim().split('\n')));
  return { qmp: new Qmp(near), vmm, received };
}

test('commands sent together go in one write and resolve with the last answer', async () => {
  const { qmp, vmm, received } = channel();
  const answer = qmp.executeAll([['stop'], ['query-status', { a: 1 }]]);
  vmm.write('{"QMP":{}}\n{"return":{},"id":1}\n{"event":"STOP"}\n{"return":{"status":"paused"},');
  vmm.write('"id":2}\n');
  assert.deepEqual(await answer, { status: 'paused' });
  assert.deepEqual(received, ['{"execute":"stop","id":1}', '{"execute":"query-status","arguments":{"a":1},"id":2}']);
});

test('a refused command rejects with the words of the VMM and the stack of the sender', async () => {
  const { qmp, vmm } = channel();
  const asked = qmp.execute('cont');
  vmm.write('{"error":{"class":"GenericError","desc":"not now"},"id":1}\n');
  await assert.rejects(asked, (error: Error) => {
    assert.match(error.message, /^cont: not now$/);
    assert.match(error.stack ?? '', /qmp\.test\.ts/);
    return true;
  });
});

test('an event is awaited by its name', async () => {
  const { qmp, vmm } = channel();
  const resumed = qmp.event('RESUME');
  vmm.write('{"event":"STOP"}\n{"event":"RESUME"}\n');
  await resumed;
});

test('closing rejects whatever waits and whatever comes later, with the evidence', async () => {
  const { qmp } = channel();
  const asked = qmp.execute('stop');
  const event = qmp.event('RESUME');
  qmp.close(new MachineError('exited', 'the VMM ended with code 1', { evidence: 'last words' }));
  await assert.rejects(asked, { kind: 'exited', evidence: 'last words' });
  await assert.rejects(event, { kind: 'exited' });
  await assert.rejects(qmp.execute('cont'), { kind: 'exited', evidence: 'last words' });
});

test('garbage on the channel ends it', async () => {
  const { qmp, vmm } = channel();
  const asked = qmp.execute('stop');
  vmm.write('no json\n');
  await assert.rejects(asked, { kind: 'protocol' });
});

test('JSON that is no message ends the channel instead of the server', async () => {
  for (const line of ['null', '7', '"text"', '']) {
    const { qmp, vmm } = channel();
    const asked = qmp.execute('stop');
    vmm.write(`${line}\n`);
    await assert.rejects(asked, { kind: 'protocol' }, line);
  }
});

test('an error without sensible words still rejects its command', async () => {
  for (const error of ['null', '7', '{}', '{"desc":{"toString":1}}', `{"desc":"${'x'.repeat(5000)}"}`]) {
    const { qmp, vmm } = channel();
    const asked = qmp.execute('stop');
    vmm.write(`{"error":${error},"id":1}\n`);
    await assert.rejects(
      asked,
      (caught: MachineError) => caught.kind === 'failed' && caught.message.length < 600,
      error,
    );
  }
});

test('a line without end closes the channel after a megabyte, in whatever pieces it comes', async () => {
  const { qmp, vmm } = channel();
  const asked = qmp.execute('stop');
  for (let i = 0; i < 2100; i++) vmm.write('['.repeat(500));
  await assert.rejects(asked, { kind: 'protocol', message: /endless line/ });
});

test('a flood of events is read at a rate, and an answer behind it still comes', async () => {
  const { qmp, vmm } = channel();
  const asked = qmp.execute('stop');
  vmm.write('{"event":"NOISE"}\n'.repeat(2100));
  vmm.write('{"return":{},"id":1}\n');
  assert.deepEqual(await asked, {});
});
