/** From records to what the wire shows. Members as recorded: absent, never null, and few until a connector is ACTIVE. */
import type { ConnectorRecord } from './lifecycle.ts';
import type { ConnectorSummary, ConnectorView } from './types.ts';

export function summaryOf(record: ConnectorRecord): ConnectorSummary {
  const { arn: Arn, id: Id, name: Name, state: State, modifiedAt: LastModified } = record;
  return { Arn, Id, Name, State, LastModified, Type: 'VPC_EGRESS' };
}

export function viewOf(record: ConnectorRecord): ConnectorView {
  const {
    arn: Arn,
    id: Id,
    name: Name,
    state: State,
    configuration: Configuration,
    operatorRole: OperatorRole,
  } = record;
  const base = { Arn, Id, Name, State, Configuration, OperatorRole };
  if (record.state !== 'ACTIVE') return base;
  const active = { ...base, LastModified: record.modifiedAt, StateReason: 'Initial creation' };
  if (record.lastUpdate === null) return active;
  const { status: LastUpdateStatus } = record.lastUpdate;
  if (record.lastUpdate.status === 'InProgress' || record.lastUpdate.reason === null) {
    return { ...active, LastUpdateStatus };
  }
  return { ...active, LastUpdateStatus, LastUpdateStatusReason: record.lastUpdate.reason };
}
