/** When an app without a ready hook counts as ready. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readinessOf } from './version-config.ts';

const config = { hooks: null } as unknown as Parameters<typeof readinessOf>[0];
const image = { env: [], entrypoint: [], cmd: ['app'], workingDir: '', user: '', exposedPorts: [] as number[] };

test('the port it exposes is waited for, longer than one nobody named', () => {
  const usual = readinessOf(config, image);
  assert.deepEqual(usual, { kind: 'listening', port: 8080, graceMs: 30_000 });
  const exposed = readinessOf(config, { ...image, exposedPorts: [5000, 6000] });
  assert.deepEqual(exposed, { kind: 'listening', port: 5000, graceMs: 120_000 });
  assert.deepEqual(readinessOf(config, { ...image, exposedPorts: [5000, 8080] }), { ...exposed, port: 8080 });
});
