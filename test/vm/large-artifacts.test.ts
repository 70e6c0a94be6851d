/** An artifact of 1 GB, from the upload to the builder: what it costs the server in memory. Content does not compress, entries are stored. */
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { createWriteStream, readFileSync } from 'node:fs';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { test } from 'node:test';
import { ZipFile } from 'yazl';
import { buildStored } from '../support/images.ts';
import { run, startServer, type TestServer } from '../support/server.ts';

const skip = process.env.REKINDLE_LONG_TESTS === undefined && 'writes 6 GB: REKINDLE_LONG_TESTS=1 runs it';
const MIB = 1024 ** 2;
const FILES = 16;
const FILE_MIB = 64;
const PART_MIB = 16;
const MOST_GROWTH_MIB = 150;

test('an artifact of 1 GB is stored, unpacked and handed to the builder in bounded memory', { skip }, async (t) => {
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-large-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const file = join(dir, 'artifact.zip');
  await writeArtifact(file);
  const server = stack.use(await startServer());
  const idleMiB = mostMiB(server);
  let at = performance.now();
  const phase = (name: string) => {
    const tookMs = performance.now() - at;
    t.diagnostic(
      `${name}: ${(tookMs / 1000).toFixed(1)} s, at most ${(mostMiB(server) - idleMiB).toFixed()} MiB over idle`,
    );
    at = performance.now();
  };
  await upload(server, 'large.zip', file);
  phase('upload');
  const image = await buildStored(server, 'large');
  phase('build');
  const log = await run('images', 'log', 'large', '--state', server.stateDir);
  for (const line of log.match(/^\[\w+\] took: .*$/gm) ?? []) t.diagnostic(line);
  // The app, `true`, ends at once: everything before it worked.
  assert.equal(image.stateReason, 'The application exited with code 0 before it was ready.', log);
  const growth = mostMiB(server) - idleMiB;
  assert.ok(growth < MOST_GROWTH_MIB, `the server took ${growth.toFixed()} MiB`);
});

async function writeArtifact(file: string): Promise<void> {
  const zip = new ZipFile();
  const dockerfile = 'FROM public.ecr.aws/lambda/microvms:al2023-minimal\nCOPY small /\nCMD ["true"]\n';
  zip.addBuffer(Buffer.from(dockerfile), 'Dockerfile');
  zip.addBuffer(Buffer.from('small'), 'small');
  for (let i = 0; i < FILES; i++) {
    const noise = randomFillSync(Buffer.alloc(MIB));
    const content = Array.from({ length: FILE_MIB }, () => noise);
    zip.addReadStream(Readable.from(content), `data/${i}`, { compress: false });
  }
  zip.end();
  await pipeline(zip.outputStream as unknown as Readable, createWriteStream(file));
}

async function upload({ s3, env }: TestServer, key: string, file: string): Promise<void> {
  const where = { Bucket: env.REKINDLE_ARTIFACT_BUCKET ?? '', Key: key };
  const { UploadId } = await s3.createMultipartUpload(where);
  await using handle = await open(file, 'r');
  const { size } = await handle.stat();
  const parts: { PartNumber: number; ETag: string | undefined }[] = [];
  for (let at = 0; at < size; at += PART_MIB * MIB) {
    const body = Buffer.alloc(Math.min(PART_MIB * MIB, size - at));
    await handle.read(body, 0, body.length, at);
    const PartNumber = parts.length + 1;
    const { ETag } = await s3.uploadPart({ ...where, UploadId, PartNumber, Body: body });
    parts.push({ PartNumber, ETag });
  }
  await s3.completeMultipartUpload({ ...where, UploadId, MultipartUpload: { Parts: parts } });
}

function mostMiB({ pid }: TestServer): number {
  return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0) / 1024;
}
