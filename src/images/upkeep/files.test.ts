import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { DomainError, readArchive, type SourcePart, writeArchive } from '../../lib/index.ts';
import type { CreateImageInput } from '../index.ts';
import { ARN, type Bench, bench, INPUT } from '../test-bench.ts';

async function bytesOf(pieces: AsyncIterable<Buffer>): Promise<Buffer> {
  const found: Buffer[] = [];
  for await (const piece of pieces) found.push(piece);
  return Buffer.concat(found);
}

async function* pieces(bytes: Buffer, length = 777): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += length) yield bytes.subarray(at, at + length);
}

async function exported(b: Bench, version = '1.0'): Promise<Buffer> {
  return bytesOf(b.images.upkeep.exportVersion(ARN, version, {}));
}

const SETTINGS = {
  description: 'a shop',
  resources: [{ minimumMemoryInMiB: 1024 }],
  environmentVariables: { MODE: 'prod' },
  hooks: { port: 9000, microvmHooks: { run: 'ENABLED' } },
  tags: { team: 'a' },
} as const;

async function withImage(b: Bench): Promise<Buffer> {
  await b.images.create({ ...INPUT, ...SETTINGS });
  await b.built();
  return exported(b);
}

interface Asked {
  name?: string;
  manifestDigest?: string;
  accept?: (body: Readonly<Record<string, unknown>>) => Promise<CreateImageInput>;
}

/** The wire layer has its own tests: here every body is taken as it is. */
async function take(b: Bench, bytes: Buffer, asked: Asked = {}) {
  const digest = await readArchive(pieces(bytes)).then(
    ({ head }) => head.digest,
    () => '0'.repeat(64),
  );
  const accept = async (body: Readonly<Record<string, unknown>>) => body as unknown as CreateImageInput;
  return b.images.upkeep.importVersion(pieces(bytes), { manifestDigest: digest, accept, ...asked }, {});
}

async function staged(b: Bench): Promise<string[]> {
  return readdir(path.join(b.stateDir, 'imports')).catch(() => []);
}

test('a version goes to another server as one file and is started there, without its artifact', async () => {
  await using from = await bench();
  const bytes = await withImage(from);
  await using to = await bench();
  const view = await take(to, bytes);
  assert.deepEqual([view.imageArn, view.imageVersion, view.state], [ARN, '1.0', 'CREATING']);
  assert.match(await to.built(), /using the imported root disk[\s\S]*done/);
  assert.deepEqual(
    to.engine.calls.map((call) => call.split(' ')[0]),
    ['seal'],
  );
  const [there, here] = [await from.images.getVersion(ARN, '1.0'), await to.images.getVersion(ARN, '1.0')];
  const { createdAt: _a, updatedAt: _b, ...configuration } = there;
  const { createdAt: _c, updatedAt: _d, ...imported } = here;
  assert.deepEqual(imported, configuration);
  assert.equal((await to.images.resolve(ARN)).memoryMiB, 1024);
  assert.deepEqual(await to.images.tags(ARN), {}, 'tags are the image’s, and stay with it');
  assert.deepEqual(await staged(to), []);
  assert.deepEqual((await to.images.upkeep.collectGarbage({ dryRun: true }, {})).files, []);
});

test('an import under the name of an image is its next version; another name makes another image', async () => {
  await using b = await bench();
  const bytes = await withImage(b);
  assert.equal((await take(b, bytes)).imageVersion, '2.0');
  await b.built('demo', '2.0');
  const shop = await take(b, bytes, { name: 'shop' });
  assert.deepEqual([shop.name, shop.imageVersion], ['shop', '1.0']);
  await b.built('shop');
  assert.equal((await b.images.get(shop.imageArn)).state, 'CREATED');
});

test('ARNs of the exporter become those of the server that imports; those of others stay', async () => {
  await using b = await bench();
  const bytes = await withImage(b);
  const { head, chunks } = await readArchive(pieces(bytes));
  const about = structuredClone(head.about) as { from: object; config: Record<string, unknown> };
  about.from = { region: 'eu-north-1', accountId: '123456789012' };
  about.config.baseImageArn = 'arn:aws:lambda:eu-north-1:aws:microvm-image:al2023-1';
  about.config.buildRoleArn = 'arn:aws:iam::123456789012:role/build';
  about.config.egressNetworkConnectors = ['arn:aws:lambda:eu-north-1:555555555555:network-connector:x'];
  const found = await Array.fromAsync(chunks());
  const parts: SourcePart[] = head.parts.map((part) => ({
    ...part,
    read: async () => found[0]?.data ?? Buffer.alloc(0),
  }));
  const bodies: object[] = [];
  const accept = async (body: Readonly<Record<string, unknown>>) => {
    bodies.push(body);
    throw new DomainError('DENIED', 'no');
  };
  await assert.rejects(take(b, await bytesOf(writeArchive(about, parts)), { accept }), { code: 'DENIED' });
  const [body] = bodies as Record<string, unknown>[];
  assert.deepEqual(
    [body?.baseImageArn, body?.buildRoleArn, body?.egressNetworkConnectors],
    [INPUT.baseImageArn, INPUT.buildRoleArn, ['arn:aws:lambda:us-east-1:555555555555:network-connector:x']],
  );
});

