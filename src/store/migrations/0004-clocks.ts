/** Where elapsed time stands; and microVMs count their life on it, and say which of their machines they mean. */
export const clocks = [
  `CREATE TABLE clocks (
    id TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    state TEXT NOT NULL,
    "group" TEXT NOT NULL,
    subgroup TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    due_at INTEGER,
    body TEXT NOT NULL
  ) STRICT`,
  'CREATE INDEX clocks_by_age ON clocks (created_at DESC, id DESC)',
  'CREATE INDEX clocks_by_group ON clocks ("group", created_at DESC, id DESC)',
  'CREATE INDEX clocks_by_subgroup ON clocks ("group", subgroup, created_at DESC, id DESC)',
  'CREATE INDEX clocks_by_state ON clocks (state, id)',
  'CREATE INDEX clocks_by_due ON clocks (due_at, id) WHERE due_at IS NOT NULL',
  "UPDATE microvms SET body = json_set(body, '$.epoch', 1, '$.bornAt', json_extract(body, '$.startedAt'))",
] as const;
