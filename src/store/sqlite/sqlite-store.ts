/**
 * The store on `node:sqlite`: one connection, prepared statements. Calls are synchronous underneath, so a write is done
 * in the tick it was asked for and writes never interleave.
 */
import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite';
import { type Ids, randomIds } from '../../lib/index.ts';
import { PageTokens } from '../page-token.ts';
import type {
  Claim,
  ListQuery,
  RecordKind,
  Records,
  Row,
  Store,
  Where,
  Write,
  WriteOptions,
  WriteResult,
} from '../store.ts';
import { openDatabase } from './open.ts';

/** Opens (and makes or migrates) the store in the file `path`. @throws StoreError */
export async function openStore(path: string, options: { ids?: Ids } = {}): Promise<Store> {
  const sql = new Statements(openDatabase(path));
  const ids = options.ids ?? randomIds;
  return new SqliteStore(sql, ids, new PageTokens(secretOf(sql, ids, 'page-tokens', 32)));
}

class SqliteStore implements Store {
  readonly pageTokens: PageTokens;
  readonly #sql: Statements;
  readonly #ids: Ids;

  constructor(sql: Statements, ids: Ids, pageTokens: PageTokens) {
    this.#sql = sql;
    this.#ids = ids;
    this.pageTokens = pageTokens;
  }