test('a file that is not whole, not announced, not allowed or not an image leaves nothing behind', async () => {
  await using b = await bench();
  const bytes = await withImage(b);
  const about = (await readArchive(pieces(bytes))).head.about as Record<string, unknown>;
  const data = Buffer.alloc(4096, 1);
  const chunk = { at: 0, digest: createHash('sha256').update(data).digest() };
  const disk: SourcePart = { name: 'disk', bytes: data.length, chunks: [chunk], read: async () => data };
  const pack = (what: unknown, parts: SourcePart[] = [disk]) => bytesOf(writeArchive(what, parts));
  const config = about.config as object;
  const built = about.built as { config: object };
  const cases: [string, Buffer, RegExp, Asked?][] = [
    ['cut off', bytes.subarray(0, bytes.length - 3), /cut off/],
    ['damaged', Buffer.concat([bytes.subarray(0, -1), Buffer.of(0)]), /./],
    ['empty', Buffer.alloc(0), /cut off/],
    ['another manifest', bytes, /announced/, { manifestDigest: 'f'.repeat(64) }],
    ['not allowed', bytes, /may not/, { accept: () => Promise.reject(new DomainError('DENIED', 'may not')) }],
    ['an archive of something else', await pack({ format: 'photos' }), /no image version/],
    ['of a later generation', await pack({ ...about, generation: 2 }), /generation 2/],
    ['no container', await pack({ ...about, built: { usedBytes: 1 } }), /container/],
    [
      'a variable without a name',
      await pack({ ...about, built: { ...built, config: { ...built.config, env: ['=x'] } } }),
      /variables/,
    ],
    [
      'a command of numbers',
      await pack({ ...about, built: { ...built, config: { ...built.config, cmd: [1] } } }),
      /command/,
    ],
    [
      'a port out of bounds',
      await pack({ ...about, built: { ...built, config: { ...built.config, exposedPorts: [0] } } }),
      /ports/,
    ],
    [
      'a member nobody knows',
      await pack({ ...about, config: { ...config, snapshotDir: '/etc' } }),
      /unknown member "snapshotDir"/,
    ],
    ['another part', await pack(about, [{ ...disk, name: 'ram' }]), /only part must be a disk/],
    ['a second part', await pack(about, [disk, { ...disk, name: 'state' }]), /only part must be a disk/],
    ['an empty disk', await pack(about, [{ ...disk, bytes: 0, chunks: [] }]), /only part must be a disk/],
    [
      'a base nobody has',
      await pack({ ...about, config: { ...config, baseImageArn: 'arn:aws:lambda:us-east-1:aws:microvm-image:no' } }),
      /./,
    ],
  ];
  for (const [what, file, message, asked] of cases) {
    await assert.rejects(take(b, file, { name: 'new', ...asked }), message, what);
    assert.deepEqual(await staged(b), [], what);
  }
  assert.equal((await b.images.list({})).items.length, 1);
});

test('an import into an image that is being built is refused, and nothing of it stays', async () => {
  await using b = await bench();
  const bytes = await withImage(b);
  using gate = b.engine.hold('seal');
  await take(b, bytes);
  await assert.rejects(take(b, bytes), { code: 'CONFLICT' });
  assert.equal((await staged(b)).length, 1, 'that of the one under way');
  gate[Symbol.dispose]();
  await b.built('demo', '2.0');
  assert.deepEqual(await staged(b), []);
});

test('an import that waits for its turn outlives the server; what was cut off does not', async () => {
  const first = await bench();
  const bytes = await withImage(first);
  using _gate = first.engine.hold('seal');
  await take(first, bytes, { name: 'one' });
  while (first.engine.calls.filter((call) => call.startsWith('seal')).length < 2) await first.clock.advance(0);
  await take(first, bytes, { name: 'two' });
  await mkdir(path.join(first.stateDir, 'imports/half'), { recursive: true });
  await using b = await first.restart();
  assert.match(await b.built('two'), /using the imported root disk[\s\S]*done/);
  assert.match((await b.images.listBuilds(ARN.replace('demo', 'one'), '1.0', {})).items[0]?.stateReason ?? '', /./);
  assert.deepEqual(await staged(b), []);
  await rm(b.stateDir, { recursive: true, force: true });
});

test('a version with a build under way or without a root disk is not exported; one deleted meanwhile is', async () => {
  await using b = await bench();
  using gate = b.engine.hold('seal');
  await b.images.create(INPUT);
  await assert.rejects(exported(b), { code: 'CONFLICT', message: /is in state/ });
  gate[Symbol.dispose]();
  await b.built();
  await assert.rejects(exported(b, '7.0'), { code: 'NOT_FOUND' });
  const reading = b.images.upkeep.exportVersion(ARN, '1.0', {})[Symbol.asyncIterator]();
  const parts = [(await reading.next()).value as Buffer];
  await b.images.delete(ARN);
  while ((await b.images.list({})).items.length > 0) await b.clock.advance(0);
  assert.ok(!existsSync(path.join(b.stateDir, 'images/demo')));
  for (let next = await reading.next(); next.done !== true; next = await reading.next()) parts.push(next.value);
  await using to = await bench();
  await take(to, Buffer.concat(parts));
  assert.match(await to.built(), /done/);
  await rm(path.join(to.stateDir, 'images/demo/1.0/snapshot/disk'));
  await assert.rejects(exported(to), { code: 'CONFLICT', message: /no whole root disk/ });
});
