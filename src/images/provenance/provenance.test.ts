import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { readArchive, writeArchive } from '../../lib/index.ts';
import type { CreateImageInput } from '../index.ts';
import { ARN, type Bench, bench, INPUT } from '../test-bench.ts';
import { decodeFacts, type ProvenanceFacts } from './facts.ts';
import { type Statement, spdxOf } from './statement.ts';

/** As much of a statement as is looked at here. */
interface Read {
  readonly subject: readonly { name: string; digest: Record<string, string>; annotations?: Record<string, unknown> }[];
  readonly predicate: {
    readonly buildDefinition: {
      readonly internalParameters: object;
      readonly resolvedDependencies: readonly {
        name?: string;
        uri?: string;
        digest: Record<string, string>;
        content?: string;
      }[];
    };
    readonly runDetails: {
      readonly builder: object;
      readonly metadata: { readonly startedOn: string; readonly finishedOn: string };
      readonly byproducts: readonly { name: string; digest: { sha256: string }; annotations: object }[];
    };
  };
}

const sha256 = (bytes: Buffer | string) => createHash('sha256').update(bytes).digest('hex');
const shape = (statement: Statement) => statement as unknown as Read;
const provenance = (b: Bench, version = '1.0', arn = ARN) => b.images.upkeep.provenance(arn, version);
const factsFile = (b: Bench, version = '1.0') => path.join(b.stateDir, 'images/demo', version, 'provenance.json');

async function built(): Promise<{ b: Bench; log: string }> {
  const b = await bench();
  await b.images.create({ ...INPUT, environmentVariables: { TOKEN: 'hunter2' } });
  return { b, log: await b.built() };
}

async function taken(b: Bench, bytes: Buffer, name = 'shop'): Promise<string> {
  const source = async function* () {
    yield bytes;
  };
  const { digest: manifestDigest } = (await readArchive(source())).head;
  const accept = async (body: Readonly<Record<string, unknown>>) => body as unknown as CreateImageInput;
  await b.images.upkeep.importVersion(source(), { name, manifestDigest, accept }, {});
  return b.built(name);
}

async function exported(b: Bench): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(b.images.upkeep.exportVersion(ARN, '1.0', {})));
}

test('a version says what it was built of, by what, and what it is made of', async () => {
  const { b, log } = await built();
  await using _b = b;
  const { statement, packages } = await provenance(b);
  assert.equal(statement._type, 'https://in-toto.io/Statement/v1');
  assert.equal(statement.predicateType, 'https://slsa.dev/provenance/v1');
  const { subject, predicate } = shape(statement);
  assert.deepEqual(
    subject.map(({ name }) => name),
    ['rootfs', 'disk', 'ram', 'state', 'changes', 'manifest.json'],
  );
  const manifest = await readFile(path.join(b.stateDir, 'images/demo/1.0/snapshot/manifest.json'));
  assert.deepEqual(subject.at(-1)?.digest, { sha256: sha256(manifest) });
  const [artifact, dockerfile, base] = predicate.buildDefinition.resolvedDependencies;
  assert.equal(artifact?.uri, 's3://code/demo.zip');
  assert.match(artifact?.digest.sha256 ?? '', /^[0-9a-f]{64}$/);
  assert.deepEqual(dockerfile, {
    name: 'Dockerfile',
    digest: { sha256: sha256('FROM base\n') },
    mediaType: 'text/plain',
    content: Buffer.from('FROM base\n').toString('base64'),
  });
  assert.deepEqual(base?.digest, { sha256: 'cd'.repeat(32) });
  const [buildLog, list] = predicate.runDetails.byproducts;
  assert.equal(buildLog?.digest.sha256, sha256(log), 'the log as anybody can read it');
  assert.equal(list?.digest.sha256, sha256(JSON.stringify(packages)));
  assert.match(JSON.stringify(packages), /"spdxVersion":"SPDX-2.3".*pkg:deb\/bash@5.2-1\?arch=amd64/);
  assert.doesNotMatch(JSON.stringify(statement), /hunter2/, 'values of variables may be secrets');
  assert.deepEqual((await b.images.upkeep.collectGarbage({ dryRun: true }, {})).files, []);
});

test('two builds of the same artifact differ in their names and times only', async () => {
  const { b } = await built();
  await using _b = b;
  const { name: _name, ...rest } = INPUT;
  await b.clock.advance(60_000);
  await b.images.update({ imageIdentifier: ARN, ...rest });
  await b.built('demo', '2.0');
  const [one, two] = [shape((await provenance(b)).statement), shape((await provenance(b, '2.0')).statement)];
  assert.deepEqual(
    two.predicate.buildDefinition.resolvedDependencies,
    one.predicate.buildDefinition.resolvedDependencies,
  );
  assert.notEqual(two.predicate.runDetails.metadata.startedOn, one.predicate.runDetails.metadata.startedOn);
});

test('a version sealed anew has the same origin, and its statement is of the new snapshot', async () => {
  const { b } = await built();
  await using _b = b;
  const before = shape((await provenance(b)).statement);
  await b.images.upkeep.reseal(ARN, '1.0', { ifNeeded: false });
  const after = shape((await provenance(b)).statement);
  assert.deepEqual(after.predicate, before.predicate);
  assert.deepEqual(
    [before, after].map(({ subject }) => subject.at(-1)?.annotations?.snapshot),
    [1, 2],
  );
});

