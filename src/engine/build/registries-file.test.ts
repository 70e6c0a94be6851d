/** Each wrong file is refused with the member and what it must be, and never with what it holds. */
import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { silentLogger } from '../../lib/index.ts';
import { openRegistries, parseRegistries } from './registries-file.ts';

const SECRET = 'correct-horse';
const PEM = '-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----';

test('a registries file is read whole', () => {
  const file = {
    registries: {
      'docker.io': { mirrors: ['mirror.example.com:5000/hub'] },
      'registry.example.com:5000': { http: true, username: 'reader', password: SECRET },
      'ghcr.io': { token: SECRET },
    },
    aliases: {
      'python:3.12-slim': 'registry.example.com:5000/python:3.12',
      base: `ghcr.io/a/b@sha256:${'a'.repeat(64)}`,
    },
    offline: true,
  };
  assert.deepEqual(parseRegistries(JSON.stringify(file)), file);
  assert.deepEqual(parseRegistries('{}'), { registries: {}, aliases: {}, offline: false });
});

const wrong: [string, unknown, RegExp][] = [
  ['no object', [], /the file must be an object/],
  ['an unknown member', { registry: {} }, /unknown member "registry"; known are registries, aliases/],
  ['a URL for a host', { registries: { 'https://a.example': {} } }, /"https:\/\/a\.example" must be the host/],
  ['a line break in a host', { registries: { 'a]\nhttp': {} } }, /must be the host/],
  ['an unknown member of a registry', { registries: { 'a.io': { pasword: SECRET } } }, /registries\.a\.io .*"pasword"/],
  ['a password without a name', { registries: { 'a.io': { password: SECRET } } }, /both username and password/],
  ['two ways to log in', { registries: { 'a.io': { username: 'u', password: SECRET, token: SECRET } } }, /not both/],
  ['a name with a colon', { registries: { 'a.io': { username: `u:${SECRET}`, password: 'x' } } }, /without a colon/],
  ['a mirror with a scheme', { registries: { 'a.io': { mirrors: ['http://b'] } } }, /mirrors must be a list/],
  ['an alias that is an option', { aliases: { 'a=b': 'c' } }, /aliases: "a=b" must be the name/],
  ['an alias to nothing', { aliases: { a: '' } }, /aliases\.a must be the name/],
  ['a word for a flag', { offline: 'yes' }, /offline must be true or false/],
];
for (const [name, file, message] of wrong) {
  test(`a registries file with ${name} is refused`, () => {
    assert.throws(
      () => parseRegistries(JSON.stringify(file)),
      (error: Error) => message.test(error.message) && !error.message.includes(SECRET),
    );
  });
}

test('text that is no JSON is refused without being quoted', () => {
  assert.throws(() => parseRegistries(`{"password": "${SECRET}`), {
    message: 'The registries file is not valid JSON.',
  });
});

test('the file is read again for each build, and what it said before holds when it is wrong', async () => {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-registries-'));
  stack.defer(() => rm(dir, { recursive: true }));
  const file = path.join(dir, 'registries.json');
  await writeFile(path.join(dir, 'ca.pem'), `a remark\n${PEM}\n-----BEGIN PRIVATE KEY-----\n${SECRET}\n`);
  await writeFile(file, '{"certificates":"ca.pem"}');
  const registries = await openRegistries(file, silentLogger);
  assert.equal((await registries.current()).trust, `${PEM}\n`, 'nothing but certificates');
  await writeFile(file, '{"offline":true}');
  assert.equal((await registries.current()).offline, true);
  await writeFile(file, '{');
  assert.equal((await registries.current()).offline, true);
});

test('a file with credentials that others can read is refused', async () => {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-registries-'));
  stack.defer(() => rm(dir, { recursive: true }));
  const file = path.join(dir, 'registries.json');
  await writeFile(file, `{"registries":{"a.io":{"token":"${SECRET}"}}}`, { mode: 0o644 });
  await assert.rejects(openRegistries(file, silentLogger), /chmod 600/);
  await chmod(file, 0o600);
  await openRegistries(file, silentLogger);
  await assert.rejects(openRegistries(path.join(dir, 'none'), silentLogger), /cannot be read: ENOENT/);
});
