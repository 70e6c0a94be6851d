/**
 * The one question every request is asked, whatever protocol carried it: may it pass, and to which microVM?
 *
 * Invariant: the microVM comes from the connection's `Arrival`, the right to it from the token, and both must agree.
 */
import type { Clock } from '../lib/index.ts';
import type { Microvms } from '../microvms/index.ts';
import { type Admission, admit } from './admission.ts';
import type { Arrival } from './doors.ts';
import type { RawHeaders } from './headers.ts';
import { DEFAULT_LIMITS, type Limits, requestRateOf } from './limits.ts';
import { Rates } from './rates.ts';

export interface Asking {
  readonly method: string | undefined;
  readonly rawHeaders: RawHeaders;
  readonly arrival: Arrival | undefined;
  /** What the TLS handshake named. */
  readonly serverName: string | undefined;
  /** The request's `Host` or `:authority`. */
  readonly host: string | undefined;
  /** The connection is to carry a WebSocket from here on. */
  readonly upgrade: boolean;
}

export interface Refused {
  readonly kind: 'refused';
  readonly status: number;
  readonly text: string;
}

export type Passed = Extract<Admission, { kind: 'admitted' }> & { readonly microvmId: string };
type Asked = Pick<Microvms, 'verifyToken' | 'endpointIdOf'>;

/** GUESS: endpoint-host-mismatch */
const MISDIRECTED: Refused = { kind: 'refused', status: 421, text: 'Host does not match the TLS server name' };
const NOBODY: Refused = { kind: 'refused', status: 502, text: '' };
const TOO_FAST: Refused = { kind: 'refused', status: 429, text: 'Rate exceeded' };

export class Gate {
  readonly #limits: Limits;
  readonly #rates: Rates;

  constructor({ limits = DEFAULT_LIMITS, clock }: { limits?: Limits; clock: Clock }) {
    this.#limits = limits;
    this.#rates = new Rates(clock);
  }

  /** A microVM's endpoint was opened. */
  expect(microvmId: string, memoryMiB: number): void {
    const rate = requestRateOf(this.#limits, memoryMiB);
    if (rate !== undefined) this.#rates.set(microvmId, rate);
  }

  forget(microvmId: string): void {
    this.#rates.delete(microvmId);
  }

  async admit(asking: Asking, microvms: Asked): Promise<Passed | Refused> {
    const { arrival, serverName, host } = asking;
    const destination = arrival?.destinationOf(serverName, host);
    switch (destination?.kind) {
      case undefined:
        return NOBODY;
      case 'misdirected':
        return MISDIRECTED;
      case 'unknown':
        return this.#toNobody(asking, destination.endpointId, microvms);
      case 'microvm': {
        const { microvmId } = destination;
        const admission = await admit(asking, microvmId, microvms, asking);
        if (admission.kind === 'refused') return admission;
        // Only who holds a token counts, so that nobody else can use up what is allowed.
        return this.#rates.take(microvmId) ? { ...admission, microvmId } : TOO_FAST;
      }
      default:
        return destination satisfies undefined;
    }
  }

  /**
   * An address that no microVM has: 403, but 502 for who holds a token of the microVM that had it and ended (behaviour.md
   * §9.5). Only that token leads to the record: strangers cause no look-ups.
   */
  async #toNobody(asking: Asking, endpointId: string | undefined, microvms: Asked): Promise<Refused> {
    let claimed: string | undefined;
    const verifyToken: Asked['verifyToken'] = async (token) => {
      const check = await microvms.verifyToken(token);
      if (check.kind === 'valid') claimed = check.claims.microvmId;
      return { kind: 'unreadable' };
    };
    const refused = await admit(asking, '', { verifyToken }, asking);
    if (claimed === undefined || endpointId === undefined) return refused.kind === 'refused' ? refused : NOBODY;
    const had = await microvms.endpointIdOf(claimed);
    return had === endpointId ? NOBODY : refused.kind === 'refused' ? refused : NOBODY;
  }
}
