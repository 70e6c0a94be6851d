/** From records to what the wire shows. Members as recorded: absent, never null, and few until a connector is settled. */
import type { ConnectorRecord, LastUpdate } from './lifecycle.ts';
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
    modifiedAt: LastModified,
  } = record;
  const base = { Arn, Id, Name, State, Configuration, OperatorRole };
  switch (record.state) {
    case 'PENDING':
    case 'DELETING':
      return base;
    case 'ACTIVE':
      return { ...base, LastModified, StateReason: 'Initial creation', ...updateOf(record.lastUpdate) };
    case 'INACTIVE':
      return { ...base, LastModified, ...reasonOf(record.why), ...updateOf(record.lastUpdate) };
    case 'FAILED':
      return { ...base, LastModified, ...reasonOf(record.why) };
    case 'DELETE_FAILED': {
      // No code of the model says that something is in use. GUESS: connector-in-use
      const StateReason = `In use by ${record.users} MicroVM(s) that have not ended; terminate them and delete it again.`;
      return { ...base, LastModified, StateReason };
    }
    default:
      return record satisfies never;
  }
}

function reasonOf({ code, text }: { code: NonNullable<ConnectorView['StateReasonCode']>; text: string }) {
  return { StateReason: text, StateReasonCode: code };
}

function updateOf(update: LastUpdate | null): Partial<ConnectorView> {
  if (update === null) return {};
  const { status: LastUpdateStatus } = update;
  switch (update.status) {
    case 'InProgress':
      return { LastUpdateStatus };
    case 'Successful':
      return update.reason === null
        ? { LastUpdateStatus }
        : { LastUpdateStatus, LastUpdateStatusReason: update.reason };
    case 'Failed': {
      const { code: LastUpdateStatusReasonCode, text: LastUpdateStatusReason } = update.why;
      return { LastUpdateStatus, LastUpdateStatusReason, LastUpdateStatusReasonCode };
    }
    default:
      return update satisfies never;
  }
}
