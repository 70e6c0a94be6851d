/**
 * A server without privileges keeps the same contract, in user namespaces: the VMM contract once more, as nobody. A mount
 * namespace lends nobody the folders of root's home that it needs.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { loadConfig } from '../../src/config.ts';
import { findRuntime } from '../../src/engine/load-runtime.ts';

const NOBODY = '65534';
const TIMEOUT_MS = 300_000;
const repository = join(import.meta.dirname, '../..');
const { cacheDir } = loadConfig({}, process.env);

function reasonToSkip(): string | false {
  if (findRuntime(cacheDir) === undefined) return 'set-up has not run: no runtime.json';
  if (process.getuid?.() !== 0) return 'the other tests are this one, when root does not run them';
  if (repository.startsWith('/tmp/') || cacheDir.startsWith('/tmp/')) return 'clone or cache are in /tmp';
  return false;
}

test('an unprivileged server starts, restores, saves and ends VMMs as a root server does', {
  skip: reasonToSkip(),
}, async () => {
  const lent = [cacheDir, repository].filter((dir) => dir.startsWith(`${homedir()}/`));
  const script = [
    'set -e',
    'mount -t tmpfs -o mode=1777 none /tmp',
    ...lent.map((dir, i) => `mkdir /tmp/lent-${i}; mount --rbind '${dir}' /tmp/lent-${i}`),
    `mount -t tmpfs -o mode=755 none '${homedir()}'`,
    ...lent.map((dir, i) => `mkdir -p '${dir}'; mount --rbind /tmp/lent-${i} '${dir}'`),
    `exec setpriv --reuid ${NOBODY} --regid ${NOBODY} --clear-groups "$@"`,
  ];
  const contract = [process.execPath, '--test', '--test-reporter=tap', 'test/vm/vmm.test.ts'];
  const { REKINDLE_TEST_RUN, PATH } = process.env;
  const env = { PATH, TMPDIR: '/tmp', REKINDLE_CACHE: cacheDir, REKINDLE_STATE: '/tmp/state', REKINDLE_TEST_RUN };
  const command = ['--mount', '--propagation', 'private', 'sh', '-c', script.join('\n'), 'sh', ...contract];
  const { stdout } = await promisify(execFile)('unshare', command, { cwd: repository, env, timeout: TIMEOUT_MS }).catch(
    (error: Error & { stdout?: string }) => assert.fail(`${error.message}\n${error.stdout}`),
  );
  assert.match(stdout, /^# fail 0$/m);
  assert.doesNotMatch(stdout, /# SKIP/);
  assert.ok(Number(/^# pass (\d+)$/m.exec(stdout)?.[1]) > 5, stdout);
});