  records<Body>(kind: RecordKind): Records<Body> {
    return new SqliteRecords<Body>(this.#sql, kind);
  }

  async write(writes: readonly Write[], claim?: Claim, { survives = 'host' }: WriteOptions = {}): Promise<WriteResult> {
    return this.#sql.transaction(survives, () => {
      if (claim !== undefined && !insertClaim(this.#sql, claim)) {
        const earlier = findClaim(this.#sql, claim.scope, claim.token);
        if (earlier !== undefined) return { kind: 'claimed', claim: earlier };
      }
      const index = writes.findIndex((write) => !applyWrite(this.#sql, write));
      return index === -1 ? { kind: 'written' } : { kind: 'conflict', index };
    });
  }

  async findClaim(scope: string, token: string): Promise<Claim | undefined> {
    return findClaim(this.#sql, scope, token);
  }

  async forgetClaims(at: number): Promise<number> {
    return Number(this.#sql.run('DELETE FROM claims WHERE created_at < ?', at));
  }

  async secret(name: string, length: number): Promise<Buffer> {
    return secretOf(this.#sql, this.#ids, name, length);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#sql.close();
  }
}

class SqliteRecords<Body> implements Records<Body> {
  readonly #sql: Statements;
  readonly #kind: RecordKind;

  constructor(sql: Statements, kind: RecordKind) {
    this.#sql = sql;
    this.#kind = kind;
  }

  async get(id: string): Promise<Row<Body> | undefined> {
    const [row] = this.#rows('WHERE id = ?', id);
    return row;
  }

  async list({ group, subgroup, after, limit }: ListQuery): Promise<readonly Row<Body>[]> {
    const where: string[] = [];
    const values: SQLInputValue[] = [];
    if (group !== undefined) {
      where.push('"group" = ?');
      values.push(group);
    }
    if (group !== undefined && subgroup !== undefined) {
      where.push('subgroup = ?');
      values.push(subgroup);
    }
    if (after !== undefined) {
      where.push('(created_at, id) < (?, ?)');
      values.push(after.createdAt, after.id);
    }
    const filter = where.length > 0 ? `WHERE ${where.join(' AND ')}` : '';
    return this.#rows(`${filter} ORDER BY created_at DESC, id DESC LIMIT ?`, ...values, limit);
  }

  async inStates(
    states: readonly string[],
    { afterId = '', limit }: { afterId?: string; limit: number },
  ): Promise<readonly Row<Body>[]> {
    // One index range per state, merged here: a single IN (...) ordered by id would sort every match.
    const found = states.flatMap((state) =>
      this.#rows('WHERE state = ? AND id > ? ORDER BY id LIMIT ?', state, afterId, limit),
    );
    return found.sort((a, b) => (a.id < b.id ? -1 : 1)).slice(0, limit);
  }

  async due(at: number, limit: number): Promise<readonly Row<Body>[]> {
    return this.#rows('WHERE due_at <= ? ORDER BY due_at, id LIMIT ?', at, limit);
  }

  async nextDueAt(): Promise<number | undefined> {
    const row = this.#sql.get(`SELECT min(due_at) AS due_at FROM ${this.#kind} WHERE due_at IS NOT NULL`);
    return row?.due_at == null ? undefined : Number(row.due_at);
  }

  insert(row: Omit<Row<Body>, 'revision'>): Write {
    return { op: 'insert', kind: this.#kind, row };
  }

  save(row: Row<Body>): Write {
    return { op: 'save', kind: this.#kind, row };
  }

  delete({ id, revision }: { readonly id: string; readonly revision: number }): Write {
    return { op: 'delete', kind: this.#kind, id, revision };
  }

  unchanged({ id, revision }: { readonly id: string; readonly revision: number }): Write {
    return { op: 'unchanged', kind: this.#kind, id, revision };
  }

  fewer(than: number, where: Where): Write {
    return { op: 'fewer', kind: this.#kind, than, where };
  }

  #rows(rest: string, ...values: SQLInputValue[]): Row<Body>[] {
    return this.#sql.all(`SELECT * FROM ${this.#kind} ${rest}`, ...values).map((row) => ({
      id: String(row.id),
      revision: Number(row.revision),
      state: String(row.state),
      group: String(row.group),
      subgroup: String(row.subgroup),
      createdAt: Number(row.created_at),
      dueAt: row.due_at === null ? null : Number(row.due_at),
      body: JSON.parse(String(row.body)) as Body,
    }));
  }
}

/** False when the id is taken, the revision is another one, the row is gone, or a condition does not hold. */
function applyWrite(sql: Statements, write: Write): boolean {
  switch (write.op) {
    case 'insert':
    case 'save':
      return applyRow(sql, write);
    case 'delete':
      return sql.run(`DELETE FROM ${write.kind} WHERE id = ? AND revision = ?`, write.id, write.revision) === 1n;
    case 'unchanged':
      return (
        sql.get(`SELECT 1 FROM ${write.kind} WHERE id = ? AND revision = ?`, write.id, write.revision) !== undefined
      );
    case 'fewer':
      return countUpTo(sql, write.kind, write.where, write.than) < write.than;
    case 'release':
      sql.run('DELETE FROM claims WHERE resource = ?', write.resource);
      return true;
    default:
      return write satisfies never;
  }
}

function countUpTo(sql: Statements, kind: RecordKind, { group, subgroup, states }: Where, limit: number): number {
  const where: string[] = [];
  const values: SQLInputValue[] = [];
  if (group !== undefined) {
    where.push('"group" = ?');
    values.push(group);
  }
  if (states !== undefined) {
    where.push(`state IN (${states.map(() => '?').join(', ')})`);
    values.push(...states);
  }
  if (subgroup !== undefined) {
    where.push('subgroup = ?');
    values.push(subgroup);
  }
  const filter = where.length > 0 ? `WHERE ${where.join(' AND ')}` : '';
  const text = `SELECT count(*) AS n FROM (SELECT 1 FROM ${kind} ${filter} LIMIT ?)`;
  return Number(sql.get(text, ...values, limit)?.n);
}

function applyRow(sql: Statements, write: Write & { readonly op: 'insert' | 'save' }): boolean {
  const { id, state, group, subgroup, createdAt, dueAt, body } = write.row;
  const values = [state, group, subgroup, createdAt, dueAt, JSON.stringify(body)];
  if (write.op === 'insert') {
    return (
      sql.run(
        `INSERT INTO ${write.kind} (id, revision, state, "group", subgroup, created_at, due_at, body)
         VALUES (?, 1, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
        id,
        ...values,
      ) === 1n
    );
  }
  return (
    sql.run(
      `UPDATE ${write.kind} SET revision = revision + 1, state = ?, "group" = ?, subgroup = ?, created_at = ?, due_at = ?, body = ?
       WHERE id = ? AND revision = ?`,
      ...values,
      id,
      write.row.revision,
    ) === 1n
  );
}

function insertClaim(sql: Statements, { scope, token, fingerprint, resource, createdAt }: Claim): boolean {
  return (
    sql.run(
      'INSERT INTO claims (scope, token, fingerprint, resource, created_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
      scope,
      token,
      fingerprint,
      resource,
      createdAt,
    ) === 1n
  );
}

function findClaim(sql: Statements, scope: string, token: string): Claim | undefined {
  const row = sql.get('SELECT * FROM claims WHERE scope = ? AND token = ?', scope, token);
  if (row === undefined) return undefined;
  return {
    scope,
    token,
    fingerprint: String(row.fingerprint),
    resource: String(row.resource),
    createdAt: Number(row.created_at),
  };
}

function secretOf(sql: Statements, ids: Ids, name: string, length: number): Buffer {
  sql.run('INSERT INTO secrets (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING', name, ids.bytes(length));
  return Buffer.from(sql.get('SELECT value FROM secrets WHERE name = ?', name)?.value as Uint8Array);
}

/** Prepared statements by their text, and transactions. */
class Statements {
  readonly #db: DatabaseSync;
  readonly #prepared = new Map<string, StatementSync>();
  #open = true;

  constructor(db: DatabaseSync) {
    this.#db = db;
  }

  get(text: string, ...values: SQLInputValue[]) {
    return this.#statement(text).get(...values);
  }

  all(text: string, ...values: SQLInputValue[]) {
    return this.#statement(text).all(...values);
  }

  /** How many rows were changed. */
  run(text: string, ...values: SQLInputValue[]): bigint {
    return BigInt(this.#statement(text).run(...values).changes);
  }

  /** Commits when `work` returns `written`, undoes everything otherwise. */
  transaction(survives: 'host' | 'process', work: () => WriteResult): WriteResult {
    if (survives === 'host') return this.#transaction(work);
    this.#db.exec('PRAGMA synchronous=NORMAL');
    try {
      return this.#transaction(work);
    } finally {
      this.#db.exec('PRAGMA synchronous=FULL');
    }
  }

  #transaction(work: () => WriteResult): WriteResult {
    this.#statement('BEGIN IMMEDIATE').run();
    let result: WriteResult;
    try {
      result = work();
      if (result.kind === 'written') {
        this.#statement('COMMIT').run();
        return result;
      }
    } catch (error) {
      if (this.#db.isTransaction) this.#statement('ROLLBACK').run();
      throw error;
    }
    this.#statement('ROLLBACK').run();
    return result;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#prepared.clear();
    this.#db.close();
  }

  #statement(text: string): StatementSync {
    let statement = this.#prepared.get(text);
    if (statement === undefined) {
      statement = this.#db.prepare(text);
      this.#prepared.set(text, statement);
    }
    return statement;
  }
}
