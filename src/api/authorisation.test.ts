import assert from 'node:assert/strict';
import { test } from 'node:test';
import { behaviours } from './operations/index.ts';

/** By the guide's security chapter; connectors' list and create likewise. */
const ON_EVERYTHING = [
  'CreateMicrovmImage',
  'CreateNetworkConnector',
  'ListManagedMicrovmImageVersions',
  'ListManagedMicrovmImages',
  'ListMicrovmImages',
  'ListMicrovms',
  'ListNetworkConnectors',
];

test('every operation is authorised on a resource of its own, but creating and listing, which are on *', () => {
  const found = Object.entries(behaviours).filter(([, behaviour]) => behaviour.resource === undefined);
  assert.deepEqual(found.map(([name]) => name).sort(), ON_EVERYTHING);
});
