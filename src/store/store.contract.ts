/** What every store driver promises. A driver's test calls `storeContract` with how to open one at a place that survives closing. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Claim, type NewRow, releaseClaims, type Store } from './store.ts';

interface Body {
  readonly text: string;
}

export interface StoreFixture extends AsyncDisposable {
  open(): Promise<Store>;
}

export function storeContract(driver: string, fixture: () => Promise<StoreFixture>): void {
  const rowOf = (id: string, over: Partial<NewRow<Body>> = {}): NewRow<Body> => ({
    id,
    state: 'RUNNING',
    group: 'image-a',
    subgroup: '1.0',
    createdAt: 1000,
    dueAt: null,
    body: { text: id },
    ...over,
  });
  const claimOf = (over: Partial<Claim> = {}): Claim => ({
    scope: 'run',
    token: 't',
    fingerprint: 'f',
    resource: 'm-1',
    createdAt: 1000,
    ...over,
  });
  const check = (name: string, body: (store: Store, files: StoreFixture) => Promise<void>) =>
    test(`${driver}: ${name}`, async () => {
      await using files = await fixture();
      await using store = await files.open();
      await body(store, files);
    });

  check('a row that was inserted is read back with revision 1', async (store) => {
    const rows = store.records<Body>('microvms');
    assert.deepEqual(await store.write([rows.insert(rowOf('m-1', { dueAt: 5 }))]), { kind: 'written' });
    assert.deepEqual(await rows.get('m-1'), { ...rowOf('m-1', { dueAt: 5 }), revision: 1 });
    assert.equal(await rows.get('m-2'), undefined);
  });

  check('a write that need not outlive the host keeps to revisions and outlives the store', async (store, files) => {
    const rows = store.records<Body>('microvms');
    await store.write([rows.insert(rowOf('m-1'))]);
    const next = { ...rowOf('m-1', { state: 'RUNNING' }), revision: 1 };
    const relaxed = { survives: 'process' } as const;
    assert.deepEqual(await store.write([rows.save(next)], undefined, relaxed), { kind: 'written' });
    assert.deepEqual(await store.write([rows.save(next)], undefined, relaxed), { kind: 'conflict', index: 0 });
    await store[Symbol.asyncDispose]();
    await using again = await files.open();
    assert.equal((await again.records<Body>('microvms').get('m-1'))?.state, 'RUNNING');
  });

  check('kinds are apart from each other', async (store) => {
    await store.write([store.records<Body>('images').insert(rowOf('x'))]);
    assert.equal(await store.records<Body>('microvms').get('x'), undefined);
  });

  check('a save with a revision seen too long ago changes nothing', async (store) => {
    const rows = store.records<Body>('microvms');
    await store.write([rows.insert(rowOf('m-1'))]);
    const seen = { ...rowOf('m-1'), revision: 1 };
    assert.deepEqual(await store.write([rows.save({ ...seen, state: 'SUSPENDING' })]), { kind: 'written' });
    assert.deepEqual(await store.write([rows.save({ ...seen, state: 'TERMINATING' })]), { kind: 'conflict', index: 0 });
    const now = await rows.get('m-1');
    assert.equal(now?.state, 'SUSPENDING');
    assert.equal(now?.revision, 2);
  });

  check('a write of several rows is all or nothing', async (store) => {
    const rows = store.records<Body>('versions');
    await store.write([rows.insert(rowOf('taken'))]);
    const result = await store.write([rows.insert(rowOf('new')), rows.insert(rowOf('taken'))], claimOf());
    assert.deepEqual(result, { kind: 'conflict', index: 1 });
    assert.equal(await rows.get('new'), undefined);
    assert.equal(await store.findClaim('run', 't'), undefined);
  });

  check('a delete wants the present revision', async (store) => {
    const rows = store.records<Body>('images');
    await store.write([rows.insert(rowOf('i'))]);
    assert.equal((await store.write([rows.delete({ id: 'i', revision: 2 })])).kind, 'conflict');
    assert.equal((await store.write([rows.delete({ id: 'i', revision: 1 })])).kind, 'written');
    assert.equal(await rows.get('i'), undefined);
  });

  check('a client token used before returns its first claim and writes nothing', async (store) => {
    const rows = store.records<Body>('microvms');
    await store.write([rows.insert(rowOf('m-1'))], claimOf());
    const again = await store.write([rows.insert(rowOf('m-2'))], claimOf({ resource: 'm-2', fingerprint: 'other' }));
    assert.deepEqual(again, { kind: 'claimed', claim: claimOf() });
    assert.equal(await rows.get('m-2'), undefined);
    assert.equal((await store.write([rows.insert(rowOf('m-2'))], claimOf({ scope: 'create' }))).kind, 'written');
    assert.deepEqual(await store.findClaim('run', 't'), claimOf());
  });

  check('client tokens older than a moment can be forgotten', async (store) => {
    await store.write([], claimOf({ token: 'old', createdAt: 10 }));
    await store.write([], claimOf({ token: 'new', createdAt: 20 }));
    assert.equal(await store.forgetClaims(20), 1);
    assert.equal(await store.findClaim('run', 'old'), undefined);
    assert.notEqual(await store.findClaim('run', 'new'), undefined);
  });

  check('lists go newest first and continue behind a key, also within one millisecond', async (store) => {
    const rows = store.records<Body>('microvms');
    const ages: [string, number][] = [
      ['a', 1],
      ['b', 2],
      ['c', 2],
      ['d', 3],
    ];
    for (const [id, createdAt] of ages) await store.write([rows.insert(rowOf(id, { createdAt }))]);
    const seen: string[] = [];
    let after: { createdAt: number; id: string } | undefined;
    for (;;) {
      const [row] = await rows.list({ limit: 1, ...(after && { after }) });
      if (row === undefined) break;
      seen.push(row.id);
      after = { createdAt: row.createdAt, id: row.id };
    }
    assert.deepEqual(seen, ['d', 'c', 'b', 'a']);
  });

  check('lists filter by group and subgroup', async (store) => {
    const rows = store.records<Body>('microvms');
    await store.write([
      rows.insert(rowOf('a')),
      rows.insert(rowOf('b', { subgroup: '2.0' })),
      rows.insert(rowOf('c', { group: 'image-b' })),
    ]);
    const ids = async (query: { group?: string; subgroup?: string }) =>
      (await rows.list({ ...query, limit: 9 })).map((row) => row.id);
    assert.deepEqual(await ids({ group: 'image-a' }), ['b', 'a']);
    assert.deepEqual(await ids({ group: 'image-a', subgroup: '1.0' }), ['a']);
    assert.deepEqual(await ids({ group: 'nobody' }), []);
  });

  check('rows in given states come by id and can be continued', async (store) => {
    const rows = store.records<Body>('microvms');
    const states = { a: 'PENDING', b: 'TERMINATED', c: 'RUNNING', d: 'PENDING' };
    for (const [id, state] of Object.entries(states)) await store.write([rows.insert(rowOf(id, { state }))]);
    const ids = async (options: { afterId?: string; limit: number }) =>
      (await rows.inStates(['RUNNING', 'PENDING'], options)).map((row) => row.id);
    assert.deepEqual(await ids({ limit: 2 }), ['a', 'c']);
    assert.deepEqual(await ids({ limit: 2, afterId: 'c' }), ['d']);
  });

  check('due rows come earliest first and rows without a due time never', async (store) => {
    const rows = store.records<Body>('microvms');
    assert.equal(await rows.nextDueAt(), undefined);
    await store.write([
      rows.insert(rowOf('late', { dueAt: 30 })),
      rows.insert(rowOf('never')),
      rows.insert(rowOf('soon', { dueAt: 10 })),
      rows.insert(rowOf('next', { dueAt: 20 })),
    ]);
    assert.equal(await rows.nextDueAt(), 10);
    assert.deepEqual(
      (await rows.due(20, 9)).map((row) => row.id),
      ['soon', 'next'],
    );
    assert.deepEqual(
      (await rows.due(20, 1)).map((row) => row.id),
      ['soon'],
    );
  });

  check('a write may depend on a row that must not have changed', async (store) => {
    const rows = store.records<Body>('versions');
    await store.write([rows.insert(rowOf('v'))]);
    const write = (id: string, revision: number) =>
      store.write([rows.unchanged({ id: 'v', revision }), rows.insert(rowOf(id))]);
    assert.deepEqual(await write('a', 2), { kind: 'conflict', index: 0 });
    assert.deepEqual(await write('a', 1), { kind: 'written' });
    assert.equal((await rows.get('v'))?.revision, 1);
    assert.equal((await store.write([rows.unchanged({ id: 'nobody', revision: 1 })])).kind, 'conflict');
  });

  check('a write may depend on how many rows of a group, subgroup and of some states there are', async (store) => {
    const rows = store.records<Body>('microvms');
    await store.write([
      rows.insert(rowOf('a', { state: 'RUNNING' })),
      rows.insert(rowOf('b', { state: 'SUSPENDED', subgroup: '2.0' })),
      rows.insert(rowOf('c', { state: 'TERMINATED', subgroup: '3.0' })),
      rows.insert(rowOf('d', { state: 'RUNNING', group: 'image-b' })),
    ]);
    const live = ['RUNNING', 'SUSPENDED'];
    for (const [where, count] of [
      [{}, 4],
      [{ states: live }, 3],
      [{ states: [] }, 0],
      [{ group: 'image-a' }, 3],
      [{ group: 'image-a', states: live }, 2],
      [{ group: 'image-a', subgroup: '2.0', states: live }, 1],
      [{ group: 'image-a', subgroup: '3.0', states: live }, 0],
      [{ group: 'nobody' }, 0],
    ] as const) {
      const said = JSON.stringify(where);
      assert.equal((await store.write([rows.fewer(count + 1, where)])).kind, 'written', said);
      assert.equal((await store.write([rows.fewer(count, where)])).kind, 'conflict', said);
    }
    const full = await store.write([rows.insert(rowOf('e')), rows.fewer(5, {})]);
    assert.deepEqual(full, { kind: 'conflict', index: 1 });
    assert.equal(await rows.get('e'), undefined, 'a condition sees what stands before it and undoes it');
  });

  check('a write can let go of the client tokens of a resource', async (store) => {
    await store.write([], claimOf({ token: 'a', resource: 'gone' }));
    await store.write([], claimOf({ token: 'b', resource: 'stays' }));
    await store.write([releaseClaims('gone')]);
    assert.equal(await store.findClaim('run', 'a'), undefined);
    assert.notEqual(await store.findClaim('run', 'b'), undefined);
  });

  check('a secret is made once', async (store) => {
    const first = await store.secret('endpoint', 32);
    assert.equal(first.length, 32);
    assert.deepEqual(await store.secret('endpoint', 32), first);
    assert.notDeepEqual(await store.secret('other', 32), first);
  });

  check('a page token opens only for the list it was made for', async (store) => {
    const key = { createdAt: 7, id: 'm-1' };
    const token = store.pageTokens.seal('microvms?image=a', key);
    assert.deepEqual(store.pageTokens.open('microvms?image=a', token), key);
    for (const [scope, bad] of [
      ['microvms?image=b', token],
      ['microvms?image=a', `${token}x`],
      ['microvms?image=a', ''],
      ['microvms?image=a', 'AAAA'],
    ] as const) {
      assert.throws(() => store.pageTokens.open(scope, bad), { code: 'INVALID' });
    }
  });

  check('everything is there again after closing and opening', async (store, files) => {
    const rows = store.records<Body>('microvms');
    await store.write([rows.insert(rowOf('m-1'))], claimOf());
    const secret = await store.secret('endpoint', 32);
    const token = store.pageTokens.seal('s', { createdAt: 1, id: 'x' });
    await store[Symbol.asyncDispose]();
    await using again = await files.open();
    assert.equal((await again.records<Body>('microvms').get('m-1'))?.revision, 1);
    assert.deepEqual(await again.secret('endpoint', 32), secret);
    assert.deepEqual(again.pageTokens.open('s', token), { createdAt: 1, id: 'x' });
    assert.deepEqual(await again.findClaim('run', 't'), claimOf());
  });
}
