/** Users and roles with their policies, and users' access keys. */
const kinds = ['principals', 'access_keys'];

export const identities = kinds.flatMap((kind) => [
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
]);
