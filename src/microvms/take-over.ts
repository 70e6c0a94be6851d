/** What a server does at start with what an earlier one left: takes it over, or ends it. */
import type { Engine } from '../engine/index.ts';
import { HOLDING_STATES } from '../images/index.ts';
import { type Logger, messageOf, Slots, withDeadline } from '../lib/index.ts';
import type { Ledger, MicrovmRow } from './ledger.ts';
import type { Reconciler } from './reconciler.ts';

/** Machines taken over at once. */
const CONCURRENT_RECOVERIES = 16;

export interface TakeOverParts {
  readonly ledger: Ledger;
  readonly reconciler: Reconciler;
  readonly isNewBoot: boolean;
  readonly log: Logger;
}

export interface SweepParts {
  readonly ledger: Ledger;
  readonly engine: Pick<Engine, 'destroy'>;
  readonly log: Logger;
  readonly timeoutMs: number;
}

/**
 * First what time has ended meanwhile, so that nothing is started for it; then what is there is taken over or ended. Says whether
 * everything has been looked at, and written down; the rest is tried again by and by.
 */
export async function takeOver({ ledger, reconciler, isNewBoot, log }: TakeOverParts): Promise<boolean> {
  const slots = new Slots(CONCURRENT_RECOVERIES);
  const under: Promise<boolean>[] = [];
  // Those asleep are as they were, unless the host lost power just after one of them was resumed.
  const states = isNewBoot ? HOLDING_STATES : HOLDING_STATES.filter((state) => state !== 'SUSPENDED');
  for await (const row of ledger.inStates(states)) {
    // The due clock does that for those asleep.
    if (row.state !== 'SUSPENDED' && (await isOver(row, ledger, log))) continue;
    const slot = await slots.acquire();
    under.push(reconciler.recover(row).finally(() => slot[Symbol.dispose]()));
  }
  return (await Promise.all(under)).every((isDone) => isDone);
}

/** Destroys what an earlier server left and no record owns. */
export async function sweep(residue: readonly string[], { ledger, engine, log, timeoutMs }: SweepParts): Promise<void> {
  for (const id of residue) {
    const record = await ledger.find(id);
    if (record !== undefined && record.state !== 'TERMINATED') continue;
    log.warn({ microvmId: id }, 'destroying what no record owns');
    try {
      await withDeadline('destroy', timeoutMs, () => engine.destroy(id));
    } catch (error) {
      log.error({ microvmId: id, error: messageOf(error) }, 'it could not be destroyed; the next start tries again');
    }
  }
}

/** Ends it when its time has come; what cannot be written down now is due again later. */
async function isOver({ id, revision }: MicrovmRow, ledger: Ledger, log: Logger): Promise<boolean> {
  try {
    return (await ledger.apply(id, { type: 'due' }, { revision })).kind === 'moved';
  } catch (error) {
    log.error({ microvmId: id, error: messageOf(error) }, 'its end could not be written down yet');
    return false;
  }
}
