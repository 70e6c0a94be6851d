/** The machine of a build that waits for its owner's next one. Real builder, real machines. */
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { buildImage, counterApp } from '../support/images.ts';
import { run, startServer, type TestServer } from '../support/server.ts';

describe('the machine of a build', () => {
  let server: TestServer;
  before(async () => {
    server = await startServer();
  });
  after(() => server[Symbol.asyncDispose]());

  let builds = 0;
  /** Says what its steps saw, the end of the log, and how many machines are left. */
  async function build(step: string, version: string) {
    const dockerfile = [
      'FROM public.ecr.aws/lambda/microvms:al2023-minimal',
      'RUN echo slow > /slow',
      'COPY version /version',
      `RUN ${step}`,
      'COPY app.py .',
      'CMD ["python3", "-u", "app.py"]',
      '',
    ].join('\n');
    const name = `build-${builds++}`;
    const { state } = await buildImage(server, name, { ...counterApp, Dockerfile: dockerfile, version });
    const log = await run('images', 'log', name, '--state', server.stateDir);
    return {
      state,
      said: /built \d\S+/.exec(log)?.[0],
      isWoken: /took: .*, wake /.test(log),
      isCached: /RUN echo slow > \/slow\n#\d+ CACHED/.test(log),
      machines: (await readdir(join(server.stateDir, 'run'))).filter((id) => id.startsWith('builder-')).length,
    };
  }
  const SAY = 'echo "built $(cat /version)"';

  test('waits for the next of its owner, that finds what changed and what did not', async () => {
    const first = { state: 'CREATED', said: 'built 1.0.0', isWoken: false, isCached: false, machines: 1 };
    assert.deepEqual(await build(SAY, '1.0.0'), first);
    const second = { state: 'CREATED', said: 'built 1.0.1', isWoken: true, isCached: true, machines: 1 };
    assert.deepEqual(await build(SAY, '1.0.1'), second);
  });

  test('ends with one that fails, and what was kept before is there for the next', async () => {
    const failed = { state: 'CREATE_FAILED', said: undefined, isWoken: true, isCached: true, machines: 0 };
    assert.deepEqual(await build('false', '1.0.1'), failed);
    const next = { state: 'CREATED', said: 'built 1.0.2', isWoken: false, isCached: true, machines: 1 };
    assert.deepEqual(await build(SAY, '1.0.2'), next);
  });
});
