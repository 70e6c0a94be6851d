/** What a build is told of an app that does not listen. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestLink } from '../../guest/index.ts';
import { untilReady } from './readiness.ts';

const { signal } = new AbortController();

function guestThatListens(after: number): GuestLink {
  let asked = 0;
  return { isListening: async () => ++asked > after } as unknown as GuestLink;
}

test('an app that listens by and by is ready', async () => {
  const readiness = { kind: 'listening', port: 5000, graceMs: 60_000 } as const;
  assert.equal(await untilReady(guestThatListens(2), readiness, signal), undefined);
});

test('one that never listens is kept after its grace, and its build says so', async () => {
  const readiness = { kind: 'listening', port: 5000, graceMs: 100 } as const;
  const remark = await untilReady(guestThatListens(Number.POSITIVE_INFINITY), readiness, signal);
  assert.match(remark ?? '', /nothing listened on port 5000 within 0.1 s/);
});
