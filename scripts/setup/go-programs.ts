/** Our own Go programs: the agent, the builder's program, the TSC probe. Rebuilt when a source of theirs changes. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { SetupContext } from './setup-context.ts';
import type { Product } from './steps.ts';
import type { Toolchain } from './toolchain.ts';

export interface GoPrograms {
  toolchain(): Promise<Toolchain>;
}

/** Builds one main package of a module; the program has the package's last name. */
export async function setUpGoProgram(
  context: SetupContext,
  go: GoPrograms,
  program: { moduleDir: string; package: string; name: string },
): Promise<Product> {
  const inputs = { recipe: 1, package: program.package, sources: await digestSources(program.moduleDir) };
  return context.steps.product(program.name, inputs, async (dir) => {
    const { build } = await go.toolchain();
    await build({ moduleDir: program.moduleDir, packages: [program.package], into: dir });
  });
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
