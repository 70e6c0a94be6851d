import assert from 'node:assert/strict';
import { test } from 'node:test';
import { commandFor, confinements, type Start } from './confinement.ts';
import { placesUnder } from './places.ts';

const start: Start = {
  program: '/cache/rekindle-gateway',
  places: placesUnder('/state'),
  uid: 0x4000_0001,
  bubblewrap: '/usr/bin/bwrap',
  toolsRoot: '/cache/jail',
};

test('the tightest confinement is tried first, and one without namespaces last', () => {
  assert.deepEqual(confinements(true, true), ['user', 'bare']);
  assert.deepEqual(confinements(false, true), ['namespace', 'bare']);
  assert.deepEqual(confinements(true, false), ['bare']);
});

test('a root server gives the gateway a user of its own, no capabilities and no way to new ones', async () => {
  const { program, args, uid } = await commandFor('user', start);
  const line = args.join(' ');
  assert.equal(program, '/usr/bin/bwrap');
  assert.equal(uid, undefined, 'bubblewrap needs root itself');
  assert.match(line, /^--cap-drop ALL --cap-add CAP_SETUID --cap-add CAP_SETGID --cap-add CAP_SETPCAP /);
  assert.match(
    line,
    / -- \/bin\/setpriv --reuid 1073741825 --regid 1073741825 --clear-groups --no-new-privs --bounding-set=-all /,
  );
  assert.match(line, / \/rekindle-gateway --dir \/gateway --flows \/flows --config \/config.json$/);
});

test('it sees nothing of the host but its program, its folders and the name servers, and shares the network alone', async () => {
  for (const kind of ['user', 'namespace'] as const) {
    const { args } = await commandFor(kind, start);
    const line = args.join(' ');
    assert.match(line, /--unshare-pid --as-pid-1 --unshare-ipc --unshare-uts --unshare-cgroup-try/);
    assert.doesNotMatch(line, /--unshare-net|die-with-parent/);
    assert.match(line, /--clearenv/);
    const writable = args.flatMap((arg, at) => (arg === '--bind' ? [args[at + 1]] : []));
    assert.deepEqual(writable, ['/state/gateway', '/state/logs/flows']);
    assert.match(line, /--remount-ro \/ /);
  }
});

test('without bubblewrap it is reached and reaches by descriptors, which need no way through the state folder', async () => {
  const { program, args, opens, uid } = await commandFor('bare', start);
  assert.equal(program, '/proc/self/fd/3');
  assert.deepEqual(args, ['--dir', '/proc/self/fd/4', '--flows', '/proc/self/fd/5', '--config', '/proc/self/fd/6']);
  assert.deepEqual(opens, [
    '/cache/rekindle-gateway',
    '/state/gateway',
    '/state/logs/flows',
    '/state/gateway-config.json',
  ]);
  assert.equal(uid, process.geteuid?.() === 0 ? start.uid : undefined);
});
