import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bubblewrapArguments, type JailArguments } from './bubblewrap.ts';
import { PARTS } from './plan.ts';

const limits = { fileBytes: 1000, tasks: 9 };
const asRoot: JailArguments = {
  root: '/jail',
  infoFd: 5,
  plan: { kind: 'uid', parts: new Set(PARTS.filter((part) => part !== 'no-more-users')) },
  mounts: [
    { kind: 'write', from: '/state/run/a/vm', to: '/run/vm' },
    { kind: 'read', from: '/state/images/ram', to: '/ram' },
    { kind: 'device', from: '/dev/urandom', to: '/dev/urandom' },
  ],
  limits,
  user: { uid: 0x4000_0001, groups: [] },
};

/** The arguments as one line, the programs separated. */
function chain(jail: JailArguments): string {
  return bubblewrapArguments(jail).join(' ');
}

test('a root server becomes the user inside, keeps no capability and cannot gain any', () => {
  const line = chain(asRoot);
  assert.match(line, /^--cap-drop ALL --cap-add CAP_SETUID --cap-add CAP_SETGID --cap-add CAP_SETPCAP /);
  const uid = '1073741825';
  assert.match(line, new RegExp(`/bin/setpriv --reuid ${uid} --regid ${uid} --clear-groups --no-new-privs`));
  assert.match(line, /--bounding-set=-all --inh-caps=-all --ambient-caps=-all$/);
  assert.doesNotMatch(line, /--unshare-user/);
});

test('the jail outlives the server: nothing dies with its parent', () => {
  assert.doesNotMatch(chain(asRoot), /die-with-parent/);
});

test('an unprivileged server needs nobody else: a user namespace that is closed behind it', () => {
  const line = chain({ ...asRoot, plan: { kind: 'namespace', parts: new Set(PARTS) }, user: undefined });
  assert.match(line, /^--unshare-user .*--disable-userns/);
  assert.doesNotMatch(line, /cap-add|setpriv/);
});

test('the root is read-only and comes first; the environment is empty but for the libraries', () => {
  const line = chain(asRoot);
  assert.match(line, /--ro-bind \/jail \/ --bind \/state\/run\/a\/vm \/run\/vm --ro-bind \/state\/images\/ram \/ram /);
  assert.match(
    line,
    /--dev-bind \/dev\/urandom \/dev\/urandom --chdir \/run\/vm --clearenv --setenv LD_LIBRARY_PATH \/lib --/,
  );
});

test('limits are set inside, where processes are counted for the machine alone, and left out where they are not', () => {
  assert.match(chain(asRoot), / -- \/bin\/prlimit --core=0 --nofile=\d+ --fsize=1000 --nproc=9 -- \/bin\/setpriv/);
  assert.doesNotMatch(chain({ ...asRoot, limits: { fileBytes: 1 } }), /nproc/);
});

test('it has every namespace the plan says, and no network', () => {
  assert.match(chain(asRoot), /--unshare-pid --as-pid-1 --unshare-ipc --unshare-uts --hostname vm --unshare-net/);
});

test('the group of /dev/kvm is the only further one', () => {
  assert.match(chain({ ...asRoot, user: { uid: 7, groups: [104] } }), /--regid 7 --groups 104 --no-new-privs/);
});
