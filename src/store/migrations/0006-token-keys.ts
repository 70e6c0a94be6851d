/** Keys that endpoint tokens are made with, and those that may still have to read one. */
export const tokenKeys = [
  `CREATE TABLE token_keys (
    id TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    state TEXT NOT NULL,
    "group" TEXT NOT NULL,
    subgroup TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    due_at INTEGER,
    body TEXT NOT NULL
  ) STRICT`,
  'CREATE INDEX token_keys_by_age ON token_keys (created_at DESC, id DESC)',
  'CREATE INDEX token_keys_by_group ON token_keys ("group", created_at DESC, id DESC)',
  'CREATE INDEX token_keys_by_subgroup ON token_keys ("group", subgroup, created_at DESC, id DESC)',
  'CREATE INDEX token_keys_by_state ON token_keys (state, id)',
  'CREATE INDEX token_keys_by_due ON token_keys (due_at, id) WHERE due_at IS NOT NULL',
] as const;
