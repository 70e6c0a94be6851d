/** Roles whose credentials are withheld. */
export const revocations = [
  `CREATE TABLE revocations (
    id TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    state TEXT NOT NULL,
    "group" TEXT NOT NULL,
    subgroup TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    due_at INTEGER,
    body TEXT NOT NULL
  ) STRICT`,
  'CREATE INDEX revocations_by_age ON revocations (created_at DESC, id DESC)',
  'CREATE INDEX revocations_by_group ON revocations ("group", created_at DESC, id DESC)',
  'CREATE INDEX revocations_by_subgroup ON revocations ("group", subgroup, created_at DESC, id DESC)',
  'CREATE INDEX revocations_by_state ON revocations (state, id)',
  'CREATE INDEX revocations_by_due ON revocations (due_at, id) WHERE due_at IS NOT NULL',
] as const;
