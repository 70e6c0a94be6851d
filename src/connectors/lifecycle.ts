/**
 * The life of a customer's network connector: what is true in each state, which event leads where, and when time alone
 * moves it. Pure; what the operator's networks say of it comes in with the event, as `fault` (null: nothing is wrong).
 *
 * Source of the states and reason codes: the model; who leads where beyond creation, update and deletion is undocumented.
 * GUESS: connector-states
 */
import type { Tags } from '../lib/index.ts';
import type { AllowedDomain } from './domains.ts';
import type { Reason } from './reasons.ts';
import type { ConnectorConfiguration } from './types.ts';

interface Identity {
  readonly id: string;
  readonly arn: string;
  readonly name: string;
  readonly configuration: ConnectorConfiguration;
  readonly operatorRole: string;
  /** Our extension; absent in rows from before it. */
  readonly domains?: readonly AllowedDomain[] | null;
  readonly tags: Tags;
  readonly createdAt: number;
  readonly modifiedAt: number;
}

export type LastUpdate =
  /** `previous` holds until the update settled, and for ever if it fails; absent in rows from before updates could fail. */
  | { readonly status: 'InProgress'; readonly settlesAt: number; readonly previous?: Replaceable }
  | { readonly status: 'Successful'; readonly reason: string | null }
  | { readonly status: 'Failed'; readonly why: Reason };

interface Replaceable {
  readonly configuration: ConnectorConfiguration;
  readonly operatorRole: string;
}

