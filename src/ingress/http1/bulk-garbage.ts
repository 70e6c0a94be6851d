/**
 * Has the buffers of bulk transfers collected while they are young. Node makes a new one for every TLS record it reads, and the few
 * objects around them would not have V8 collect before their memory counts as pressure: then it marks the whole heap, about
 * every 20 MB. A collection of young objects takes a millisecond instead (docs/MEASUREMENTS.md has what that is worth).
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

type Collect = (options: { type: 'minor'; execution: 'sync' }) => void;

/** Less than V8 bears, and enough that collecting costs less than a twentieth of what is moved. */
const COLLECT_BYTES = 16 * 1024 * 1024;
/** Smaller ones come with enough objects around them. */
const LARGE_BYTES = 4096;

let collect: Collect | 'none' | undefined;
let bytes = 0;

/** So much memory was taken for a piece that will soon be garbage. */
export function bulkTaken(length: number): void {
  if (length < LARGE_BYTES) return;
  bytes += length;
  if (bytes < COLLECT_BYTES) return;
  bytes = 0;
  collect ??= collector() ?? 'none';
  if (collect !== 'none') collect({ type: 'minor', execution: 'sync' });
}

/** V8's own, which it shows only to contexts made while it is asked to. */
function collector(): Collect | undefined {
  setFlagsFromString('--expose-gc');
  const gc: unknown = runInNewContext('typeof gc === "function" ? gc : undefined');
  setFlagsFromString('--no-expose-gc');
  return typeof gc === 'function' ? (gc as Collect) : undefined;
}
