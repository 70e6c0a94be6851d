/** What everything in the engine works with: the host, its driver, the runtime and the clock. */
import type { Clock, Ids, Logger } from '../../lib/index.ts';
import type { Registries } from '../build/registries-file.ts';
import type { HostReport } from '../engine.ts';
import type { Folders } from '../folders.ts';
import type { Network } from '../network/network.ts';
import type { Runtime } from '../runtime.ts';
import type { Keyring } from '../snapshot/encryption.ts';
import type { Integrity } from '../snapshot/integrity.ts';
import type { ReadAhead } from '../snapshot/read-ahead.ts';
import type { Vault } from '../snapshot/vault.ts';
import type { VmmDriver } from '../vmm/vmm.ts';

export interface EngineContext {
  readonly runtime: Runtime;
  readonly driver: VmmDriver;
  readonly host: HostReport;
  readonly folders: Folders;
  readonly cacheDir: string;
  readonly log: Logger;
  readonly clock: Clock;
  readonly ids: Ids;
  readonly integrity: Integrity;
  readonly readAhead: ReadAhead;
  readonly network: Network;
  readonly vault: Vault;
  /** Where builds find their bases, as the operator says; undefined: nothing said. */
  readonly registries?: Registries | undefined;
  /** The operator's, when what machines leave on disk is to be encrypted. */
  readonly keyring?: Keyring | undefined;
  /** Guests sealed from now on erase memory when it is freed. */
  readonly erasesFreedMemory: boolean;
  /** Machines being restored at this moment: the more, the longer each takes. */
  readonly restoring: Set<object>;
  /** Aborted once machines shall outlive this server. */
  readonly leaving: AbortSignal;
}

/** A new secret for a link. */
export function newSecret(ids: Ids): string {
  return ids.bytes(32).toString('hex');
}

/** Virtual size of unused spare disks; the guest learned it before the snapshot. */
export const SPARE_DISK_BYTES = 16 * 1024 ** 3;
