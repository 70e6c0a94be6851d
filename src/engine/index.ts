/** The engine room's door: live machines on this host. */
export { BUILDER_MEMORY_MIB, type PrepareOptions, prepareBuilder } from './build/builder.ts';
export { type Dependency, type DiskOrigin, type InstalledPackage, readOrigin } from './build/origin.ts';
export { Phases } from './build/phases.ts';
export { openRegistries, type Registries } from './build/registries-file.ts';
export { createEngine, type EngineOptions } from './create-engine.ts';
export * from './egress.ts';
export * from './engine.ts';
export {
  type Budget,
  type BudgetLimits,
  createBudget,
  type Held,
  hostGauges,
  hostLimits,
  type Need,
  needOf,
  unboundedBudget,
} from './host/budget.ts';
export { type HostCheck, inspectHost } from './host/inspect.ts';
export { JAIL_FILES, JAIL_FOLDERS } from './jail/places.ts';
export { loadRuntime } from './load-runtime.ts';
export type { NetworkSettings } from './network/settings.ts';
export type { Runtime } from './runtime.ts';
export { Keyring, readKeyFile } from './snapshot/encryption.ts';
export { createFakeEngine } from './vmm/fake/fake-engine.ts';
export {
  createFakeDisk,
  type FakeApp,
  type FakeDisk,
  type FakeEngine,
  type FakeEngineOptions,
  type FakeGuest,
  type FakeOperation,
  type FakeShell,
  freeze,
  restartHost,
} from './vmm/fake/fake-types.ts';
