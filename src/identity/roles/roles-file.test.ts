import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseRoles } from './roles-file.ts';

const ARN = 'arn:aws:iam::000000000000:role/agent';
const SECRET = 'wJalrXUtnFEMI-never-repeat-this';

function refusalOf(file: unknown): string {
  try {
    parseRoles(typeof file === 'string' ? file : JSON.stringify(file), '/etc/rekindle');
  } catch (error) {
    return (error as Error).message;
  }
  return 'accepted';
}

const withSource = (source: unknown) => ({ roles: { [ARN]: { source } } });
const withTrust = (trust: unknown) => ({ roles: { [ARN]: { trust } } });
const STATIC = { kind: 'static', accessKeyId: 'AKIA', secretAccessKey: SECRET };
const STS = { kind: 'assume-role', endpoint: 'https://sts.example.com', region: 'eu-central-1', caller: STATIC };

test('the example file can be read', () => {
  const dir = join(import.meta.dirname, '../../../examples/roles');
  const { roles, requireSource } = parseRoles(readFileSync(join(dir, 'roles.json'), 'utf8'), dir);
  const kinds = [...roles.values()].map(({ source }) => source?.kind ?? null);
  assert.deepEqual(kinds, ['assume-role', 'static', 'file', 'file', 'command', null]);
  assert.equal(requireSource, false);
  const rotated = roles.get('arn:aws:iam::000000000000:role/rotated')?.source;
  assert.equal(rotated?.kind === 'file' && rotated.path, join(dir, 'rotated.json'));
});

test('what is left out gets its default', () => {
  const { roles } = parseRoles(JSON.stringify(withSource(STS)), '/etc/rekindle');
  assert.deepEqual(roles.get(ARN), {
    arn: ARN,
    trust: null,
    source: {
      kind: 'assume-role',
      endpoint: 'https://sts.example.com',
      region: 'eu-central-1',
      roleArn: ARN,
      externalId: null,
      durationSeconds: 3600,
      caller: { ...STATIC, sessionToken: '' },
    },
  });
  const environment = parseRoles(JSON.stringify(withSource({ kind: 'environment' })), '/').roles.get(ARN)?.source;
  assert.deepEqual(environment, {
    kind: 'environment',
    accessKeyId: 'AWS_ACCESS_KEY_ID',
    secretAccessKey: 'AWS_SECRET_ACCESS_KEY',
    sessionToken: null,
  });
});

test('each mistake is refused by the member it is in, and no refusal repeats a secret', () => {
  const at = `roles["${ARN}"]`;
  const cases: [unknown, string][] = [
    [`{"roles": {"${SECRET}`, 'not valid JSON'],
    [[], 'one JSON object'],
    [{}, 'roles must be an object'],
    [{ roles: {}, more: 1 }, 'more is unknown'],
    [{ roles: {}, requireSource: 'yes' }, 'requireSource must be true or false'],
    [{ roles: { agent: {} } }, 'no role ARN'],
    [{ roles: { 'arn:aws:iam::1:role/x': {} } }, 'no role ARN'],
    [{ roles: { 'arn:aws:iam::000000000000:user/x': {} } }, 'no role ARN'],
    [{ roles: { [ARN]: null } }, `${at} must be an object`],
    [{ roles: { [ARN]: { sources: {} } } }, `${at}.sources is unknown`],
    [withSource(null), `${at}.source must be an object`],
    [withSource({}), `${at}.source.kind must be one of`],
    [withSource({ kind: 'vault' }), `${at}.source.kind must be one of`],
    [withSource({ ...STATIC, secretAccessKey: '' }), `${at}.source.secretAccessKey must be a text`],
    [withSource({ ...STATIC, token: SECRET }), `${at}.source.token is unknown`],
    [withSource({ kind: 'static', accessKeyId: 'A', secretAccessKey: [SECRET] }), 'secretAccessKey must be a text'],
    [withSource({ kind: 'environment', accessKeyId: 'not a name' }), 'must be the name of an environment variable'],
    [withSource({ kind: 'file' }), 'path must be a text'],
    [withSource({ kind: 'file', path: 'a\0b' }), 'path must be a text'],
    [withSource({ kind: 'command', argv: [] }), 'argv must be a list of 1 to 64 texts'],
    [withSource({ kind: 'command', argv: 'rm -rf /' }), 'argv must be a list'],
    [withSource({ kind: 'command', argv: ['a'], timeoutSeconds: 0 }), 'timeoutSeconds must be a whole number'],
    [withSource({ kind: 'command', argv: ['a'], environment: ['A=b'] }), 'environment must be names'],
    [withSource({ ...STS, endpoint: 'http://sts.example.com' }), 'must be an https URL'],
    [withSource({ ...STS, endpoint: `https://user:${SECRET}@sts.example.com` }), 'must be an https URL'],
    [withSource({ ...STS, endpoint: 'sts' }), 'must be an https URL'],
    [withSource({ ...STS, durationSeconds: 899 }), 'durationSeconds must be a whole number from 900'],
    [withSource({ ...STS, durationSeconds: 43_201 }), 'durationSeconds must be a whole number'],
    [withSource({ ...STS, roleArn: 'x' }), 'roleArn must be a role ARN'],
    [withSource({ ...STS, caller: STS }), 'caller.kind must be one of static, environment, file, command'],
    [withTrust({}), `${at}.trust must be a list`],
    [withTrust([{ principals: 'all' }]), `${at}.trust[0].principals must be a list`],
    [withTrust([{ services: [] }]), `${at}.trust[0].principals must be a list`],
    [withTrust([{ principals: ['*'], users: [] }]), `${at}.trust[0].users is unknown`],
  ];
  for (const [file, expected] of cases) {
    const message = refusalOf(file);
    assert.ok(message.includes(expected), `${JSON.stringify(file)} gave "${message}", not "${expected}"`);
    assert.ok(!message.includes(SECRET), message);
  }
});

test('an STS on this host may be asked without TLS', () => {
  for (const host of ['localhost', '127.0.0.1', '[::1]']) {
    assert.equal(refusalOf(withSource({ ...STS, endpoint: `http://${host}:4566` })), 'accepted');
  }
});
