/**
 * The account's users and roles with their inline policies, and users' access keys: written through to the store, read
 * from memory, because every request asks and one server owns a state folder.
 *
 * Invariant: memory is what the store holds; a secret leaves this file only to check a signature, and once, in the
 * answer to the call that made it.
 */
import { type Clock, DomainError, type Ids } from '../lib/index.ts';
import type { Row, Store, Write } from '../store/index.ts';
import { readPolicy } from './policy/document.ts';
import type { NamedPolicy } from './policy/evaluate.ts';

export type HolderKind = 'user' | 'role';

/** Who policies can be attached to. */
export interface Holder {
  readonly kind: HolderKind;
  readonly name: string;
}

export interface HolderView extends Holder {
  readonly id: string;
  readonly arn: string;
  /** ms since the epoch. */
  readonly createdAt: number;
  readonly policies: readonly string[];
}

export interface AccessKeyView {
  readonly accessKeyId: string;
  readonly user: string;
  readonly createdAt: number;
}

export interface NewAccessKey extends AccessKeyView {
  readonly secretAccessKey: string;
}

/** @throws DomainError from all: NOT_FOUND, CONFLICT, INVALID, QUOTA */
export interface Directory {
  create(holder: Holder): Promise<HolderView>;
  list(kind: HolderKind): readonly HolderView[];
  get(holder: Holder): HolderView;
  /** With its policies and keys, which stop working at once. */
  remove(holder: Holder): Promise<void>;
  createKey(user: string): Promise<NewAccessKey>;
  listKeys(user: string): readonly AccessKeyView[];
  removeKey(user: string, accessKeyId: string): Promise<void>;
  /** Adds or replaces; `document` is JSON text. */
  putPolicy(holder: Holder, name: string, document: string): Promise<void>;
  /** The JSON text as it was put. */
  policy(holder: Holder, name: string): string;
  removePolicy(holder: Holder, name: string): Promise<void>;
}

interface HolderRecord extends Holder {
  readonly id: string;
  readonly policies: Readonly<Record<string, string>>;
}

interface KeyRecord {
  readonly secretAccessKey: string;
}

interface Known {
  readonly row: Row<HolderRecord>;
  readonly policies: readonly NamedPolicy[];
}

/** IAM's quota. */
const MAX_KEYS = 2;
/** Bounds what one decision costs. */
const MAX_POLICIES = 10;
const PAGE = 500;
/** IAM's characters and lengths. */
const HOLDER_NAME = /^[\w+=,.@-]{1,64}$/;
const POLICY_NAME = /^[\w+=,.@-]{1,128}$/;
const ID_PREFIX: Readonly<Record<HolderKind, string>> = { user: 'AIDA', role: 'AROA' };

export interface DirectoryOptions {
  readonly store: Store;
  readonly account: string;
  readonly clock: Clock;
  readonly ids: Ids;
}

export async function openDirectory(options: DirectoryOptions): Promise<StoredDirectory> {
  const holders = new Map<string, Known>();
  for await (const row of allOf<HolderRecord>(options.store, 'principals')) holders.set(row.id, knownOf(row));
  const keys = new Map<string, Row<KeyRecord>>();
  for await (const row of allOf<KeyRecord>(options.store, 'access_keys')) keys.set(row.id, row);
  return new StoredDirectory(options, holders, keys);
}

export class StoredDirectory implements Directory {
  readonly #o: DirectoryOptions;
  readonly #holders: Map<string, Known>;
  readonly #keys: Map<string, Row<KeyRecord>>;

  constructor(options: DirectoryOptions, holders: Map<string, Known>, keys: Map<string, Row<KeyRecord>>) {
    this.#o = options;
    this.#holders = holders;
    this.#keys = keys;
  }

