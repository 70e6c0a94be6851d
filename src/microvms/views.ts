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

/**
 * `stateReason` is null until the end (recorded), except for what the service has no word for: a microVM that runs because
 * it could not be suspended, sleeps because it could not be resumed, or fell back to an earlier state says so until that is
 * over. GUESS: suspend-failure-reason
 */
export function viewOf(record: Microvm): MicrovmView {
  return {
    ...itemOf(record),
    endpoint: record.endpoint,
    executionRoleArn: record.executionRoleArn,
    idlePolicy: record.idlePolicy,
    maximumDurationInSeconds: record.maximumDurationSeconds,
    terminatedAt: record.state === 'TERMINATED' ? record.terminatedAt : null,
    stateReason: stateReasonOf(record),
    ingressNetworkConnectors: record.ingressNetworkConnectors,
    egressNetworkConnectors: record.egressNetworkConnectors,
  };
}

function stateReasonOf(record: Microvm): string | null {
  if (record.state === 'TERMINATED') return record.reason;
  if (record.state === 'SUSPENDED' || record.state === 'RESUMING') return record.remark ?? null;
  return record.state === 'RUNNING' ? (record.suspendFailure ?? null) : null;
}
