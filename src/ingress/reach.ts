/** Gets something of a machine for who needs it awake: woken if it sleeps, again if it fell asleep in between. */
import type { Machine } from '../microvms/index.ts';
import { type Surroundings, wake } from './forward.ts';
import { Patience } from './patience.ts';
import { isMachineGone } from './upstream.ts';

/** A machine may be suspended between waking it and using it; more often than this it is not bad luck. */
const ATTEMPTS = 3;

/**
 * What `use` answers, and the exchange that keeps the machine from being suspended meanwhile: the caller ends it.
 * @throws DomainError, MachineError
 */
export async function reach<T>(
  microvmId: string,
  around: Surroundings,
  gone: AbortSignal,
  use: (machine: Machine, signal: AbortSignal) => Promise<T>,
): Promise<{ got: T; underWay: Disposable }> {
  around.microvms.activity(microvmId);
  const patience = new Patience(around.clock);
  for (let attempt = 1; ; ) {
    const machine = await wake(around, microvmId, gone);
    const underWay = around.microvms.exchange(microvmId);
    try {
      return { got: await use(machine, gone), underWay };
    } catch (error) {
      underWay[Symbol.dispose]();
      if (await patience.isWorthIt(error, underWay, gone)) continue;
      if (attempt === ATTEMPTS || !isMachineGone(error)) throw error;
      attempt++;
    }
  }
}
