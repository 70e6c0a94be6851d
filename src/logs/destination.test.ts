import assert from 'node:assert/strict';
import { test } from 'node:test';
import { destinationOf, LineSink } from './destination.ts';

const source = { imageName: 'app', imageVersion: '2.0', id: 'microvm-1', startedAt: Date.UTC(2026, 10, 3, 23, 59) };

test('what is not chosen is named as the service names it', () => {
  const usual = { group: '/aws/lambda-microvms/app', stream: '2026/11/03[2.0]microvm-1' };
  assert.deepEqual(destinationOf(null, source), usual);
  assert.deepEqual(destinationOf({ cloudWatch: {} }, source), usual);
  assert.deepEqual(destinationOf({ cloudWatch: { logGroup: '/mine' } }, source), { ...usual, group: '/mine' });
  assert.deepEqual(destinationOf({ cloudWatch: { logStream: 'one' } }, source), { ...usual, stream: 'one' });
  assert.equal(destinationOf({ disabled: {} }, source), undefined);
});

test('bytes become lines wherever they are cut, and a line without end is cut', () => {
  const seen: string[] = [];
  const lines = new LineSink({ write: ({ message }) => void seen.push(message) }, () => 0);
  const bytes = Buffer.from(`one\r\nzwölf\n\n${'x'.repeat(20_000)}\nrest`);
  for (let at = 0; at < bytes.length; at += 5) lines.write(bytes.subarray(at, at + 5));
  lines.write(Buffer.from([0xff, 0xfe, 0x0a]));
  lines.end();
  assert.deepEqual(
    seen.map((line) => line.slice(0, 6)),
    ['one', 'zwölf', 'xxxxxx', 'xxxxxx', 'rest��'],
  );
  assert.deepEqual(
    seen.slice(2, 4).map(({ length }) => length),
    [16_384, 3_616],
  );
});