export type ConnectorRecord = Identity &
  (
    | { readonly state: 'PENDING'; readonly settlesAt: number }
    | { readonly state: 'ACTIVE'; readonly lastUpdate: LastUpdate | null }
    /** The networks it was ACTIVE on have gone; it comes back with them. */
    | { readonly state: 'INACTIVE'; readonly why: Reason; readonly lastUpdate: LastUpdate | null }
    | { readonly state: 'FAILED'; readonly why: Reason }
    | { readonly state: 'DELETING'; readonly settlesAt: number }
    | { readonly state: 'DELETE_FAILED'; readonly users: number }
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
  | { readonly type: 'domains'; readonly domains: readonly AllowedDomain[] | null }
  | { readonly type: 'delete'; readonly settlesAt: number }
  /** The moment `dueAt` names has come; `users` of it are microVMs that have not ended. */
  | { readonly type: 'due'; readonly fault: Reason | null; readonly users: number }
  /** The operator's networks changed. */
  | { readonly type: 'networks'; readonly fault: Reason | null };

type Cell = ConnectorState | 'GONE' | 'kept' | 'refused';

/** `GONE`: the record goes. `kept`: accepted, nothing to change. `refused`: not in this state. The test walks the grid. */
export const TRANSITIONS = {
  PENDING: {
    update: ['refused'],
    same: ['refused'],
    domains: ['PENDING'],
    delete: ['DELETING'],
    due: ['ACTIVE', 'FAILED', 'kept'],
    networks: ['kept'],
  },
  ACTIVE: {
    update: ['ACTIVE', 'refused'],
    same: ['ACTIVE', 'refused'],
    domains: ['ACTIVE'],
    delete: ['DELETING'],
    due: ['ACTIVE', 'kept'],
    networks: ['INACTIVE', 'kept'],
  },
  INACTIVE: {
    update: ['refused'],
    same: ['refused'],
    domains: ['INACTIVE'],
    delete: ['DELETING'],
    due: ['kept'],
    networks: ['ACTIVE', 'INACTIVE', 'kept'],
  },
  FAILED: {
    update: ['refused'],
    same: ['refused'],
    domains: ['refused'],
    delete: ['DELETING'],
    due: ['kept'],
    networks: ['kept'],
  },
  DELETING: {
    update: ['refused'],
    same: ['refused'],
    domains: ['refused'],
    delete: ['kept'],
    due: ['GONE', 'DELETE_FAILED', 'kept'],
    networks: ['kept'],
  },
  DELETE_FAILED: {
    update: ['refused'],
    same: ['refused'],
    domains: ['refused'],
    delete: ['DELETING'],
    due: ['kept'],
    networks: ['kept'],
  },
} as const satisfies Record<ConnectorState, Record<ConnectorEvent['type'], readonly Cell[]>>;

/** Source: recorded. */
export const NO_CHANGES = 'No configuration changes detected';

export type Outcome =
  | { readonly kind: 'moved'; readonly record: ConnectorRecord }
  | { readonly kind: 'kept' }
  | { readonly kind: 'gone' }
  | { readonly kind: 'refused' };

export function apply(record: ConnectorRecord, event: ConnectorEvent, at: number): Outcome {
  switch (event.type) {
    case 'update': {
      if (record.state !== 'ACTIVE' || isUpdating(record)) return { kind: 'refused' };
      const { configuration, operatorRole, settlesAt } = event;
      const previous = { configuration: record.configuration, operatorRole: record.operatorRole };
      const lastUpdate = { status: 'InProgress', settlesAt, previous } as const;
      return moved({ ...record, configuration, operatorRole, modifiedAt: at, lastUpdate });
    }
    case 'same':
      if (record.state !== 'ACTIVE' || isUpdating(record)) return { kind: 'refused' };
      return moved({ ...record, lastUpdate: { status: 'Successful', reason: NO_CHANGES } });
    case 'domains':
      if (record.state !== 'PENDING' && record.state !== 'ACTIVE' && record.state !== 'INACTIVE')
        return { kind: 'refused' };
      return moved({ ...record, domains: event.domains, modifiedAt: at });
    case 'delete':
      if (record.state === 'DELETING') return { kind: 'kept' };
      return moved({ ...identityOf(record), state: 'DELETING', settlesAt: event.settlesAt });
    case 'due':
      return isDue(record, at) ? settled(record, event, at) : { kind: 'kept' };
    case 'networks':
      return onNetworks(record, event.fault);
    default:
      return event satisfies never;
  }
}

/** When time alone moves the record; null when it never does. */
export function dueAt(record: ConnectorRecord): number | null {
  switch (record.state) {
    case 'PENDING':
    case 'DELETING':
      return record.settlesAt;
    case 'ACTIVE':
      return record.lastUpdate?.status === 'InProgress' ? record.lastUpdate.settlesAt : null;
    case 'INACTIVE':
    case 'FAILED':
    case 'DELETE_FAILED':
      return null;
    default:
      return record satisfies never;
  }
}

/** The configuration that is enforced: the one shown, but for an update that has not settled. */
export function inForce(record: ConnectorRecord): ConnectorConfiguration {
  const update = record.state === 'ACTIVE' && record.lastUpdate?.status === 'InProgress' ? record.lastUpdate : null;
  return update?.previous?.configuration ?? record.configuration;
}

function settled(
  record: ConnectorRecord,
  { fault, users }: { fault: Reason | null; users: number },
  at: number,
): Outcome {
  const identity = identityOf(record);
  switch (record.state) {
    case 'PENDING':
      if (fault !== null) return moved({ ...identity, state: 'FAILED', why: fault, modifiedAt: at });
      return moved({ ...identity, state: 'ACTIVE', lastUpdate: null, modifiedAt: at });
    case 'ACTIVE': {
      if (fault === null) return moved({ ...record, lastUpdate: { status: 'Successful', reason: null } });
      const previous = record.lastUpdate?.status === 'InProgress' ? record.lastUpdate.previous : undefined;
      return moved({ ...record, ...previous, lastUpdate: { status: 'Failed', why: fault } });
    }
    case 'DELETING':
      return users === 0 ? { kind: 'gone' } : moved({ ...identity, state: 'DELETE_FAILED', users });
    case 'INACTIVE':
    case 'FAILED':
    case 'DELETE_FAILED':
      return { kind: 'kept' };
    default:
      return record satisfies never;
  }
}

function onNetworks(record: ConnectorRecord, fault: Reason | null): Outcome {
  const identity = identityOf(record);
  if (record.state === 'ACTIVE') {
    // An update under way finds out by itself when it settles.
    if (fault === null || isUpdating(record)) return { kind: 'kept' };
    return moved({ ...identity, state: 'INACTIVE', why: fault, lastUpdate: record.lastUpdate });
  }
  if (record.state !== 'INACTIVE') return { kind: 'kept' };
  const { lastUpdate, why } = record;
  if (fault === null) return moved({ ...identity, state: 'ACTIVE', lastUpdate });
  return fault.code === why.code && fault.text === why.text ? { kind: 'kept' } : moved({ ...record, why: fault });
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
  const { id, arn, name, configuration, operatorRole, domains = null, tags, createdAt, modifiedAt } = record;
  return { id, arn, name, configuration, operatorRole, domains, tags, createdAt, modifiedAt };
}