test('what is made of an earlier root disk has its origin, with the steps since, also on another server', async () => {
  const { b } = await built();
  await using _b = b;
  await b.images.rebuild(ARN, '1.0');
  const log = await b.built('demo', '2.0');
  const [one, two] = [shape((await provenance(b)).statement), shape((await provenance(b, '2.0')).statement)];
  assert.deepEqual(two.predicate.buildDefinition.internalParameters, {
    steps: [{ kind: 'rebuilt', imageVersion: '1.0' }],
    isReused: false,
  });
  assert.deepEqual(two.predicate.runDetails.builder, one.predicate.runDetails.builder);
  assert.equal(two.predicate.runDetails.byproducts[0]?.digest.sha256, sha256(log));
  await using to = await bench();
  await taken(to, await exported(b));
  const there = shape((await provenance(to, '1.0', ARN.replace('demo', 'shop'))).statement);
  assert.deepEqual(there.predicate.buildDefinition.internalParameters, {
    steps: [
      {
        kind: 'imported',
        from: { region: 'us-east-1', accountId: '000000000000' },
        imageName: 'demo',
        imageVersion: '1.0',
      },
    ],
    isReused: false,
  });
});

test('an imported file that tells the origin of another root disk has none', async () => {
  const { b } = await built();
  await using _b = b;
  const bytes = await exported(b);
  const source = async function* () {
    yield bytes;
  };
  const { head, chunks } = await readArchive(source());
  const [chunk] = await Array.fromAsync(chunks());
  const about = structuredClone(head.about) as { provenance: { disk: string } };
  about.provenance.disk = '0'.repeat(64);
  const parts = head.parts.map((part) => ({ ...part, read: async () => chunk?.data ?? Buffer.alloc(0) }));
  const forged = Buffer.concat(await Array.fromAsync(writeArchive(about, parts)));
  assert.match(await taken(b, forged), /is of another one, and is left out[\s\S]*done/);
  await assert.rejects(provenance(b, '1.0', ARN.replace('demo', 'shop')), { code: 'CONFLICT' });
});

test('a provenance that is not as it was written is none', async () => {
  const { b } = await built();
  await using _b = b;
  const text = await readFile(factsFile(b), 'utf8');
  await writeFile(factsFile(b), text.replace('s3://code', 's3://evil'));
  await assert.rejects(provenance(b), { code: 'CONFLICT', message: /Nothing is known/ });
  await assert.rejects(provenance(b, '7.0'), { code: 'NOT_FOUND' });
});

test('the epoch of an RPM is no part of the version in its URL', async () => {
  const { b } = await built();
  await using _b = b;
  const facts = JSON.parse(await readFile(factsFile(b), 'utf8')) as ProvenanceFacts;
  const packages = [
    { type: 'deb', name: 'libstdc++6', version: '1:2.3-4', arch: 'amd64' },
    { type: 'rpm', name: 'openssl', version: '1:3.2.2-1.amzn2023', arch: 'x86_64' },
    { type: 'rpm', name: 'libstdc++', version: '0.1^git1-2', arch: 'noarch' },
  ] as const;
  const build = { ...facts.build, origin: { ...facts.build.origin, packages } };
  const listed = spdxOf({ imageArn: ARN, imageName: 'demo', version: '1.0' }, { ...facts, build }) as {
    packages: readonly { versionInfo: string; externalRefs: readonly { referenceLocator: string }[] }[];
  };
  assert.deepEqual(
    listed.packages.map((one) => [one.versionInfo, one.externalRefs[0]?.referenceLocator]),
    [
      ['1:2.3-4', 'pkg:deb/libstdc%2B%2B6@1%3A2.3-4?arch=amd64'],
      ['1:3.2.2-1.amzn2023', 'pkg:rpm/openssl@3.2.2-1.amzn2023?arch=x86_64&epoch=1'],
      ['0.1^git1-2', 'pkg:rpm/libstdc%2B%2B@0.1%5Egit1-2?arch=noarch'],
    ],
  );
});

test('a provenance of somebody else is taken only in its exact shape', async () => {
  const { b } = await built();
  await using _b = b;
  const facts = JSON.parse(await readFile(factsFile(b), 'utf8')) as ProvenanceFacts;
  assert.deepEqual(decodeFacts(facts), facts);
  const { build } = facts;
  const odd: unknown[] = [
    null,
    { ...facts, generation: 2 },
    { ...facts, disk: '../../etc' },
    { ...facts, steps: new Array(65).fill({ kind: 'rebuilt', imageVersion: '1.0' }) },
    { ...facts, steps: [{ kind: 'blessed' }] },
    { ...facts, build: { ...build, finishedAt: 9e15 } },
    { ...facts, build: { ...build, finishedAt: 'now' } },
    { ...facts, build: { ...build, origin: { ...build.origin, packages: 'all' } } },
    { ...facts, build: { ...build, artifact: { ...build.artifact, uri: 'x'.repeat(5000) } } },
    { ...facts, build: { ...build, dockerfile: { ...build.dockerfile, text: 'x'.repeat(70_000) } } },
  ];
  for (const value of odd) assert.throws(() => decodeFacts(value), { code: 'INVALID' });
});
