import { deepEqual, equal, rejects, throws } from 'node:assert/strict';
import { describe, test } from 'node:test';
import { dependenciesOf, loadOrder, moduleName } from './modules.ts';

describe('kernel modules', () => {
  test('a file name becomes the name modules refer to each other by', () => {
    equal(moduleName('kernel/drivers/char/hw_random/virtio-rng.ko.xz'), 'virtio_rng');
    equal(moduleName('overlay.ko'), 'overlay');
    equal(moduleName('net_failover'), 'net_failover');
  });

  test('dependencies are read from the module itself', () => {
    const module = Buffer.from('\x7fELF...\0license=GPL\0depends=net_failover,virtio-ring\0name=virtio_net\0');
    deepEqual(dependenciesOf(module), ['net_failover', 'virtio_ring']);
    deepEqual(dependenciesOf(Buffer.from('\0depends=\0')), []);
    throws(() => dependenciesOf(Buffer.from('something else')), /not a kernel module/);
  });

  test('each module comes once and after all it depends on', async () => {
    const graph: Record<string, string[]> = { net: ['fail'], fail: ['core'], rng: ['core'], core: [] };
    deepEqual(await loadOrder(['net', 'rng', 'core'], async (name) => graph[name] ?? []), [
      'core',
      'fail',
      'net',
      'rng',
    ]);
  });

  test('a circle is refused', async () => {
    const graph: Record<string, string[]> = { a: ['b'], b: ['a'] };
    await rejects(
      loadOrder(['a'], async (name) => graph[name] ?? []),
      /in a circle/,
    );
  });
});
