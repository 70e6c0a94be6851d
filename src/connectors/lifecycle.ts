/**
 * The life of a customer's network connector: what is true in each state, which event leads where, and when time alone
 * moves it. Pure. States that only real networks lead to (INACTIVE, FAILED, DELETE_FAILED) come with the gateway.
 */
import type { Tags } from '../lib/index.ts';
import type { ConnectorConfiguration } from './types.ts';

interface Identity {
  readonly id: string;
  readonly arn: string;
  readonly name: string;
  readonly configuration: ConnectorConfiguration;
  readonly operatorRole: string;
  readonly tags: Tags;
  readonly createdAt: number;
  readonly modifiedAt: number;
}

export type LastUpdate =
  | { readonly status: 'InProgress'; readonly settlesAt: number }
  | { readonly status: 'Successful'; readonly reason: string | null };

export type ConnectorRecord = Identity &
  (
    | { readonly state: 'PENDING'; readonly settlesAt: number }
    | { readonly state: 'ACTIVE'; readonly lastUpdate: LastUpdate | null }
    | { readonly state: 'DELETING'; readonly settlesAt: number }
  );
export type ConnectorState = ConnectorRecord['state'];

export type ConnectorEvent =
  | {
      readonly type: 'update';
      readonly configuration: ConnectorConfiguration;
      readonly operatorRole: string;
      readonly settlesAt: number;
    }
  /** An update that changes nothing. */
  | { readonly type: 'same' }
  | { readonly type: 'delete'; readonly settlesAt: number }
  /** The moment `dueAt` names has come. */
  | { readonly type: 'due' };

/** `GONE`: the record goes. `kept`: accepted, nothing to change. `refused`: not in this state. */
export const TRANSITIONS = {
  PENDING: { update: 'refused', same: 'refused', delete: 'DELETING', due: 'ACTIVE' },
  ACTIVE: { update: 'ACTIVE', same: 'ACTIVE', delete: 'DELETING', due: 'ACTIVE' },
  DELETING: { update: 'refused', same: 'refused', delete: 'kept', due: 'GONE' },
} as const satisfies Record<
  ConnectorState,
  Record<ConnectorEvent['type'], ConnectorState | 'GONE' | 'kept' | 'refused'>
>;

/** Source: recorded. */
export const NO_CHANGES = 'No configuration changes detected';

export type Outcome =
  | { readonly kind: 'moved'; readonly record: ConnectorRecord }
  | { readonly kind: 'kept' }
  | { readonly kind: 'gone' }
  | { readonly kind: 'refused' };

export function apply(record: ConnectorRecord, event: ConnectorEvent, at: number): Outcome {
  const cell = TRANSITIONS[record.state][event.type];
  if (cell === 'GONE') return isDue(record, at) ? { kind: 'gone' } : { kind: 'kept' };
  if (cell === 'kept' || cell === 'refused') return { kind: cell };
  const identity = identityOf(record);
  switch (event.type) {
    case 'update': {
      if (isUpdating(record)) return { kind: 'refused' };
      const { configuration, operatorRole, settlesAt } = event;
      const lastUpdate = { status: 'InProgress', settlesAt } as const;
      return moved({ ...identity, configuration, operatorRole, modifiedAt: at, state: 'ACTIVE', lastUpdate });
    }
    case 'same':
      if (isUpdating(record)) return { kind: 'refused' };
      return moved({ ...identity, state: 'ACTIVE', lastUpdate: { status: 'Successful', reason: NO_CHANGES } });
    case 'delete':
      return moved({ ...identity, state: 'DELETING', settlesAt: event.settlesAt });
    case 'due':
      if (!isDue(record, at)) return { kind: 'kept' };
      return record.state === 'PENDING'
        ? moved({ ...identity, state: 'ACTIVE', lastUpdate: null, modifiedAt: at })
        : moved({ ...identity, state: 'ACTIVE', lastUpdate: { status: 'Successful', reason: null } });
    default:
      return event satisfies never;
  }
}

/** When time alone moves the record; null when it never does. */
export function dueAt(record: ConnectorRecord): number | null {
  if (record.state !== 'ACTIVE') return record.settlesAt;
  return record.lastUpdate?.status === 'InProgress' ? record.lastUpdate.settlesAt : null;
}

function isDue(record: ConnectorRecord, at: number): boolean {
  const moment = dueAt(record);
  return moment !== null && moment <= at;
}

function isUpdating(record: ConnectorRecord): boolean {
  return record.state === 'ACTIVE' && record.lastUpdate?.status === 'InProgress';
}

function moved(record: ConnectorRecord): Outcome {
  return { kind: 'moved', record };
}

function identityOf(record: ConnectorRecord): Identity {
  const { id, arn, name, configuration, operatorRole, tags, createdAt, modifiedAt } = record;
  return { id, arn, name, configuration, operatorRole, tags, createdAt, modifiedAt };
}
