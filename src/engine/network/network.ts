/** The engine's network: who may reach what, enforced outside the guests. */
import type { Egress, FlowRecord } from '../egress.ts';
import type { LinkState, VmmNetwork } from '../vmm/vmm.ts';

export interface Network extends AsyncDisposable {
  /**
   * Before the machine's VMM starts; the result is what it is started with. Whatever an earlier process of this guest had
   * open is reset. The caller owns the attachment and ends it by `detach`. @throws MachineError
   */
  attach(guest: string, egress: Egress, options: { signal?: AbortSignal | undefined }): Promise<VmmNetwork>;
  /** For an attached guest; connections the new policy refuses are cut. @throws MachineError: the old one may still hold */
  update(guest: string, egress: Egress): Promise<void>;
  /** Never rejects: what could not be told to a gateway is told to its successor. Also for unknown guests. */
  detach(guest: string): Promise<void>;
  flows(guest: string, options: { follow?: boolean; signal?: AbortSignal }): AsyncIterable<FlowRecord>;
}

/** A guest that may reach nothing has its cable pulled. */
export function linkFor({ policy }: Egress): LinkState {
  return policy.rules.length > 0 ? 'up' : 'down';
}