  /** Who a key belongs to, with its secret. */
  credentials(accessKeyId: string): { user: HolderView; secretAccessKey: string } | undefined {
    const key = this.#keys.get(accessKeyId);
    const user = key && this.#holders.get(idOf({ kind: 'user', name: key.group }));
    return key && user && { user: this.#viewOf(user), secretAccessKey: key.body.secretAccessKey };
  }

  /** None for somebody who is gone. */
  policies(holder: Holder): readonly NamedPolicy[] {
    return this.#holders.get(idOf(holder))?.policies ?? [];
  }

  async create(holder: Holder): Promise<HolderView> {
    const { kind, name } = holder;
    if (!HOLDER_NAME.test(name)) {
      throw new DomainError('INVALID', `The name of a ${kind} has 1 to 64 letters, digits or characters of +=,.@_-.`);
    }
    const id = ID_PREFIX[kind] + randomName(this.#o.ids);
    const row: Row<HolderRecord> = {
      id: idOf(holder),
      revision: 1,
      state: 'ACTIVE',
      group: kind,
      subgroup: '',
      createdAt: this.#o.clock.now(),
      dueAt: null,
      body: { kind, name, id, policies: {} },
    };
    const result = await this.#o.store.write([this.#holderRows.insert(row)]);
    if (result.kind !== 'written') throw new DomainError('CONFLICT', `The ${kind} ${name} exists already.`);
    return this.#remember(row);
  }

  list(kind: HolderKind): readonly HolderView[] {
    return [...this.#holders.values()]
      .filter(({ row }) => row.body.kind === kind)
      .map((known) => this.#viewOf(known))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  get(holder: Holder): HolderView {
    return this.#viewOf(this.#find(holder));
  }

  async remove(holder: Holder): Promise<void> {
    const { row } = this.#find(holder);
    const keys = holder.kind === 'user' ? this.#keysOf(holder.name) : [];
    await this.#write(holder, [this.#holderRows.delete(row), ...keys.map((key) => this.#keyRows.delete(key))]);
    this.#holders.delete(row.id);
    for (const key of keys) this.#keys.delete(key.id);
  }

  async createKey(user: string): Promise<NewAccessKey> {
    const holder: Holder = { kind: 'user', name: user };
    const { row } = this.#find(holder);
    if (this.#keysOf(user).length >= MAX_KEYS) {
      throw new DomainError('QUOTA', `The user ${user} has ${MAX_KEYS} access keys already; remove one first.`);
    }
    const secretAccessKey = this.#o.ids.bytes(30).toString('base64');
    const key: Row<KeyRecord> = {
      id: `AKIA${randomName(this.#o.ids)}`,
      revision: 1,
      state: 'ACTIVE',
      group: user,
      subgroup: '',
      createdAt: this.#o.clock.now(),
      dueAt: null,
      body: { secretAccessKey },
    };
    // Saving the user too makes a removal that happens meanwhile win.
    await this.#write(holder, [this.#holderRows.save(row), this.#keyRows.insert(key)]);
    this.#remember({ ...row, revision: row.revision + 1 });
    this.#keys.set(key.id, key);
    return { ...keyViewOf(key), secretAccessKey };
  }

  listKeys(user: string): readonly AccessKeyView[] {
    this.#find({ kind: 'user', name: user });
    return this.#keysOf(user).map(keyViewOf);
  }

  async removeKey(user: string, accessKeyId: string): Promise<void> {
    const holder: Holder = { kind: 'user', name: user };
    this.#find(holder);
    const key = this.#keys.get(accessKeyId);
    if (key === undefined || key.group !== user) {
      throw new DomainError('NOT_FOUND', `The user ${user} has no access key ${accessKeyId.slice(0, 128)}.`);
    }
    await this.#write(holder, [this.#keyRows.delete(key)]);
    this.#keys.delete(key.id);
  }

  async putPolicy(holder: Holder, name: string, document: string): Promise<void> {
    const { row } = this.#find(holder);
    if (!POLICY_NAME.test(name)) {
      throw new DomainError('INVALID', 'The name of a policy has 1 to 128 letters, digits or characters of +=,.@_-.');
    }
    readPolicy(document);
    const { policies } = row.body;
    if (!Object.hasOwn(policies, name) && Object.keys(policies).length >= MAX_POLICIES) {
      throw new DomainError('QUOTA', `The ${holder.kind} ${holder.name} has ${MAX_POLICIES} policies already.`);
    }
    await this.#savePolicies(row, { ...policies, [name]: document });
  }

  policy(holder: Holder, name: string): string {
    const { policies } = this.#find(holder).row.body;
    const document = Object.hasOwn(policies, name) ? policies[name] : undefined;
    if (document !== undefined) return document;
    throw new DomainError('NOT_FOUND', `The ${holder.kind} ${holder.name} has no policy ${name.slice(0, 128)}.`);
  }

  async removePolicy(holder: Holder, name: string): Promise<void> {
    this.policy(holder, name);
    const { row } = this.#find(holder);
    const { [name]: _removed, ...rest } = row.body.policies;
    await this.#savePolicies(row, rest);
  }

  async #savePolicies(row: Row<HolderRecord>, policies: HolderRecord['policies']): Promise<void> {
    const next = { ...row, body: { ...row.body, policies } };
    await this.#write(row.body, [this.#holderRows.save(next)]);
    this.#remember({ ...next, revision: row.revision + 1 });
  }

  async #write({ kind, name }: Holder, writes: readonly Write[]): Promise<void> {
    const result = await this.#o.store.write(writes);
    if (result.kind === 'written') return;
    throw new DomainError('CONFLICT', `The ${kind} ${name} was changed at the same time by somebody else; try again.`);
  }

  get #holderRows() {
    return this.#o.store.records<HolderRecord>('principals');
  }

  get #keyRows() {
    return this.#o.store.records<KeyRecord>('access_keys');
  }

  #find(holder: Holder): Known {
    const known = this.#holders.get(idOf(holder));
    if (known !== undefined) return known;
    throw new DomainError('NOT_FOUND', `There is no ${holder.kind} ${holder.name.slice(0, 64)}.`);
  }

  #keysOf(user: string): Row<KeyRecord>[] {
    return [...this.#keys.values()].filter((key) => key.group === user);
  }

  #remember(row: Row<HolderRecord>): HolderView {
    const known = knownOf(row);
    this.#holders.set(row.id, known);
    return this.#viewOf(known);
  }

  #viewOf({ row }: Known): HolderView {
    const { kind, name, id, policies } = row.body;
    const arn = `arn:aws:iam::${this.#o.account}:${kind}/${name}`;
    return { kind, name, id, arn, createdAt: row.createdAt, policies: Object.keys(policies).sort() };
  }
}

function idOf({ kind, name }: Holder): string {
  return `${kind}/${name}`;
}

function knownOf(row: Row<HolderRecord>): Known {
  const policies = Object.entries(row.body.policies).map(([name, text]) => ({ name, policy: readPolicy(text) }));
  return { row, policies };
}

function keyViewOf(key: Row<KeyRecord>): AccessKeyView {
  return { accessKeyId: key.id, user: key.group, createdAt: key.createdAt };
}

/** Sixteen characters of the alphabet that AWS uses in ids. */
function randomName(ids: Ids): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
  return [...ids.bytes(16)].map((byte) => alphabet[byte & 31]).join('');
}

async function* allOf<Body>(store: Store, kind: 'principals' | 'access_keys'): AsyncIterable<Row<Body>> {
  let after: Row<Body> | undefined;
  do {
    const rows: readonly Row<Body>[] = await store.records<Body>(kind).list({ limit: PAGE, ...(after && { after }) });
    yield* rows;
    after = rows.length === PAGE ? rows.at(-1) : undefined;
  } while (after !== undefined);
}
