/** From records to what the wire shows. Members as recorded; internal states are projected. */
import { type Microvm, publicState } from './lifecycle.ts';
import type { MicrovmItem, MicrovmView } from './types.ts';

export function itemOf(record: Microvm): MicrovmItem {
  return {
    microvmId: record.id,
    state: publicState(record.state),
    imageArn: record.imageArn,
    imageVersion: record.imageVersion,
    startedAt: record.startedAt,
  };
}

/** `stateReason` is null until the end (recorded). */
export function viewOf(record: Microvm): MicrovmView {
  return {
    ...itemOf(record),
    endpoint: record.endpoint,
    executionRoleArn: record.executionRoleArn,
    idlePolicy: record.idlePolicy,
    maximumDurationInSeconds: record.maximumDurationSeconds,
    terminatedAt: record.state === 'TERMINATED' ? record.terminatedAt : null,
    stateReason: record.state === 'TERMINATED' ? record.reason : null,
    ingressNetworkConnectors: record.ingressNetworkConnectors,
    egressNetworkConnectors: record.egressNetworkConnectors,
  };
}
