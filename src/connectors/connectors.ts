/**
 * Customers' network connectors behind the room's door: records, their names, and the clock that moves them. What they
 * enforce on traffic is not here yet; subnets and security groups are kept as opaque ids.
 *
 * Invariant: a name belongs to one connector from its creation until it is gone; both rows are written together.
 */
import assert from 'node:assert/strict';
import {
  addTags,
  type Clock,
  DomainError,
  type Ids,
  type Logger,
  randomIds,
  removeTags,
  systemClock,
  type Tags,
} from '../lib/index.ts';
import {
  type Claim,
  DueClock,
  fingerprintOf,
  type NewRow,
  type Page,
  type Records,
  type Row,
  readPage,
  releaseClaims,
  type Store,
  type Write,
} from '../store/index.ts';
import { apply, type ConnectorEvent, type ConnectorRecord, dueAt } from './lifecycle.ts';
import { parseConnectorArn } from './managed.ts';
import { checkConfiguration, checkName, requireOperatorRole } from './rules.ts';
import type {
  ConnectorSummary,
  Connectors,
  ConnectorView,
  CreateConnectorInput,
  UpdateConnectorInput,
} from './types.ts';
import { summaryOf, viewOf } from './views.ts';

export interface ConnectorsOptions {
  readonly store: Store;
  readonly region: string;
  readonly accountId: string;
  readonly log: Logger;
  readonly clock?: Clock;
  readonly ids?: Ids;
  /** How long a creation, update or deletion is under way; minutes in the service. Default 1 s. GUESS: connector-pace */
  readonly settleMs?: number;
  /** How many there may be; default unbounded. */
  readonly quota?: number | undefined;
}

/** More conflicts than this in a row on one record mean a bug, not a race. */
const MAX_CONFLICTS = 20;
const MAX_PAGE = 50;

export function createConnectors(options: ConnectorsOptions): Connectors {
  return new ConnectorsRoom(options);
}

class ConnectorsRoom implements Connectors {
  readonly #o: ConnectorsOptions;
  readonly #clock: Clock;
  readonly #ids: Ids;
  readonly #rows: Records<ConnectorRecord>;
  readonly #names: Records<{ readonly connectorId: string }>;
  readonly #due: DueClock<ConnectorRecord>;

