/** The engine room's door: live machines on this host. */
export * from './engine.ts';
export type { Runtime } from './runtime.ts';
export {
  createFakeDisk,
  createFakeEngine,
  type FakeApp,
  type FakeDisk,
  type FakeEngine,
  type FakeEngineOptions,
  type FakeGuest,
  type FakeOperation,
} from './vmm/fake/fake-engine.ts';
