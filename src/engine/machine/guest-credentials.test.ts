import assert from 'node:assert/strict';
import { test } from 'node:test';
import { silentLogger } from '../../lib/index.ts';
import { GuestCredentials } from './guest-credentials.ts';

const CREDENTIALS = {
  accessKeyId: 'ASIAEXAMPLE',
  secretAccessKey: 'secret',
  sessionToken: 'token',
  expiresAt: Date.UTC(2027, 0, 2, 3, 4, 5, 678),
};
const NOW = Date.UTC(2027, 0, 2, 2, 9, 0);

/** A link that notes what it is asked, and fails or waits as told. */
function bench(options: { mayHold?: boolean } = {}) {
  const calls: string[] = [];
  const documents: string[] = [];
  const next: (() => Promise<void>)[] = [];
  const link = {
    setCredentials: async (document: Buffer) => {
      calls.push('set');
      documents.push(document.toString());
      await next.shift()?.();
      return { erasesFreed: true };
    },
    clearCredentials: async () => {
      calls.push('clear');
      await next.shift()?.();
    },
  };
  const guest = new GuestCredentials(
    () => link,
    () => NOW,
    silentLogger,
    options,
  );
  return { guest, calls, documents, next };
}

test('the app gets the document as the metadata service writes it', async () => {
  const { guest, documents } = bench();
  await guest.set(CREDENTIALS, {});
  assert.deepEqual(JSON.parse(documents[0] ?? ''), {
    Code: 'Success',
    LastUpdated: '2027-01-02T02:09:00Z',
    Type: 'AWS-HMAC',
    AccessKeyId: 'ASIAEXAMPLE',
    SecretAccessKey: 'secret',
    Token: 'token',
    Expiration: '2027-01-02T03:04:05Z',
  });
});

test('withdrawing costs nothing when nothing was ever pushed, and nothing twice', async () => {
  const { guest, calls } = bench();
  await guest.withdraw({});
  guest.allow();
  await guest.set(null, {});
  await guest.set(CREDENTIALS, {});
  await guest.withdraw({});
  await guest.withdraw({});
  assert.deepEqual(calls, ['set', 'clear']);
});

test('what an earlier server may have pushed is withdrawn too', async () => {
  const { guest, calls } = bench({ mayHold: true });
  await guest.withdraw({});
  assert.deepEqual(calls, ['clear']);
});

test('a push that failed is withdrawn all the same', async () => {
  const { guest, calls, next } = bench();
  next.push(() => Promise.reject(new Error('the answer was lost')));
  await assert.rejects(guest.set(CREDENTIALS, {}));
  await guest.withdraw({});
  assert.deepEqual(calls, ['set', 'clear']);
});

test('a withdrawal that was not confirmed rejects and is tried again at the next', async () => {
  const { guest, calls, next } = bench();
  await guest.set(CREDENTIALS, {});
  next.push(() => Promise.reject(new Error('no answer')));
  await assert.rejects(guest.withdraw({}), /no answer/);
  await guest.withdraw({});
  assert.deepEqual(calls, ['set', 'clear', 'clear']);
});

test('a push under way ends before the withdrawal, and none begins behind it until it is allowed', async () => {
  const { guest, calls, next } = bench();
  const slow = Promise.withResolvers<void>();
  next.push(() => slow.promise);
  const push = guest.set(CREDENTIALS, {});
  const withdrawal = guest.withdraw({});
  const late = guest.set(CREDENTIALS, {});
  late.catch(() => {});
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(calls, ['set']);
  slow.resolve();
  await Promise.all([push, withdrawal]);
  await assert.rejects(late, /suspended/);
  assert.deepEqual(calls, ['set', 'clear']);
  guest.allow();
  await guest.set(CREDENTIALS, {});
  assert.deepEqual(calls, ['set', 'clear', 'set']);
});