  constructor(options: ConnectorsOptions) {
    this.#o = options;
    this.#clock = options.clock ?? systemClock;
    this.#ids = options.ids ?? randomIds;
    this.#rows = options.store.records('connectors');
    this.#names = options.store.records('connector_names');
    this.#due = new DueClock({
      clock: this.#clock,
      log: options.log,
      source: this.#rows,
      onDue: async (row) => void (await this.#apply(row.id, { type: 'due' })),
    });
  }

  start(): Promise<void> {
    return this.#due.start();
  }

  async create(input: CreateConnectorInput): Promise<ConnectorView> {
    const { ClientToken: token, ...parameters } = input;
    if (token === undefined) throw new DomainError('INVALID', 'ClientToken is a required field');
    const id = `nc-${this.#ids.uuid()}`;
    const claim = this.#claim('CreateNetworkConnector', token, parameters, id);
    const earlier = await this.#earlier(claim);
    if (earlier !== undefined) return earlier;
    checkName(input.Name);
    checkConfiguration(input.Configuration);
    const operatorRole = requireOperatorRole(input.OperatorRole);
    const at = this.#clock.now();
    const record: ConnectorRecord = {
      id,
      arn: this.#arnOf(id),
      name: input.Name,
      configuration: input.Configuration,
      operatorRole,
      tags: addTags({}, input.Tags ?? {}),
      createdAt: at,
      modifiedAt: at,
      state: 'PENDING',
      settlesAt: this.#settlesAt(),
    };
    const { quota } = this.#o;
    const result = await this.#o.store.write(
      [
        this.#names.insert({ ...nameRow(input.Name, at), body: { connectorId: id } }),
        this.#rows.insert(rowOf(record)),
        // Counts the new one too.
        ...(quota === undefined ? [] : [this.#rows.fewer(quota + 1, {})]),
      ],
      claim,
    );
    if (result.kind === 'claimed') return this.#replay(claim, result.claim);
    if (result.kind === 'conflict' && result.index === 0) {
      // GUESS: connector-refusal-texts
      throw new DomainError('CONFLICT', `A network connector with the name '${input.Name}' already exists.`);
    }
    if (result.kind === 'conflict' && result.index === 2) {
      throw new DomainError('QUOTA', 'The maximum number of network connectors has been reached for this account.');
    }
    assert.equal(result.kind, 'written', `the new id ${id} is taken`);
    this.#moved(record, null);
    return viewOf(record);
  }

  async get(identifier: string): Promise<ConnectorView> {
    return viewOf((await this.#find(identifier)).body);
  }

  list(request: { state?: string; maxResults?: number; nextToken?: string }): Promise<Page<ConnectorSummary>> {
    const { state, maxResults = MAX_PAGE } = request;
    // The page's list is bounded below what MaxItems may ask for (model).
    const paging = { ...request, maxResults: Math.min(maxResults, MAX_PAGE) };
    const keys = { group: '', ...(state !== undefined && { subgroup: state }) };
    const scope = `connectors ${state ?? ''}`;
    return readPage(
      this.#o.store.pageTokens,
      paging,
      scope,
      (query) => this.#rows.list({ ...query, ...keys }),
      summaryOf,
    );
  }

  async update(input: UpdateConnectorInput): Promise<ConnectorView> {
    const { ClientToken: token, ...parameters } = input;
    const { id, body: now } = await this.#find(input.Identifier);
    const claim = token === undefined ? undefined : this.#claim('UpdateNetworkConnector', token, parameters, id);
    const earlier = claim && (await this.#earlier(claim));
    if (earlier !== undefined) return earlier;
    const configuration = input.Configuration ?? now.configuration;
    checkConfiguration(configuration);
    const operatorRole = requireOperatorRole(input.OperatorRole ?? now.operatorRole);
    const isSame =
      fingerprintOf([configuration, operatorRole]) === fingerprintOf([now.configuration, now.operatorRole]);
    const event: ConnectorEvent = isSame
      ? { type: 'same' }
      : { type: 'update', configuration, operatorRole, settlesAt: this.#settlesAt() };
    const updated = await this.#apply(id, event, claim);
    return viewOf(updated);
  }

  async delete(identifier: string): Promise<ConnectorView> {
    const { id } = await this.#find(identifier);
    return viewOf(await this.#apply(id, { type: 'delete', settlesAt: this.#settlesAt() }));
  }

  async tags(identifier: string): Promise<Tags> {
    return (await this.#find(identifier)).body.tags;
  }

  tag(identifier: string, tags: Tags): Promise<void> {
    return this.#retag(identifier, (now) => addTags(now, tags));
  }

  untag(identifier: string, keys: readonly string[]): Promise<void> {
    return this.#retag(identifier, (now) => removeTags(now, keys));
  }

  async requireActive(arns: readonly string[]): Promise<void> {
    for (const arn of arns) {
      if (parseConnectorArn(arn).kind === 'managed') continue;
      const { body } = await this.#find(arn);
      if (body.state !== 'ACTIVE') {
        // GUESS: connector-refusal-texts
        throw new DomainError('INVALID', `Network connector ${arn} is not ACTIVE but ${body.state}.`);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#due[Symbol.dispose]();
  }

  /** @throws DomainError `NOT_FOUND` in the recorded words, which name the ARN whatever was asked with */
  async #find(identifier: string): Promise<Row<ConnectorRecord>> {
    const prefix = this.#arnOf('');
    // The pattern of connector ARNs allows a version behind the id.
    const key = identifier.startsWith(prefix) ? identifier.slice(prefix.length).replace(/:\d+$/, '') : identifier;
    const row = (await this.#rows.get(key)) ?? (await this.#named(identifier));
    if (row !== undefined) return row;
    const arn = identifier.startsWith('arn:') ? identifier : this.#arnOf(identifier);
    throw new DomainError('NOT_FOUND', `Network connector not found for: ${arn}`);
  }

  async #named(name: string): Promise<Row<ConnectorRecord> | undefined> {
    const row = await this.#names.get(name);
    return row && this.#rows.get(row.body.connectorId);
  }

  /**
   * Applies `event` to the record as it is now and returns what it became, or was when nothing changed.
   * @throws DomainError `NOT_FOUND`, `CONFLICT`
   */
  async #apply(id: string, event: ConnectorEvent, claim?: Claim): Promise<ConnectorRecord> {
    for (let attempt = 0; attempt < MAX_CONFLICTS; attempt++) {
      const seen = await this.#find(id);
      const outcome = apply(seen.body, event, this.#clock.now());
      if (outcome.kind === 'kept') return seen.body;
      if (outcome.kind === 'refused') {
        // GUESS: connector-refusal-texts
        const text = `The network connector ${seen.body.arn} cannot be updated now: its state is ${seen.body.state}`;
        throw new DomainError(
          'CONFLICT',
          seen.body.state === 'ACTIVE' ? `${text} and an update is in progress.` : `${text}.`,
        );
      }
      const writes =
        outcome.kind === 'gone'
          ? await this.#removal(seen)
          : [this.#rows.save({ ...rowOf(outcome.record), revision: seen.revision })];
      const result = await this.#o.store.write(writes, claim);
      if (result.kind === 'conflict') continue;
      if (result.kind === 'claimed') {
        if (claim?.fingerprint !== result.claim.fingerprint) throw reused();
        return (await this.#find(result.claim.resource)).body;
      }
      if (outcome.kind === 'gone') {
        this.#o.log.info({ connectorId: id }, 'network connector gone');
        return seen.body;
      }
      this.#moved(outcome.record, seen.body);
      return outcome.record;
    }
    throw new Error(`the record of ${id} kept changing under ${event.type}`);
  }

  async #removal(seen: Row<ConnectorRecord>): Promise<Write[]> {
    const name = await this.#names.get(seen.body.name);
    return [this.#rows.delete(seen), ...(name === undefined ? [] : [this.#names.delete(name)]), releaseClaims(seen.id)];
  }

  async #retag(identifier: string, change: (tags: Tags) => Tags): Promise<void> {
    for (let attempt = 0; attempt < MAX_CONFLICTS; attempt++) {
      const seen = await this.#find(identifier);
      const record = { ...seen.body, tags: change(seen.body.tags) };
      const save = this.#rows.save({ ...rowOf(record), revision: seen.revision });
      if ((await this.#o.store.write([save])).kind === 'written') return;
    }
    throw new Error(`the record of ${identifier} kept changing under its tags`);
  }

  #moved(record: ConnectorRecord, before: ConnectorRecord | null): void {
    const states = { from: before?.state ?? null, to: record.state };
    this.#o.log.info({ connectorId: record.id, ...states }, 'network connector changed state');
    this.#due.consider(dueAt(record));
  }

  #claim(scope: string, token: string, parameters: object, resource: string): Claim {
    return { scope, token, fingerprint: fingerprintOf(parameters), resource, createdAt: this.#clock.now() };
  }

  async #earlier(claim: Claim): Promise<ConnectorView | undefined> {
    const earlier = await this.#o.store.findClaim(claim.scope, claim.token);
    return earlier && this.#replay(claim, earlier);
  }

  async #replay(asked: Claim, earlier: Claim): Promise<ConnectorView> {
    if (asked.fingerprint !== earlier.fingerprint) throw reused();
    return this.get(earlier.resource);
  }

  #arnOf(id: string): string {
    return `arn:aws:lambda:${this.#o.region}:${this.#o.accountId}:network-connector:${id}`;
  }

  #settlesAt(): number {
    return this.#clock.now() + (this.#o.settleMs ?? 1000);
  }
}

function reused(): DomainError {
  return new DomainError('CONFLICT', 'The ClientToken was already used with different parameters.');
}

/** `subgroup` is the state, so that the list can filter by it in its order. */
function rowOf(record: ConnectorRecord): NewRow<ConnectorRecord> {
  const { id, state, createdAt } = record;
  return { id, state, group: '', subgroup: state, createdAt, dueAt: dueAt(record), body: record };
}

function nameRow(name: string, createdAt: number) {
  return { id: name, state: '', group: '', subgroup: '', createdAt, dueAt: null };
}
