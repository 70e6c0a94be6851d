/** What builds may reach: the connector of their version, in every machine that works for it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ARN, bench, INPUT } from './test-bench.ts';

const ANN = 'arn:aws:iam::000000000000:user/ann';

test('the Dockerfile, the app while it is sealed and the clone that is validated reach what the connector allows', async () => {
  await using b = await bench({ engine: { app: () => (_request, response) => void response.end() } });
  const validate = { validate: 'ENABLED' } as const;
  await b.images.create({ ...INPUT, principal: ANN, hooks: { port: 9000, microvmImageHooks: validate } });
  await b.built();
  const [built, clone] = [...b.engine.egress];
  assert.deepEqual(built?.[1], {
    policy: { rules: [{ id: 'INTERNET_EGRESS', kind: 'internet', protocols: ['tcp'] }], dns: 'open' },
    limits: {},
    labels: { principal: ANN, imageArn: ARN, imageVersion: '1.0' },
  });
  assert.match(String(clone?.[0]), /^validate-/);
  assert.deepEqual(clone?.[1], built?.[1]);
});

test("a version made of another's disk keeps who asked for that one", async () => {
  await using b = await bench();
  await b.images.create({ ...INPUT, principal: ANN, clientToken: 'once' });
  await b.images.create({ ...INPUT, principal: `${ANN}e`, clientToken: 'once' });
  await b.built();
  await b.images.rebuild(ARN, '1.0');
  await b.built('demo', '2.0');
  assert.deepEqual(
    [...b.engine.egress.values()].map((egress) => egress?.labels.principal),
    [ANN, ANN],
  );
});
