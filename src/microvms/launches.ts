/**
 * The rules of RunMicrovm: what is asked for is looked up, its share of the host is taken and its endpoint opened, then the
 * record is written, in one transaction with the version's and the client token's. What fails on the way gives all of it back.
 */
import assert from 'node:assert/strict';
import type { Connectors } from '../connectors/index.ts';
import type { Images } from '../images/index.ts';
import { type Clock, DomainError, type Ids } from '../lib/index.ts';
import type { Claim, Store } from '../store/index.ts';
import type { Capacity } from './capacity.ts';
import type { RoleSource } from './credentials.ts';
import { type Ledger, MAX_CONFLICTS } from './ledger.ts';
import type { Moment, Pending } from './lifecycle.ts';
import type { MemoryQuota } from './memory-quota.ts';
import { claimOf, draftOf } from './run-rules.ts';
import type { SteadyClock } from './steady-clock.ts';
import type { EndpointHost, MicrovmView, RunMicrovmInput } from './types.ts';
import { viewOf } from './views.ts';

export interface LaunchParts {
  readonly store: Pick<Store, 'findClaim'>;
  readonly ledger: Ledger;
  readonly images: Pick<Images, 'resolve'>;
  readonly connectors: Pick<Connectors, 'requireActive' | 'egressDefaults'>;
  readonly roles?: Pick<RoleSource, 'demandPass'> | undefined;
  readonly endpoints: EndpointHost;
  readonly memory: MemoryQuota;
  readonly capacity: Capacity;
  readonly region: string;
  readonly clock: Clock;
  readonly elapsed: SteadyClock;
  readonly ids: Ids;
}

export class Launches {
  readonly #o: LaunchParts;

  constructor(parts: LaunchParts) {
    this.#o = parts;
  }

  async run(input: RunMicrovmInput): Promise<MicrovmView> {
    const id = `microvm-${this.#o.ids.uuid()}`;
    const claim = claimOf(input, id, this.#o.clock.now());
    const earlier = claim && (await this.#o.store.findClaim(claim.scope, claim.token));
    if (claim && earlier) return this.#replay(claim, earlier);
    let { version, draft } = await this.#draft(input);
    const endpointId = this.#o.ids.uuid();
    await using stack = new AsyncDisposableStack();
    stack.defer(() => this.#o.memory.release(id));
    this.#o.memory.take(id, version.memoryMiB);
    stack.defer(() => this.#o.capacity.release(id));
    this.#o.capacity.take(id, version.memoryMiB);
    const { memoryMiB } = version;
    const endpoint = await this.#o.endpoints.open({ microvmId: id, endpointId, port: null, memoryMiB });
    stack.defer(() => this.#o.endpoints.close(id));
    for (let attempt = 0; attempt < MAX_CONFLICTS; attempt++) {
      const record: Pending = { ...draft, id, endpointId, endpoint: endpoint.address, endpointPort: endpoint.port };
      const result = await this.#o.ledger.insert(record, version.unchanged, claim);
      if (result.kind === 'claimed' && claim) return this.#replay(claim, result.claim);
      if (result.kind === 'conflict' && result.index === 0) {
        // The version was changed or is going, in the same moment.
        ({ version, draft } = await this.#draft(input));
        this.#o.memory.take(id, version.memoryMiB);
        this.#o.capacity.take(id, version.memoryMiB);
        continue;
      }
      assert.equal(result.kind, 'written', `the new id ${id} is taken`);
      stack.move();
      return viewOf(record);
    }
    throw new Error(`the version to launch ${id} from kept changing`);
  }

  async #draft(input: RunMicrovmInput) {
    const version = await this.#o.images.resolve(input.imageIdentifier, input.imageVersion);
    if (input.executionRoleArn !== undefined) this.#o.roles?.demandPass(input.executionRoleArn, input.principal);
    const at: Moment = { wallMs: this.#o.clock.now(), elapsedMs: this.#o.elapsed.now() };
    const draft = draftOf(this.#o.region, input, version, at, this.#o.connectors.egressDefaults());
    // The image's own one may have gone since its build.
    await this.#o.connectors.requireActive(draft.egressNetworkConnectors);
    return { version, draft };
  }

  /** Source: same token, same parameters, same microVM; other parameters 409 (text unrecorded). GUESS: client-token-conflict-text */
  async #replay(asked: Claim, earlier: Claim): Promise<MicrovmView> {
    if (asked.fingerprint !== earlier.fingerprint) {
      throw new DomainError('CONFLICT', 'The clientToken was already used with different parameters.');
    }
    return viewOf(await this.#o.ledger.get(earlier.resource));
  }
}
