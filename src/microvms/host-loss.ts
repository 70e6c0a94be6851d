/** What a record is told of its machine when the host that ran it has ended. */
import type { Engine } from '../engine/index.ts';
import type { Event, Microvm } from './lifecycle.ts';

/**
 * Undefined when its host did not end, or what became of the machine is what the record says. After a loss of power a record may
 * be older than the truth: PENDING or SUSPENDED, though its guest ran.
 */
export async function eventOfRecall(engine: Pick<Engine, 'recall'>, record: Microvm): Promise<Event | undefined> {
  if (record.state === 'EXITED' || record.state === 'TERMINATING' || record.state === 'TERMINATED') return undefined;
  const { epoch, state } = record;
  const left = await engine.recall(record.id);
  switch (left.kind) {
    case 'lost':
      return { type: 'lost', epoch, withHost: true };
    case 'checkpoint':
      return { type: 'fell-back', epoch, takenAt: left.takenAt };
    case 'suspended':
      // Those in the middle of a step find it by themselves.
      return state === 'PENDING' || state === 'RUNNING'
        ? { type: 'fell-back', epoch, takenAt: left.takenAt }
        : undefined;
    case 'nothing':
      return undefined;
    default:
      return left satisfies never;
  }
}
