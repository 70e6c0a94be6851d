/**
 * Two builds of the same files from blank caches come to the same root file system, and so does one that has most of its layers
 * in the cache. What is told in docs/PROVENANCE.md, "What is reproducible".
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type ArtifactFiles, buildImage, counterApp } from '../support/images.ts';
import { run, startServer, type TestServer } from '../support/server.ts';

const skip = process.env.REKINDLE_LONG_TESTS === undefined && 'takes minutes: REKINDLE_LONG_TESTS=1 runs it';

const FROM = 'FROM public.ecr.aws/lambda/microvms:al2023-minimal';
const MODULE = { 'lib.py': 'def answer():\n    return 42\n' };

/** Layers that write, link, change, hide and remove. */
const layered = (app: string): ArtifactFiles => ({
  Dockerfile: [
    FROM,
    'RUN mkdir -p /opt/a /opt/b && seq 1 20000 > /opt/a/numbers && ln -s ../a/numbers /opt/b/link && ln /opt/a/numbers /opt/b/hard',
    'RUN sort -r /opt/a/numbers > /opt/a/reversed && rm /opt/b/hard && chmod 4755 /opt/a/reversed && chown 7:8 /opt/b',
    'WORKDIR /app',
    'COPY app.py .',
    'CMD ["python3", "-u", "app.py"]',
    '',
  ].join('\n'),
  'app.py': app,
});
const APP = counterApp['app.py'] ?? '';

const compiled = (...before: readonly string[]): ArtifactFiles => ({
  ...counterApp,
  ...MODULE,
  Dockerfile: [
    FROM,
    ...before,
    'WORKDIR /app',
    'COPY app.py lib.py ./',
    'RUN python3 -m compileall -q lib.py',
    'CMD ["python3", "-u", "app.py"]',
    '',
  ].join('\n'),
});

describe('a root file system', { skip }, () => {
  let first: TestServer;
  let second: TestServer;

  before(async () => {
    [first, second] = await Promise.all([startServer(), startServer()]);
  });
  after(async () => {
    await Promise.all([first?.[Symbol.asyncDispose](), second?.[Symbol.asyncDispose]()]);
  });

  test('is the same from blank caches and from full ones', async () => {
    const before = await treeOf(first, 'layered', layered(APP));
    // Of the layers below the change nothing is read again.
    const again = await treeOf(first, 'changed', layered(`${APP}\n# changed\n`));
    assert.notEqual(again, before);
    assert.equal(await treeOf(second, 'changed', layered(`${APP}\n# changed\n`)), again);
    assert.equal(await treeOf(second, 'layered', layered(APP)), before);
  });

  test('holds bytecode of the same bytes where the step has SOURCE_DATE_EPOCH', async () => {
    const files = compiled('ARG SOURCE_DATE_EPOCH');
    assert.equal(await treeOf(first, 'compiled', files), await treeOf(second, 'compiled', files));
  });
});

async function treeOf(server: TestServer, name: string, files: ArtifactFiles): Promise<string> {
  const image = await buildImage(server, name, files);
  assert.equal(image.state, 'CREATED', `${image.stateReason}`);
  const said = await run('images', 'provenance', name, '--state', server.stateDir);
  const { subject } = JSON.parse(said) as { subject: { digest: Record<string, string> }[] };
  const trees = subject.flatMap(({ digest }) => digest.rekindleTree1 ?? []);
  assert.equal(trees.length, 1, said);
  return trees[0] ?? '';
}
