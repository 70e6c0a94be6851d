import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ingressPolicy, managedConnectorArn, parseConnectorArn, resolveEgress, resolveIngress } from './index.ts';

const region = 'us-east-1';
const managed = (name: Parameters<typeof managedConnectorArn>[1]) => managedConnectorArn(region, name);

test('a managed connector ARN reads back to its name', () => {
  assert.deepEqual(parseConnectorArn(managed('SHELL_INGRESS')), {
    kind: 'managed',
    arn: 'arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:SHELL_INGRESS',
    name: 'SHELL_INGRESS',
  });
});

test('a customer connector ARN reads as its account and id', () => {
  const arn = 'arn:aws:lambda:us-east-1:111122223333:network-connector:nc-1';
  assert.deepEqual(parseConnectorArn(arn), { kind: 'customer', arn, account: '111122223333', id: 'nc-1' });
});

for (const name of ['HTTP_INGRESS', '', 'arn:aws:lambda:us-east-1:aws:microvm-image:x', 'arn:aws:s3:::bucket']) {
  test(`'${name}' is refused as a malformed ARN`, () => {
    assert.throws(() => parseConnectorArn(name), { code: 'INVALID', message: 'Malformed network connector ARN' });
  });
}

for (const name of ['NO_EGRESS', 'http_ingress', 'toString', '']) {
  const arn = `arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:${name}`;
  test(`the managed name '${name}' is refused as unrecognized`, () => {
    assert.throws(() => parseConnectorArn(arn), {
      code: 'INVALID',
      message: `Unrecognized managed network connector ARN: ${arn}`,
    });
  });
}

test('absent and empty lists fall back to HTTP in, and out to the image list or the internet', () => {
  for (const absent of [undefined, []]) {
    assert.deepEqual(resolveIngress(region, absent), [managed('HTTP_INGRESS')]);
    assert.deepEqual(resolveEgress(region, absent), [managed('INTERNET_EGRESS')]);
    assert.deepEqual(resolveEgress(region, absent, ['image-list']), ['image-list']);
  }
});

test('where the default is to deny, no list means no egress, and an image loses an INTERNET_EGRESS it was given before', () => {
  const deny = { implicit: 'none', internet: 'refuse' } as const;
  const own = 'arn:aws:lambda:us-east-1:111122223333:network-connector:nc-1';
  for (const absent of [undefined, []]) {
    assert.deepEqual(resolveEgress(region, absent, undefined, deny), []);
    assert.deepEqual(resolveEgress(region, absent, [managed('INTERNET_EGRESS')], deny), []);
    assert.deepEqual(resolveEgress(region, absent, [own], deny), [own]);
  }
  // Whether it may be asked for by name is `requireActive`'s to say.
  assert.deepEqual(resolveEgress(region, [managed('INTERNET_EGRESS')], undefined, deny), [managed('INTERNET_EGRESS')]);
  const allowed = { implicit: 'none', internet: 'allow' } as const;
  assert.deepEqual(resolveEgress(region, undefined, [managed('INTERNET_EGRESS')], allowed), [
    managed('INTERNET_EGRESS'),
  ]);
});

test('a connector in the list of the other direction is refused', () => {
  assert.throws(() => resolveIngress(region, [managed('INTERNET_EGRESS')]), { code: 'INVALID' });
  assert.throws(() => resolveEgress(region, [managed('HTTP_INGRESS')]), { code: 'INVALID' });
});

test("a customer's connector goes out, never in", () => {
  const arn = 'arn:aws:lambda:us-east-1:111122223333:network-connector:nc-1';
  assert.deepEqual(resolveEgress(region, [arn]), [arn]);
  assert.throws(() => resolveIngress(region, [arn]), { code: 'INVALID' });
});

test('the policy of a list says what may come in and whether ALL_INGRESS clashes', () => {
  const policy = (...names: Parameters<typeof managedConnectorArn>[1][]) => ingressPolicy(names.map(managed));
  assert.deepEqual(policy('HTTP_INGRESS'), { http: true, shell: false, conflicting: false });
  assert.deepEqual(policy('HTTP_INGRESS', 'SHELL_INGRESS'), { http: true, shell: true, conflicting: false });
  assert.deepEqual(policy('ALL_INGRESS'), { http: true, shell: false, conflicting: false });
  assert.deepEqual(policy('ALL_INGRESS', 'SHELL_INGRESS'), { http: true, shell: true, conflicting: true });
  assert.deepEqual(policy('NO_INGRESS'), { http: false, shell: false, conflicting: false });
});
