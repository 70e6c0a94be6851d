/** The engine's network: who may reach what, enforced outside the guests. */
import { MachineError } from '../../lib/index.ts';
import type { Egress, FlowRecord } from '../egress.ts';
import type { LinkState, VmmNetwork } from '../vmm/vmm.ts';

export interface Network extends AsyncDisposable {
  /**
   * Before the machine's VMM starts; the result is what it is started with. Whatever an earlier process of this guest had
   * open is reset. The caller owns the attachment and ends it by `detach`. @throws MachineError
   */
  attach(guest: string, egress: Egress, options: AttachOptions): Promise<VmmNetwork>;
  /** For an attached guest; connections the new policy refuses are cut. @throws MachineError: the old one may still hold */
  update(guest: string, egress: Egress): Promise<void>;
  /** Never rejects: what could not be told to a gateway is told to its successor. Also for unknown guests. */
  detach(guest: string): Promise<void>;
  flows(guest: string, options: { follow?: boolean; signal?: AbortSignal }): AsyncIterable<FlowRecord>;
}

export interface AttachOptions {
  readonly signal?: AbortSignal | undefined;
  /** Only its owner is new: nothing is reset, and it goes on without a network while no gateway can be told. */
  readonly isRunning?: boolean;
}

/** What the VMM of `guest` is started with. The attachment ends with `stack`. @throws MachineError */
export async function attached(
  network: Network,
  guest: string,
  egress: Egress | undefined,
  options: AttachOptions & { readonly stack: AsyncDisposableStack },
): Promise<VmmNetwork> {
  if (egress === undefined) return 'down';
  options.stack.defer(() => network.detach(guest));
  return network.attach(guest, egress, options);
}

/** Where machines have no network at all. */
export const NO_NETWORK: Network = {
  attach: refuse,
  update: refuse,
  async detach() {},
  async *flows() {},
  async [Symbol.asyncDispose]() {},
};

async function refuse(): Promise<never> {
  throw new MachineError('unsupported', 'machines have no network here');
}

/** A guest that may reach nothing has its cable pulled. */
export function linkFor({ policy }: Egress): LinkState {
  return policy.rules.length > 0 ? 'up' : 'down';
}
