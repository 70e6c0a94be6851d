/** Network connectors with their names, and indexes for "is it in use", "how many are there" and letting go of client tokens. */
const kinds = ['connectors', 'connector_names'];

export const connectors = [
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
  // A group may hold 100,000 ended rows beside the few that count.
  'CREATE INDEX microvms_by_use ON microvms ("group", state, subgroup)',
  'CREATE INDEX versions_by_use ON versions ("group", state, subgroup)',
  'CREATE INDEX claims_by_resource ON claims (resource)',
] as const;
