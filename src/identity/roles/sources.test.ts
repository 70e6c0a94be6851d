import assert from 'node:assert/strict';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { SourceError } from './role-credentials.ts';
import type { RoleSource } from './roles-file.ts';
import { type Asking, ask } from './sources.ts';
import { refuseWith, serveTestSts } from './test-sts.ts';

const SECRET = 'secret-of-the-test';
const CALLER = { kind: 'static', accessKeyId: 'AKIACALLER', secretAccessKey: SECRET, sessionToken: '' } as const;

function asking(given: Partial<Asking> = {}): Asking {
  return {
    sessionName: 'microvm-1',
    environment: { PATH: process.env.PATH },
    signal: new AbortController().signal,
    ...given,
  };
}

async function folder(): Promise<{ dir: string } & AsyncDisposable> {
  const dir = await mkdtemp(path.join(tmpdir(), 'rk-sources-'));
  return { dir, [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }) };
}

/** Rejects with a SourceError of the kind whose sentence says `about` and nothing secret. */
async function refused(work: Promise<unknown>, kind: SourceError['kind'], about: RegExp): Promise<void> {
  await assert.rejects(work, (error: unknown) => {
    assert.ok(error instanceof SourceError, String(error));
    assert.equal(error.kind, kind, error.message);
    assert.match(error.message, about);
    assert.doesNotMatch(error.message, /secret|private|[/]tmp/);
    return true;
  });
}

test('static keys and variables of the server have no end of their own', async () => {
  assert.deepEqual(await ask({ ...CALLER, sessionToken: 'token' }, asking()), {
    kind: 'static',
    accessKeyId: 'AKIACALLER',
    secretAccessKey: SECRET,
    sessionToken: 'token',
    expiresAt: null,
  });
  const source = { kind: 'environment', accessKeyId: 'ID', secretAccessKey: 'SECRET', sessionToken: 'TOKEN' } as const;
  const environment = { ID: 'AKIAENV', SECRET, TOKEN: 'token' };
  assert.deepEqual(await ask(source, asking({ environment })), {
    accessKeyId: 'AKIAENV',
    secretAccessKey: SECRET,
    sessionToken: 'token',
    expiresAt: null,
  });
  await refused(ask(source, asking({ environment: { SECRET } })), 'gone', /no environment variable ID/);
  const spaced = { ...environment, SECRET: 'two words' };
  await refused(ask(source, asking({ environment: spaced })), 'failed', /SecretAccessKey/);
});

test('a credential document in a file gives its credentials and their end', async () => {
  await using f = await folder();
  const file = path.join(f.dir, 'credentials.json');
  const source = { kind: 'file', path: file, profile: null } as const;
  await refused(ask(source, asking()), 'gone', /ENOENT/);
  const document = {
    Version: 1,
    AccessKeyId: 'ASIA1',
    SecretAccessKey: SECRET,
    SessionToken: 't',
    Expiration: '2027-01-01T00:00:00Z',
  };
  await writeFile(file, JSON.stringify(document));
  assert.deepEqual(await ask(source, asking()), {
    accessKeyId: 'ASIA1',
    secretAccessKey: SECRET,
    sessionToken: 't',
    expiresAt: Date.UTC(2027, 0, 1),
  });
  for (const [text, about] of [
    ['', /no JSON object/],
    [`{"SecretAccessKey": "${SECRET}`, /no JSON object/],
    ['[]', /no JSON object/],
    [JSON.stringify({ ...document, AccessKeyId: undefined }), /no AccessKeyId/],
    [JSON.stringify({ ...document, SecretAccessKey: 7 }), /no SecretAccessKey/],
    [JSON.stringify({ ...document, SessionToken: 'a\r\nb' }), /no SessionToken/],
    [JSON.stringify({ ...document, SessionToken: 'a'.repeat(8193) }), /no SessionToken/],
    [JSON.stringify({ ...document, Expiration: 'soon' }), /Expiration/],
    [JSON.stringify({ ...document, Expiration: 1 }), /Expiration/],
    ['x'.repeat(1024 * 1024 + 1), /over 1 MiB/],
  ] as const) {
    await writeFile(file, text);
    await refused(ask(source, asking()), 'failed', about);
  }
  await refused(ask({ ...source, path: f.dir }, asking()), 'failed', /no file|EISDIR/);
});

test('a profile of a shared-credentials file is found by its name', async () => {
  await using f = await folder();
  const file = path.join(f.dir, 'credentials');
  await writeFile(
    file,
    [
      '# keys',
      '[default]',
      'aws_access_key_id = AKIADEFAULT',
      'aws_secret_access_key=default-key',
      '[ profile reporting ]',
      'AWS_ACCESS_KEY_ID=AKIAREPORT',
      '; aws_secret_access_key = wrong',
      'aws_secret_access_key = a/b+c=',
      'region = eu-central-1',
      '[other]',
      'aws_access_key_id = AKIAOTHER',
    ].join('\r\n'),
  );
  const of = (profile: string) => ask({ kind: 'file', path: file, profile }, asking());
  assert.deepEqual(await of('reporting'), {
    accessKeyId: 'AKIAREPORT',
    secretAccessKey: 'a/b+c=',
    sessionToken: '',
    expiresAt: null,
  });
  assert.equal((await of('default')).accessKeyId, 'AKIADEFAULT');
  await refused(of('other'), 'failed', /no SecretAccessKey/);
  await refused(of('missing'), 'gone', /no profile missing/);
});

function command(dir: string, script: string, more: Partial<Extract<RoleSource, { kind: 'command' }>> = {}) {
  const argv = ['/bin/sh', '-c', `cd ${dir}; ${script}`];
  return { kind: 'command', argv, timeoutMs: 20_000, environment: [], ...more } as const;
}

