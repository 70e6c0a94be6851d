/** Our own Go programs: the agent, the builder's program, the TSC probe. Rebuilt when a source of theirs changes. */
import { createHash } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { SetupContext } from './setup-context.ts';
import type { Product } from './steps.ts';
import type { Toolchain } from './toolchain.ts';

export interface GoPrograms {
  toolchain(): Promise<Toolchain>;
}

export interface GoProgram extends Product {
  readonly path: string;
  /** Digest of the program itself: a change of another program's source must not change what this one goes into. */
  readonly digest: string;
}

/** Builds one main package of a module; the program has the package's last name. */
export async function setUpGoProgram(
  context: SetupContext,
  go: GoPrograms,
  program: { moduleDir: string; package: string; name: string; experiment?: string },
): Promise<GoProgram> {
  const { experiment } = program;
  const more = experiment === undefined ? {} : { experiment };
  const inputs = { recipe: 2, package: program.package, sources: await digestSources(program.moduleDir), ...more };
  const product = await context.steps.product(program.name, inputs, async (dir) => {
    const { build } = await go.toolchain();
    await build({ moduleDir: program.moduleDir, packages: [program.package], into: dir, ...more });
    const bytes = await readFile(join(dir, program.name));
    await writeFile(join(dir, 'digest'), createHash('sha256').update(bytes).digest('hex'));
  });
  const digest = await readFile(join(product.dir, 'digest'), 'utf8');
  return { ...product, path: join(product.dir, program.name), digest };
}

/** Digest of all files a build of the module reads; tests are left out. */
export async function digestSources(moduleDir: string): Promise<string> {
  const hash = createHash('sha256');
  const entries = await readdir(moduleDir, { recursive: true, withFileTypes: true });
  const paths = entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => (/\.(go|s)$/.test(path) && !path.endsWith('_test.go')) || /\/go\.(mod|sum)$/.test(path))
    .sort();
  for (const path of paths) {
    hash.update(`${path.slice(moduleDir.length)}\0`);
    hash.update(
      createHash('sha256')
        .update(await readFile(path))
        .digest(),
    );
  }
  return hash.digest('hex');
}
