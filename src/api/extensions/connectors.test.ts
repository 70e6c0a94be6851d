import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DomainListView } from '../../connectors/index.ts';
import { DomainError } from '../../lib/index.ts';
import { answerDomains, type DomainsCall } from './connectors.ts';

const LIST: DomainListView = { Arn: 'arn:nc-1', Name: 'office', domains: null };

interface Bench {
  readonly demands: string[];
  readonly set: unknown[];
  ask(method: string, body?: string, change?: Partial<DomainsCall>): Promise<DomainListView>;
}

function bench(): Bench {
  const demands: string[] = [];
  const set: unknown[] = [];
  return {
    demands,
    set,
    ask: (method, body = '', change = {}) =>
      answerDomains({
        method,
        identifier: 'office',
        body: Buffer.from(body),
        connectors: {
          domains: async (identifier) => {
            if (identifier === 'office') return LIST;
            throw new DomainError('NOT_FOUND', 'There is no such connector.');
          },
          setDomains: async (identifier, domains) => {
            set.push(identifier, domains);
            return LIST;
          },
        },
        demandOn: async (action, resource) => void demands.push(`${action} ${resource}`),
        ...change,
      }),
  };
}

test('reading takes what reading the connector takes, changing what updating it takes', async () => {
  const b = bench();
  assert.deepEqual(await b.ask('GET'), LIST);
  await b.ask('PUT', '{"domains":[{"name":"a.example"}]}');
  await b.ask('DELETE');
  assert.deepEqual(b.demands, [
    'lambda:GetNetworkConnector arn:nc-1',
    'lambda:UpdateNetworkConnector arn:nc-1',
    'lambda:UpdateNetworkConnector arn:nc-1',
  ]);
  assert.deepEqual(b.set, ['arn:nc-1', [{ name: 'a.example' }], 'arn:nc-1', null]);
});

test('who may not is refused before anything is changed, and not told whether a connector exists', async () => {
  const b = bench();
  const demandOn = async () => {
    throw new DomainError('DENIED', 'No.');
  };
  for (const identifier of ['office', 'other']) {
    await assert.rejects(b.ask('PUT', '{"domains":[{"name":"a.example"}]}', { identifier, demandOn }), {
      code: 'DENIED',
    });
  }
  await assert.rejects(b.ask('GET', '', { identifier: 'other' }), { code: 'NOT_FOUND' });
  assert.deepEqual(b.set, []);
});

for (const [body, message] of [
  ['', /JSON object with the member "domains"/],
  ['[]', /JSON object with the member "domains"/],
  ['{"names":[]}', /JSON object with the member "domains"/],
  ['{"domains":[],"ports":[]}', /The member "ports" is unknown/],
  ['{"domains":null}', /DELETE takes it away/],
] as const) {
  test(`the body ${body} is refused`, async () => {
    const b = bench();
    await assert.rejects(b.ask('PUT', body), { code: 'INVALID', message });
    assert.deepEqual(b.set, []);
  });
}

test('other methods do nothing', async () => {
  await assert.rejects(bench().ask('POST'), { code: 'NOT_FOUND' });
});