test('a command gives what it prints, and sees only the variables it is given', async () => {
  await using f = await folder();
  const script = `printf '{"Version":1,"AccessKeyId":"ASIA%s","SecretAccessKey":"${SECRET}"}' "$GIVEN$HIDDEN"`;
  const environment = { PATH: process.env.PATH, GIVEN: 'given', HIDDEN: 'hidden' };
  const given = await ask(command(f.dir, script, { environment: ['GIVEN'] }), asking({ environment }));
  assert.deepEqual(given, { accessKeyId: 'ASIAgiven', secretAccessKey: SECRET, sessionToken: '', expiresAt: null });
});

test('a command that fails, babbles, hangs or prints something else is refused without its words', async () => {
  await using f = await folder();
  const document = `{"AccessKeyId":"A","SecretAccessKey":"${SECRET}"}`;
  for (const [script, about] of [
    [`echo ${SECRET} >&2; exit 3`, /exit code 3/],
    ['kill -9 $$', /SIGKILL/],
    [`echo ${SECRET}`, /no JSON object/],
    [`echo '${document}'`, /Version 1/],
    [`echo '{"Version":2}'`, /Version 1/],
    ['head -c 70000 /dev/zero', /over 64 KiB/],
  ] as const) {
    await refused(ask(command(f.dir, script), asking()), 'failed', about);
  }
  await refused(ask(command(f.dir, 'sleep 600', { timeoutMs: 50 }), asking()), 'failed', /longer than/);
  await refused(
    ask({ ...command(f.dir, ''), argv: ['/no/such/program'] }, asking()),
    'failed',
    /cannot be started: ENOENT/,
  );
});

test('nothing of a command outlives it, also what it put in the background', async () => {
  await using f = await folder();
  const file = path.join(f.dir, 'pid');
  const document = `{"Version":1,"AccessKeyId":"A","SecretAccessKey":"s"}`;
  await ask(command(f.dir, `sleep 600 >/dev/null & echo $! > pid; echo '${document}'`), asking());
  const pid = Number(await readFile(file, 'utf8'));
  for (;;) {
    const state = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => 'gone');
    if (state === 'gone' || / [ZX] /.test(state)) break;
    await new Promise((resolve) => setImmediate(resolve));
  }
});

test('an aborted caller does not wait for a command', async () => {
  await using f = await folder();
  const controller = new AbortController();
  const work = ask(command(f.dir, 'sleep 600'), asking({ signal: controller.signal }));
  controller.abort(new Error('the server is stopping'));
  await assert.rejects(work, /the server is stopping/);
});

test('arguments reach a command as they are, without a shell between', async () => {
  await using f = await folder();
  const program = path.join(f.dir, 'program');
  await writeFile(program, `#!/bin/sh\nprintf '{"Version":1,"AccessKeyId":"%s","SecretAccessKey":"s"}' "$1"\n`);
  await chmod(program, 0o700);
  const source = { kind: 'command', argv: [program, '$(id);`id`|&'], timeoutMs: 20_000, environment: [] } as const;
  assert.equal((await ask(source, asking())).accessKeyId, '$(id);`id`|&');
});

function assumption(endpoint: string, caller = CALLER as Extract<RoleSource, { kind: 'assume-role' }>['caller']) {
  return {
    kind: 'assume-role',
    endpoint,
    region: 'eu-central-1',
    roleArn: 'arn:aws:iam::123456789012:role/agent',
    externalId: 'external',
    durationSeconds: 900,
    caller,
  } as const;
}

test('a role is assumed at the endpoint with the caller of another source, and the session names the microVM', async () => {
  await using sts = await serveTestSts({ now: () => Date.UTC(2027, 0, 1) });
  const environment = { ID: 'AKIAENV', SECRET };
  const caller = { kind: 'environment', accessKeyId: 'ID', secretAccessKey: 'SECRET', sessionToken: null } as const;
  const given = await ask(assumption(sts.endpoint, caller), asking({ environment }));
  assert.deepEqual(given, {
    accessKeyId: 'ASIASTS1',
    secretAccessKey: 'sts-secret-1',
    sessionToken: 'sts-token-1',
    expiresAt: Date.UTC(2027, 0, 1, 0, 15),
  });
  const [request] = sts.asked;
  assert.equal(request?.signedBy, 'AKIAENV');
  const { Action, RoleArn, RoleSessionName, DurationSeconds, ExternalId } = request?.parameters ?? {};
  assert.deepEqual(
    { Action, RoleArn, RoleSessionName, DurationSeconds, ExternalId },
    {
      Action: 'AssumeRole',
      RoleArn: 'arn:aws:iam::123456789012:role/agent',
      RoleSessionName: 'microvm-1',
      DurationSeconds: '900',
      ExternalId: 'external',
    },
  );
});

test('an STS that says no is told from one that cannot say, and its words stay with it', async () => {
  await using sts = await serveTestSts();
  {
    using _refusing = sts.answer(refuseWith('AccessDenied', 403));
    await refused(ask(assumption(sts.endpoint), asking()), 'gone', /AccessDenied/);
  }
  {
    using _broken = sts.answer(refuseWith('InternalFailure', 500));
    await refused(ask(assumption(sts.endpoint), asking()), 'failed', /gave no credentials/);
  }
  {
    using _odd = sts.answer((response) => response.end(`<html>${SECRET}</html>`));
    await refused(ask(assumption(sts.endpoint), asking()), 'failed', /./);
  }
  {
    using _cut = sts.answer((response) => response.destroy());
    await refused(ask(assumption(sts.endpoint), asking()), 'failed', /gave no credentials/);
  }
  assert.equal((await ask(assumption(sts.endpoint), asking())).sessionToken.startsWith('sts-token'), true);
});
