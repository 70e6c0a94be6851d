import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CredentialTarget, Lease } from '../identity/index.ts';
import { DomainError } from '../lib/index.ts';
import type { RoleSource } from './build-role.ts';
import { ARN, bench, INPUT } from './test-bench.ts';

const ANN = 'arn:aws:iam::000000000000:user/ann';

/** Gives credentials, and notes to whom and what was there when it ended. */
function vendor(): RoleSource & { readonly events: string[]; readonly leases: Lease[]; next: Error | undefined } {
  const self = {
    events: [] as string[],
    leases: [] as Lease[],
    next: undefined as Error | undefined,
    demandPass: (roleArn: string, principal: string | undefined) => {
      if (principal === 'nobody') throw new DomainError('DENIED', `${roleArn} is not for nobody`);
    },
    keep: async (target: CredentialTarget, lease: Lease) => {
      if (self.next !== undefined) throw self.next;
      self.leases.push(lease);
      self.events.push(`given ${target.id}`);
      const credentials = { accessKeyId: 'A', secretAccessKey: 's', sessionToken: '', expiresAt: 0, renewAt: 0 };
      await target.setCredentials(credentials, {});
      return { [Symbol.asyncDispose]: async () => void self.events.push(`ended ${target.id}`) };
    },
  };
  return self;
}

test('the app of a build has the build role while it starts and while its clone is validated, and not longer', async () => {
  const roles = vendor();
  await using b = await bench({ roles });
  const hooks = { port: 9000, microvmImageHooks: { validate: 'ENABLED' } } as const;
  await b.images.create({ ...INPUT, hooks, principal: ANN });
  await b.built();
  assert.equal((await b.images.get(ARN)).state, 'CREATED');
  const [first, second] = roles.leases;
  assert.deepEqual(first, second);
  assert.equal(first?.roleArn, INPUT.buildRoleArn);
  assert.equal(first?.principal, ANN);
  assert.match(first?.sessionName ?? '', /^build-[\w+=,.@-]{2,57}$/);
  const id = first?.sessionName.slice('build-'.length);
  const clone = `validate-${id}`;
  assert.deepEqual(roles.events, [`given ${id}`, `ended ${id}`, `given ${clone}`, `ended ${clone}`]);
  assert.equal(b.engine.credentials.size, 0);
});

test('a build role that cannot be assumed fails the build with the reason', async () => {
  const roles = vendor();
  roles.next = new DomainError('INVALID', `The role ${INPUT.buildRoleArn} cannot be assumed.`);
  await using b = await bench({ roles });
  await b.images.create({ ...INPUT, principal: ANN });
  const log = await b.built();
  assert.match(log, /role\/build cannot be assumed/);
  assert.equal((await b.images.get(ARN)).state, 'CREATE_FAILED');
});

test('an image is neither made nor updated by who may not pass its build role', async () => {
  await using b = await bench({ roles: vendor() });
  const isDenied = (error: unknown) => error instanceof DomainError && error.code === 'DENIED';
  await assert.rejects(b.images.create({ ...INPUT, principal: 'nobody' }), isDenied);
  await b.images.create({ ...INPUT, principal: ANN });
  await b.built();
  const { name: _, ...update } = INPUT;
  await assert.rejects(b.images.update({ ...update, imageIdentifier: ARN, principal: 'nobody' }), isDenied);
});
