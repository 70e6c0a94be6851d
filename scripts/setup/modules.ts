/** Kernel modules: what one depends on, and an order in which all can be loaded one after the other. */

/** Module name of a path or a name: `kernel/drivers/virtio/virtio-rng.ko.xz` is `virtio_rng`. */
export function moduleName(path: string): string {
  const file = path.slice(path.lastIndexOf('/') + 1);
  return file.replace(/\.ko(\.\w+)?$/, '').replaceAll('-', '_');
}

/** Reads the `depends=` entry every module carries in its `.modinfo` section. */
export function dependenciesOf(module: Buffer): string[] {
  const text = module.toString('latin1');
  const match = /(?:^|\0)depends=([^\0]*)\0/.exec(text);
  if (match === null) throw new Error('not a kernel module: it names no dependencies');
  return (match[1] ?? '')
    .split(',')
    .filter((name) => name !== '')
    .map(moduleName);
}

/** Orders the wanted modules and all they need, each after its own dependencies. @throws Error on a cycle. */
export async function loadOrder(
  wanted: readonly string[],
  dependencies: (name: string) => Promise<readonly string[]>,
): Promise<string[]> {
  const order: string[] = [];
  const state = new Map<string, 'open' | 'done'>();
  const visit = async (name: string): Promise<void> => {
    if (state.get(name) === 'done') return;
    if (state.get(name) === 'open') throw new Error(`kernel modules depend on each other in a circle at ${name}`);
    state.set(name, 'open');
    for (const dependency of await dependencies(name)) await visit(dependency);
    state.set(name, 'done');
    order.push(name);
  };
  for (const name of wanted) await visit(name);
  return order;
}
