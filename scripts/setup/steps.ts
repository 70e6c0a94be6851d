/**
 * Steps of set-up and where their products live. A product is a folder `<name>-<stamp>`; the stamp is a digest of
 * everything the product was made from. It is filled under a temporary name and renamed when complete, so a folder with
 * the right name is always whole, an interrupted step starts again alone, and "up to date" is one look per step.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';

/** A finished product. */
export interface Product {
  readonly dir: string;
  readonly stamp: string;
}

/** What a product is made from: plain data, digested in the order given. */
export type Inputs = Readonly<Record<string, string | number | readonly string[]>>;

export interface StepsOptions {
  /** Holds the products. */
  readonly productsDir: string;
  /** Holds the unfinished. */
  readonly workDir: string;
  readonly say: (line: string) => void;
  /** How many steps may work at a time. */
  readonly slots: number;
}

export class Steps {
  readonly #options: StepsOptions;
  readonly #waiting: (() => void)[] = [];
  #free: number;

  constructor(options: StepsOptions) {
    this.#options = options;
    this.#free = options.slots;
  }

  /**
   * Returns the product of these inputs, making it first when it is not there. A product made while another step works
   * and waits for it is `nested`: it uses that step's slot.
   */
  async product(
    name: string,
    inputs: Inputs,
    make: (dir: string) => Promise<void>,
    options: { nested?: boolean } = {},
  ): Promise<Product> {
    const stamp = stampOf({ name, ...inputs });
    const dir = this.dirOf(name, inputs);
    if (existsSync(dir)) return { dir, stamp };
    if (!options.nested) await this.#take();
    try {
      const startedAt = performance.now();
      this.#options.say(`${name} ...`);
      const unfinished = join(this.#options.workDir, `${name}-${stamp}`);
      await rm(unfinished, { recursive: true, force: true });
      await mkdir(unfinished, { recursive: true });
      await make(unfinished);
      await rename(unfinished, dir);
      this.#options.say(`${name} ... ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
    } catch (error) {
      throw new Error(`${name}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    } finally {
      if (!options.nested) this.#give();
    }
    return { dir, stamp };
  }

  /** The folder a product of these inputs has or would have. */
  dirOf(name: string, inputs: Inputs): string {
    return join(this.#options.productsDir, `${name}-${stampOf({ name, ...inputs })}`);
  }

  /** Removes products that are not in `keep` (folder paths). */
  async sweep(keep: ReadonlySet<string>): Promise<void> {
    for (const entry of await readdir(this.#options.productsDir, { withFileTypes: true })) {
      const dir = join(this.#options.productsDir, entry.name);
      if (entry.isDirectory() && !keep.has(dir)) await rm(dir, { recursive: true, force: true });
    }
  }

  async #take(): Promise<void> {
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #give(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free++;
    else next();
  }
}

/** Digest of plain data, short enough for a file name. */
export function stampOf(inputs: Inputs): string {
  return createHash('sha256').update(JSON.stringify(inputs)).digest('hex').slice(0, 16);
}
