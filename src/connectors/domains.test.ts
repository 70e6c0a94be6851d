import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseDomains, viewOfDomains } from './domains.ts';

const one = (name: unknown) => parseDomains([{ name }])[0]?.name;

test('names are brought into one spelling', () => {
  for (const [written, read] of [
    ['Example.COM', 'example.com'],
    ['example.com.', 'example.com'],
    ['*.PyPI.org', '*.pypi.org'],
    ['bücher.example', 'xn--bcher-kva.example'],
    ['_dmarc.example.com', '_dmarc.example.com'],
    ['registry', 'registry'],
  ]) {
    assert.equal(one(written), read);
  }
});

test('what is left out is the web: ports 80 and 443, looked into', () => {
  assert.deepEqual(viewOfDomains(parseDomains([{ name: 'a.example' }])), [
    { name: 'a.example', ports: [80, 443], content: 'tls-or-http' },
  ]);
  const given = [{ name: 'a.example', ports: [5432, '6000-6010'], content: 'opaque' }];
  assert.deepEqual(viewOfDomains(parseDomains(given)), given);
});

for (const name of [
  '',
  '*',
  '*.com',
  '*.',
  'a..b',
  'a.*.b',
  '-a.example',
  'a b.example',
  'exa mple',
  'http://a.example',
  'a.example/x',
  'a.example:443',
  'x'.repeat(64),
  7,
  null,
  '\u0000.example',
  `${'a.'.repeat(127)}example`,
]) {
  test(`${JSON.stringify(name).slice(0, 40)} is no name to lead to`, () => {
    assert.throws(() => parseDomains([{ name }]), { code: 'INVALID', message: /domains\[0\]\.name/ });
  });
}

for (const name of ['192.0.2.7', '10.1', '0x7f.1', '::1', '2130706433']) {
  test(`the address ${name} is sent to the networks file`, () => {
    assert.throws(() => parseDomains([{ name }]), { code: 'INVALID', message: /domains\[0\]\.name/ });
  });
}

test('a list of another shape is refused by name', () => {
  for (const [value, sentence] of [
    [{}, /domains must be a list/],
    [[], /1 to 200 names/],
    [Array.from({ length: 201 }, () => ({ name: 'a.example' })), /1 to 200 names/],
    [['a.example'], /domains\[0\] must be an object/],
    [[{ name: 'a.example', port: 1 }], /domains\[0\]\.port is unknown/],
    [[{ name: 'a.example', ports: [] }], /domains\[0\]\.ports must be a list of 1 to 64/],
    [[{ name: 'a.example', ports: [0] }], /domains\[0\]\.ports\[0\] must be a port/],
    [[{ name: 'a.example', content: 'any' }], /domains\[0\]\.content must be tls-or-http or opaque/],
  ] as const) {
    assert.throws(() => parseDomains(value), { code: 'INVALID', message: sentence });
  }
});
