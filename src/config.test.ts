import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { loadConfig, SETTINGS } from './config.ts';

function withFile(content: string, run: (path: string) => void): void {
  const dir = mkdtempSync(join(tmpdir(), 'rekindle-config-'));
  try {
    const path = join(dir, 'config.json');
    writeFileSync(path, content);
    run(path);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

test('a flag beats the environment, the environment beats the file, the file beats the default', () => {
  withFile('{"region":"eu-west-1","apiPort":1,"account":"111111111111"}', (config) => {
    const env = { REKINDLE_API_PORT: '2', REKINDLE_ACCOUNT: '222222222222' };
    const loaded = loadConfig({ config, account: '333333333333' }, env);
    assert.deepEqual(
      { region: loaded.region, apiPort: loaded.apiPort, account: loaded.account, auth: loaded.auth },
      { region: 'eu-west-1', apiPort: 2, account: '333333333333', auth: 'sigv4' },
    );
    assert.ok(Object.isFrozen(loaded));
  });
});

test('the state folder follows XDG_STATE_HOME and a relative one is made absolute', () => {
  assert.equal(loadConfig({}, { XDG_STATE_HOME: '/x' }).stateDir, '/x/rekindle');
  assert.equal(loadConfig({ state: 's' }, {}).stateDir, join(process.cwd(), 's'));
});

test('a bad value is refused under the name the user gave it by', () => {
  assert.throws(
    () => loadConfig({ apiPort: '70000' }, {}),
    /--api-port is "70000" but must be a whole number from 0 to 65535/,
  );
  assert.throws(() => loadConfig({ apiPort: '0x10' }, {}), /--api-port/);
  assert.throws(
    () => loadConfig({}, { REKINDLE_AUTH: 'none' }),
    /REKINDLE_AUTH is "none" but must be one of sigv4, off/,
  );
  assert.throws(() => loadConfig({ account: '1' }, {}), /--account .* 12 digits/);
  assert.throws(() => loadConfig({ region: 'mars' }, {}), /--region/);
});

test('a configuration file with an unknown key, a wrong type or broken JSON is refused', () => {
  withFile('{"colour":"red"}', (config) =>
    assert.throws(() => loadConfig({ config }, {}), /"colour" .* is unknown; known are: state/),
  );
  withFile('{"auth":true}', (config) =>
    assert.throws(() => loadConfig({ config }, {}), /"auth" .* string or a number/),
  );
  withFile('[]', (config) => assert.throws(() => loadConfig({ config }, {}), /one JSON object/));
  withFile('{', (config) => assert.throws(() => loadConfig({ config }, {}), /cannot be read/));
});

test('an external object store needs an address and a key, and the refusal does not show the key', () => {
  assert.equal(loadConfig({}, {}).externalS3, undefined);
  const env = { REKINDLE_EXTERNAL_S3: 'https://s3.test', REKINDLE_EXTERNAL_S3_KEY: 'id:se:cret' };
  assert.deepEqual(loadConfig({ region: 'eu-west-1' }, env).externalS3, {
    endpoint: 'https://s3.test',
    region: 'eu-west-1',
    accessKeyId: 'id',
    secretAccessKey: 'se:cret',
  });
  assert.throws(() => loadConfig({ externalS3: 'ftp://x' }, env), /--external-s3 is "ftp:\/\/x" but must be an http/);
  assert.throws(
    () => loadConfig({}, { ...env, REKINDLE_EXTERNAL_S3_KEY: 'hidden' }),
    (error: Error) => /REKINDLE_EXTERNAL_S3_KEY must hold/.test(error.message) && !error.message.includes('hidden'),
  );
});

test('host mode has one listener and names below a domain, and its settings mean nothing without it', () => {
  assert.equal(loadConfig({}, {}).endpointHosts, undefined);
  assert.deepEqual(loadConfig({ endpointMode: 'host' }, {}).endpointHosts, {
    listen: { host: '127.0.0.1', port: 8443 },
    suffix: 'lambda-microvm.us-east-1.localhost',
    publicPort: undefined,
  });
  const wide = {
    endpointMode: 'host',
    endpointListen: '[::]:443',
    endpointDomain: 'Vm.Example.com',
    endpointPort: '443',
  };
  assert.deepEqual(loadConfig({ ...wide, region: 'eu-west-1' }, {}).endpointHosts, {
    listen: { host: '::', port: 443 },
    suffix: 'lambda-microvm.eu-west-1.vm.example.com',
    publicPort: 443,
  });
  for (const endpointListen of ['8443', 'localhost:8443', '1.2.3:1', '127.0.0.1:70000', '[zz]:1', ''])
    assert.throws(() => loadConfig({ ...wide, endpointListen }, {}), /--endpoint-listen is ".*" but must be an IP/);
  for (const endpointDomain of ['', '.com', 'a..b', 'a_b.com', '-a.com', '*.com', `${'a'.repeat(64)}.com`])
    assert.throws(() => loadConfig({ ...wide, endpointDomain }, {}), /--endpoint-domain is ".*" but must be a domain/);
  assert.throws(() => loadConfig({ endpointDomain: 'x.com' }, {}), /--endpoint-domain means something only with/);
});

test('a certificate comes with its key, and limits are refused with their form', () => {
  const both = { endpointCert: '/c.pem', endpointKey: '/k.pem' };
  assert.deepEqual(loadConfig(both, {}).endpointCertificate, { certFile: '/c.pem', keyFile: '/k.pem' });
  assert.throws(() => loadConfig({ endpointCert: '/c.pem' }, {}), /belong together: give both, or none/);
  assert.equal(loadConfig({ endpointLimits: 'default,headersSeconds=5' }, {}).endpointLimits.headersMs, 5000);
  assert.throws(
    () => loadConfig({ endpointLimits: 'off' }, {}),
    /--endpoint-limits is "off" but must be default, service/,
  );
});

test('docs/CLI.md lists every setting with its flag, variable and default', () => {
  const text = readFileSync(join(import.meta.dirname, '../docs/CLI.md'), 'utf8');
  const rows = [...text.matchAll(/^\| (\w+) \| (--[\w-]+) \| (REKINDLE_\w+) \| (.+) \|$/gm)].map((row) =>
    row.slice(1, 5),
  );
  assert.deepEqual(
    rows,
    Object.entries(SETTINGS).map(([key, { flag, env, fallback }]) => [key, flag, env, fallback]),
  );
});
