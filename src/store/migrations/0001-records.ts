/** First layout: one table per kind of record, client tokens, secrets. */
const kinds = ['images', 'versions', 'builds', 'microvms'];

export const records = [
  ...kinds.flatMap((kind) => [
    `CREATE TABLE ${kind} (
      id TEXT PRIMARY KEY,
      revision INTEGER NOT NULL,
      state TEXT NOT NULL,
      "group" TEXT NOT NULL,
      subgroup TEXT NOT NULL,
      created_at INTEGER NOT NULL,
      due_at INTEGER,
      body TEXT NOT NULL
    ) STRICT`,
    `CREATE INDEX ${kind}_by_age ON ${kind} (created_at DESC, id DESC)`,
    `CREATE INDEX ${kind}_by_group ON ${kind} ("group", created_at DESC, id DESC)`,
    `CREATE INDEX ${kind}_by_subgroup ON ${kind} ("group", subgroup, created_at DESC, id DESC)`,
    `CREATE INDEX ${kind}_by_state ON ${kind} (state, id)`,
    `CREATE INDEX ${kind}_by_due ON ${kind} (due_at, id) WHERE due_at IS NOT NULL`,
  ]),
  `CREATE TABLE claims (
    scope TEXT NOT NULL,
    token TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    resource TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (scope, token)
  ) STRICT, WITHOUT ROWID`,
  'CREATE INDEX claims_by_age ON claims (created_at)',
  'CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT',
] as const;
