import assert from 'node:assert/strict';
import { appendFile, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import type { FlowRecord } from '../egress.ts';
import { parseFlow } from './flow-record.ts';
import { readFlows } from './flows.ts';

const common = { at: '2026-11-21T05:00:00.000Z', guest: 'g', principal: 'p', imageArn: 'i', imageVersion: '1.0' };
const judged = { verdict: 'refused', rule: null, reason: 'no-rule' } as const;
const flow = (durationMs: number): FlowRecord => ({
  ...common,
  ...judged,
  kind: 'flow',
  protocol: 'tcp',
  to: '203.0.113.9:443',
  name: null,
  bytesOut: 1,
  bytesIn: 2,
  durationMs,
});
const line = (record: object) => `${JSON.stringify(record)}\n`;

async function folder() {
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-flows-'));
  return { dir, [Symbol.asyncDispose]: () => rm(dir, { recursive: true }) };
}

describe('the flow log', () => {
  test('every kind of record is read, and nothing besides its members', () => {
    const records: FlowRecord[] = [
      flow(1),
      { ...common, ...judged, kind: 'dns', name: 'example.com', type: 'A', answers: ['203.0.113.9'], durationMs: 3 },
      { ...common, kind: 'drop', what: 'spoofed-mac', count: 7 },
      { ...common, kind: 'suppressed', count: 12 },
    ];
    for (const record of records) assert.deepEqual(parseFlow(JSON.stringify({ ...record, more: 'x' })), record);
  });

  test('what is no record is passed over', () => {
    for (const bad of ['', '{', 'null', '[]', '7', JSON.stringify({ ...common, kind: 'toString' })]) {
      assert.equal(parseFlow(bad), undefined, bad);
    }
    for (const wrong of [
      { at: 'never' },
      { to: 7 },
      { protocol: 'gre' },
      { bytesIn: -1 },
      { name: 'x'.repeat(2000) },
    ]) {
      assert.equal(parseFlow(JSON.stringify({ ...flow(1), ...wrong })), undefined, JSON.stringify(wrong));
    }
  });

  test('older records come first, a torn line and foreign ones do not come', async () => {
    await using at = await folder();
    await writeFile(path.join(at.dir, 'g.1.ndjson'), line(flow(1)) + line(flow(2)));
    const text = `${line(flow(3))}nonsense\n${line({ ...flow(4), guest: 'other' })}${'x'.repeat(200_000)}\n${line(flow(5))}{"at"`;
    await writeFile(path.join(at.dir, 'g.ndjson'), text);
    assert.deepEqual(await durations(readFlows(at.dir, 'g', {})), [1, 2, 3, 5]);
  });

  test('an unknown guest and a name that leaves the folder have none', async () => {
    await using at = await folder();
    await writeFile(path.join(at.dir, 'x.ndjson'), line({ ...flow(1), guest: '../x' }));
    assert.deepEqual(await durations(readFlows(at.dir, 'nobody', {})), []);
    assert.deepEqual(await durations(readFlows(path.join(at.dir, 'sub'), '../x', {})), []);
  });

  test('a log that is followed goes on over a rotation, from its first record on', async () => {
    await using at = await folder();
    const file = path.join(at.dir, 'g.ndjson');
    const over = new AbortController();
    const seen: number[] = [];
    const steps = [
      () => appendFile(file, line(flow(2)).slice(0, 40)),
      () => appendFile(file, line(flow(2)).slice(40)),
      async () => {
        await appendFile(file, line(flow(3)));
        await rename(file, path.join(at.dir, 'g.1.ndjson'));
        await writeFile(file, line(flow(4)));
      },
      () => over.abort(),
    ];
    await writeFile(file, line(flow(1)));
    for await (const record of readFlows(at.dir, 'g', { follow: true, signal: over.signal })) {
      if (record.kind === 'flow') seen.push(record.durationMs);
      if (seen.length === 3) continue;
      await steps.shift()?.();
      if (seen.length === 1) await steps.shift()?.();
    }
    assert.deepEqual(seen, [1, 2, 3, 4]);
  });

  test('following a log that is not there yet waits for it and ends when asked', async () => {
    await using at = await folder();
    const over = new AbortController();
    const records = readFlows(at.dir, 'g', { follow: true, signal: over.signal })[Symbol.asyncIterator]();
    const first = records.next();
    await writeFile(path.join(at.dir, 'g.ndjson'), line(flow(9)));
    assert.deepEqual((await first).value, flow(9));
    const end = records.next();
    over.abort();
    assert.equal((await end).done, true);
  });
});

async function durations(records: AsyncIterable<FlowRecord>): Promise<number[]> {
  const found: number[] = [];
  for await (const record of records) if (record.kind === 'flow') found.push(record.durationMs);
  return found;
}
