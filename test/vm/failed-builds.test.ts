/** Builds that must fail, each with its reason on the build and nothing left behind. Real builder, real machines. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type ArtifactFiles, buildImage, counterApp } from '../support/images.ts';
import { run, startServer, type TestServer } from '../support/server.ts';

describe('a build that fails', () => {
  let server: TestServer;
  before(async () => {
    server = await startServer();
  });
  after(() => server[Symbol.asyncDispose]());

  const cases: { name: string; files: ArtifactFiles | Buffer; reason: RegExp; log?: RegExp }[] = [
    {
      name: 'a-run-step-that-fails',
      files: {
        Dockerfile:
          'FROM public.ecr.aws/lambda/microvms:al2023-minimal\nRUN echo so-far-so-good && exit 3\nCMD ["true"]\n',
      },
      reason: /^The container image build failed\./,
      log: /so-far-so-good/,
    },
    { name: 'no-dockerfile', files: { 'app.py': 'print(1)' }, reason: /Dockerfile/ },
    { name: 'not-a-zip', files: Buffer.from('this is no zip at all, only text'), reason: /archive|zip/i },
    {
      name: 'unknown-base',
      files: { Dockerfile: 'FROM registry.invalid/nothing:here\nCMD ["true"]\n' },
      reason: /^The container image build failed\./,
    },
    {
      name: 'bad-instruction',
      files: { Dockerfile: 'FROM public.ecr.aws/lambda/microvms:al2023-minimal\nRUNN true\n' },
      reason: /^The container image build failed\./,
      log: /RUNN/,
    },
    {
      name: 'a-step-that-fills-the-disk',
      files: {
        Dockerfile:
          'FROM public.ecr.aws/lambda/microvms:al2023-minimal\nRUN fallocate --length 30G /big\nCMD ["true"]\n',
      },
      reason: /disk/i,
    },
    {
      name: 'a-command-that-is-not-there',
      files: { Dockerfile: 'FROM public.ecr.aws/lambda/microvms:al2023-minimal\nCMD ["/no/such/program"]\n' },
      reason: /^The application could not be started/,
      log: /\[rekindle\] .*\/no\/such\/program/,
    },
    {
      name: 'a-user-that-is-not-there',
      files: { Dockerfile: 'FROM public.ecr.aws/lambda/microvms:al2023-minimal\nUSER nobody-knows\nCMD ["true"]\n' },
      reason: /^The application could not be started/,
      log: /\[rekindle\] .*nobody-knows/,
    },
    {
      name: 'a-command-that-exits',
      files: { ...counterApp, 'app.py': 'import sys; print("cannot start: no configuration"); sys.exit(5)' },
      reason: /5/,
      log: /cannot start: no configuration/,
    },
  ];

  for (const { name, files, reason, log } of cases) {
    test(`${name} is refused with its reason`, async () => {
      const image = await buildImage(server, name, files);
      assert.equal(image.state, 'CREATE_FAILED');
      assert.match(image.stateReason ?? '', reason);
      if (log !== undefined) assert.match(await run('images', 'log', name, '--state', server.stateDir), log);
      const builds = join(server.stateDir, 'builds');
      assert.deepEqual(existsSync(builds) ? readdirSync(builds) : [], [], 'no work folder is left');
      assert.ok(!existsSync(join(server.stateDir, 'images', name, '1.0')), 'no half-made version is left');
    });
  }
});
