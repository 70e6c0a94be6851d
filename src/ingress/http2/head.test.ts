import assert from 'node:assert/strict';
import { test } from 'node:test';
import { grouped, isTooLarge, lowered, plainHeaders, requestHeadOf } from './head.ts';

const GET = [':method', 'GET', ':scheme', 'https', ':authority', 'vm.example', ':path', '/a?b'];

test('pseudo-headers become a head with Host, and cookie crumbs one header', () => {
  assert.deepEqual(requestHeadOf([...GET, 'cookie', 'a=1', 'x', '1', 'cookie', 'b=2'], true), {
    protocol: 'h2',
    method: 'GET',
    path: '/a?b',
    headers: ['host', 'vm.example', 'x', '1', 'cookie', 'a=1; b=2'],
    hasBody: false,
    bodyLength: 0,
    expectsContinue: false,
  });
});

test('a body has the length it says, or none that is known', () => {
  const sized = requestHeadOf([...GET, 'content-length', '12', 'expect', '100-Continue'], false);
  assert.deepEqual([sized?.hasBody, sized?.bodyLength, sized?.expectsContinue], [true, 12, true]);
  const unknown = requestHeadOf(GET, false);
  assert.deepEqual([unknown?.hasBody, unknown?.bodyLength], [true, undefined]);
  const none = requestHeadOf([...GET, 'expect', '100-continue'], true);
  assert.deepEqual([none?.hasBody, none?.expectsContinue], [false, false], 'nothing is waited for');
});

test('Host alone will do, and both must agree', () => {
  const withHost = [':method', 'GET', ':scheme', 'https', ':path', '/', 'host', 'vm.example'];
  assert.deepEqual(requestHeadOf(withHost, true)?.headers, ['host', 'vm.example']);
  assert.ok(requestHeadOf([...GET, 'host', 'VM.example'], true));
  assert.equal(requestHeadOf([...GET, 'host', 'other.example'], true), undefined);
  assert.equal(requestHeadOf([...withHost, 'host', 'other.example'], true), undefined);
});

test('what an HTTP/1.1 app would read differently is malformed', () => {
  const changes: [name: string, value: string][] = [
    [':method', 'CONNECT'],
    [':method', 'GET / HTTP/1.1\r\nX'],
    [':method', ''],
    [':path', ''],
    [':path', 'https://vm.example/'],
    [':path', '/a b'],
    [':path', '/a\tb'],
    [':path', '*'],
    [':authority', ''],
    [':authority', 'a@b'],
    [':authority', 'a,b'],
  ];
  for (const [name, value] of changes) {
    const raw = GET.map((text, i) => (GET[i - 1] === name ? value : text));
    assert.equal(requestHeadOf(raw, true), undefined, `${name} ${value}`);
  }
});

test('headers go in lower case, without those of a connection and without line ends', () => {
  assert.deepEqual(lowered(['X-A', 'One', 'Connection', 'x', 'Keep-Alive', '1', 'TE', 'gzip', 'x-a', 'two']), [
    ...['x-a', 'One'],
    ...['x-a', 'two'],
  ]);
  for (const value of ['a\0b', 'a\rb', 'a\nb']) assert.throws(() => lowered(['x', value]));
  assert.throws(() => lowered([':status', '200']));
  assert.throws(() => lowered(['', 'x']));
});

test('grouped headers keep their repeats, whatever they are called', () => {
  const groups = grouped(['A', '1', '__proto__', '2', 'a', '3']);
  assert.deepEqual(Object.entries(groups), [
    ['a', ['1', '3']],
    ['__proto__', ['2']],
  ]);
  assert.deepEqual(plainHeaders([':status', '200', 'a', '1']), ['a', '1']);
});

test('the limits are of all names and values together, and of their number', () => {
  const limits = { headerBytes: 100, headerCount: 3 };
  assert.equal(isTooLarge(['a', 'b'.repeat(99)], limits), false);
  assert.equal(isTooLarge(['a', 'b'.repeat(100)], limits), true);
  const many = (count: number) => Array.from({ length: 2 * count }, () => 'x');
  assert.equal(isTooLarge(many(8), limits), false, 'five of them may be pseudo-headers');
  assert.equal(isTooLarge(many(9), limits), true);
});
