/**
 * Customers' network connectors behind the room's door: records, their names, the clock and the operator's networks that
 * move them, and what a list of them allows.
 *
 * Invariant: a name belongs to one connector from its creation until it is gone; both rows are written together. Whatever
 * changes what a list allows is announced after it was written.
 */
import assert from 'node:assert/strict';
import {
  addTags,
  type Clock,
  DomainError,
  type Ids,
  type Logger,
  messageOf,
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
import { type AllowedDomain, parseDomains, viewOfDomains } from './domains.ts';
import { defaultsOf, policyOf } from './egress.ts';
import { rulingOf } from './egress-rules.ts';
import { faultOf, HOLDING_ADDRESSES } from './faults.ts';
import { apply, type ConnectorEvent, type ConnectorRecord, dueAt, inForce } from './lifecycle.ts';
import { parseConnectorArn } from './managed.ts';
import { fixedNetworks, type Networks } from './networks.ts';
import { noNetworks } from './networks-file.ts';
import { checkConfiguration, checkName, requireOperatorRole } from './rules.ts';
import type {
  ConnectorSummary,
  Connectors,
  ConnectorView,
  CreateConnectorInput,
  DomainListView,
  EgressDefaults,
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
  /** What subnets and security groups stand for; default: none exist. Its owner disposes it. */
  readonly networks?: Networks;
  /** How many microVMs that have not ended use a connector; default none. */
  readonly usersOf?: (arn: string) => Promise<number>;
}

/** Depends on the record as it is when the event is applied. */
type MakeEvent = (record: ConnectorRecord) => Promise<ConnectorEvent>;

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
  readonly #networks: Networks;
  readonly #listeners = new Set<() => void>();
  readonly #watch: Disposable;
  #rechecking: Promise<void> = Promise.resolve();

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
      onDue: async (row) => void (await this.#apply(row.id, (record) => this.#dueEvent(record))),
    });
    this.#networks = options.networks ?? fixedNetworks(noNetworks());
    this.#watch = this.#networks.onChange(() => {
      this.#rechecking = this.#rechecking.then(() => this.#onNetworks());
    });
  }

  async start(): Promise<void> {
    await this.#recheck();
    await this.#due.start();
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
      const connector = parseConnectorArn(arn);
      if (connector.kind === 'managed') {
        if (connector.name !== 'INTERNET_EGRESS' || this.egressDefaults().internet === 'allow') continue;
        const text = 'This server does not allow INTERNET_EGRESS. Name a network connector of your own.';
        throw new DomainError('INVALID', text);
      }
      const { body } = await this.#find(arn);
      if (body.state !== 'ACTIVE') {
        // GUESS: connector-refusal-texts
        throw new DomainError('INVALID', `Network connector ${arn} is not ACTIVE but ${body.state}.`);
      }
    }
  }

  egressDefaults(): EgressDefaults {
    return defaultsOf(this.#networks.current());
  }

  async egress(arns: readonly string[]) {
    const plan = this.#networks.current();
    const find = async (arn: string) => (await this.#rows.get(this.#keyOf(arn)))?.body;
    return { policy: await policyOf(arns, plan, find), limits: plan.limits };
  }

  onEgressChange(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  async domains(identifier: string): Promise<DomainListView> {
    return domainsOf((await this.#find(identifier)).body);
  }

  async setDomains(identifier: string, value: unknown): Promise<DomainListView> {
    const domains = value === null ? null : parseDomains(value);
    const { id } = await this.#find(identifier);
    const record = await this.#apply(id, async (now) => {
      this.#checkSize(now, domains);
      return { type: 'domains', domains };
    });
    this.#o.log.info({ connectorId: id, domains: domains?.length ?? null }, 'domain list of a network connector set');
    return domainsOf(record);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#watch[Symbol.dispose]();
    this.#due[Symbol.dispose]();
    await this.#rechecking;
  }

  /** @throws DomainError INVALID when the list, and nothing else, makes the rules too many */
  #checkSize({ id, configuration }: ConnectorRecord, domains: readonly AllowedDomain[] | null): void {
    const plan = this.#networks.current();
    const ruling = rulingOf({ id, configuration, domains }, plan);
    if (ruling.kind === 'rules' || rulingOf({ id, configuration, domains: null }, plan).kind === 'invalid') return;
    throw new DomainError('INVALID', ruling.reason.text);
  }

  async #dueEvent(record: ConnectorRecord): Promise<ConnectorEvent> {
    const users = record.state === 'DELETING' ? ((await this.#o.usersOf?.(record.arn)) ?? 0) : 0;
    const fault = faultOf(record, record.configuration, this.#networks.current(), await this.#holders());
    return { type: 'due', fault, users };
  }

  async #onNetworks(): Promise<void> {
    try {
      await this.#recheck();
    } catch (error) {
      this.#o.log.error({ error: messageOf(error) }, 'network connectors could not be compared with the networks file');
    }
    this.#announce();
  }

  /** Connectors whose networks have gone become INACTIVE, those whose networks are back ACTIVE. */
  async #recheck(): Promise<void> {
    for (const { id } of await this.#inStates(['ACTIVE', 'INACTIVE'])) {
      const compared = this.#apply(id, async (record) => {
        const ruling = rulingOf(
          { id, configuration: inForce(record), domains: record.domains ?? null },
          this.#networks.current(),
        );
        return { type: 'networks', fault: ruling.kind === 'invalid' ? ruling.reason : null };
      });
      await compared.catch((error: unknown) => {
        // It went meanwhile.
        if (!(error instanceof DomainError && error.code === 'NOT_FOUND')) throw error;
      });
    }
  }

  #holders(): Promise<ConnectorRecord[]> {
    return this.#inStates(HOLDING_ADDRESSES);
  }

  async #inStates(states: readonly string[]): Promise<ConnectorRecord[]> {
    const found: ConnectorRecord[] = [];
    const limit = 200;
    for (let afterId = ''; ; ) {
      const page = await this.#rows.inStates(states, { afterId, limit });
      found.push(...page.map(({ body }) => body));
      const last = page.at(-1);
      if (last === undefined || page.length < limit) return found;
      afterId = last.id;
    }
  }

  #announce(): void {
    for (const listener of this.#listeners) listener();
  }

  /** @throws DomainError `NOT_FOUND` in the recorded words, which name the ARN whatever was asked with */
  async #find(identifier: string): Promise<Row<ConnectorRecord>> {
    const row = (await this.#rows.get(this.#keyOf(identifier))) ?? (await this.#named(identifier));
    if (row !== undefined) return row;
    const arn = identifier.startsWith('arn:') ? identifier : this.#arnOf(identifier);
    throw new DomainError('NOT_FOUND', `Network connector not found for: ${arn}`);
  }

  /** The pattern of connector ARNs allows a version behind the id. */
  #keyOf(identifier: string): string {
    const prefix = this.#arnOf('');
    return identifier.startsWith(prefix) ? identifier.slice(prefix.length).replace(/:\d+$/, '') : identifier;
  }

  async #named(name: string): Promise<Row<ConnectorRecord> | undefined> {
    const row = await this.#names.get(name);
    return row && this.#rows.get(row.body.connectorId);
  }

  /**
   * Applies `event` to the record as it is now and returns what it became, or was when nothing changed.
   * @throws DomainError `NOT_FOUND`, `CONFLICT`
   */
  async #apply(id: string, given: ConnectorEvent | MakeEvent, claim?: Claim): Promise<ConnectorRecord> {
    for (let attempt = 0; attempt < MAX_CONFLICTS; attempt++) {
      const seen = await this.#find(id);
      const event = typeof given === 'function' ? await given(seen.body) : given;
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
        this.#announce();
        return seen.body;
      }
      this.#moved(outcome.record, seen.body);
      return outcome.record;
    }
    throw new Error(`the record of ${id} kept changing`);
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
    const why = record.state === 'INACTIVE' || record.state === 'FAILED' ? record.why : {};
    if (states.from !== states.to) {
      this.#o.log.info({ connectorId: record.id, ...states, ...why }, 'network connector changed state');
    }
    this.#due.consider(dueAt(record));
    this.#announce();
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

function domainsOf({ arn: Arn, name: Name, domains }: ConnectorRecord): DomainListView {
  return { Arn, Name, domains: domains == null ? null : viewOfDomains(domains) };
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
