import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CredentialTarget, Lease, RoleCredentials } from '../identity/index.ts';
import { DomainError } from '../lib/index.ts';
import type { RoleSource } from './credentials.ts';
import { bench, IDLE } from './test-bench.ts';

const ROLE = 'arn:aws:iam::000000000000:role/agent';
const ANN = 'arn:aws:iam::000000000000:user/ann';

/** A vendor that gives numbered credentials at once, and notes who asks. */
function vendor(): RoleSource & { kept: Lease[]; ended: number; next: Error | undefined; patience: boolean[] } {
  let n = 0;
  const made = (): RoleCredentials => {
    n++;
    return { accessKeyId: `ASIA${n}`, secretAccessKey: 's', sessionToken: 't', expiresAt: 0, renewAt: 0 };
  };
  const self = {
    kept: [] as Lease[],
    patience: [] as boolean[],
    ended: 0,
    next: undefined as Error | undefined,
    demandPass: (roleArn: string, principal: string | undefined) => {
      if (principal !== ANN) throw new DomainError('DENIED', `${roleArn} is not for ${principal}`);
    },
    credentialsFor: async () => made(),
    keep: async (target: CredentialTarget, lease: Lease, options: { patient?: boolean }) => {
      self.kept.push(lease);
      self.patience.push(options.patient === true);
      const { next } = self;
      self.next = undefined;
      if (next !== undefined) throw next;
      await target.setCredentials(made(), {});
      return { [Symbol.asyncDispose]: async () => void self.ended++ };
    },
  };
  return self;
}

test('a microVM has its role before the run hook is called, in a session with its name', async () => {
  const roles = vendor();
  const seen: (string | undefined)[] = [];
  const hooks = { port: 9000, microvmHooks: { run: 'ENABLED', resume: 'ENABLED' } } as const;
  const app = (guest: { id: string }) => (_: unknown, response: { end(): void }) => {
    seen.push(b.engine.credentials.get(guest.id)?.accessKeyId);
    response.end();
  };
  await using b = await bench({ roles, hooks, engine: { app } });
  const id = await b.run({ executionRoleArn: ROLE, principal: ANN, idlePolicy: IDLE });
  await b.until(id, 'RUNNING');
  assert.deepEqual(roles.kept, [{ roleArn: ROLE, principal: ANN, sessionName: id }]);
  assert.equal(seen.length, 1);
  assert.ok(seen[0] !== undefined, 'they were there');

  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  assert.equal(roles.ended, 1, 'nobody renews them any more');
  assert.equal(b.engine.credentials.get(id), undefined);

  await b.microvms.resume(id);
  await b.until(id, 'RUNNING');
  assert.equal(seen.length, 2);
  assert.ok(seen[1] !== undefined && seen[1] !== seen[0], 'fresh ones before the resume hook');
  assert.deepEqual(roles.patience, [false, true]);

  await b.microvms.terminate(id);
  await b.until(id, 'TERMINATED');
  assert.equal(roles.ended, 2);
});

test('a microVM without a role is never asked anything', async () => {
  const roles = vendor();
  await using b = await bench({ roles });
  const id = await b.run();
  await b.until(id, 'RUNNING');
  await b.microvms.suspend(id);
  await b.until(id, 'SUSPENDED');
  assert.deepEqual(roles.kept, []);
  assert.ok(!b.engine.calls.some((call) => call.startsWith('setCredentials')));
});

test('a role that cannot be assumed ends the launch with the reason, and no machine is left', async () => {
  const roles = vendor();
  await using b = await bench({ roles });
  roles.next = new DomainError('INVALID', `The role ${ROLE} cannot be assumed.`);
  const id = await b.run({ executionRoleArn: ROLE, principal: ANN });
  await b.until(id, 'TERMINATED');
  assert.equal((await b.microvms.get(id)).stateReason, `The role ${ROLE} cannot be assumed.`);
  assert.equal(b.engine.machines.size, 0);
});

test('who may not pass the role gets no microVM', async () => {
  await using b = await bench({ roles: vendor() });
  await assert.rejects(b.run({ executionRoleArn: ROLE, principal: 'arn:aws:iam::000000000000:user/bob' }), (error) => {
    return error instanceof DomainError && error.code === 'DENIED';
  });
  assert.deepEqual((await b.microvms.list({})).items, []);
});

test('a suspend that fails leaves the microVM running with fresh credentials', async () => {
  const roles = vendor();
  await using b = await bench({ roles });
  const id = await b.run({ executionRoleArn: ROLE, principal: ANN });
  await b.until(id, 'RUNNING');
  const before = b.engine.credentials.get(id)?.accessKeyId;
  b.engine.failNext('suspend', new Error('the withdrawal of credentials was not confirmed'), id);
  await b.microvms.suspend(id);
  await b.until(id, 'RUNNING');
  assert.equal(roles.kept.length, 2);
  assert.notEqual(b.engine.credentials.get(id)?.accessKeyId, before);
});
