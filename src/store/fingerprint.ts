/** Digest over a call's parameters, for client tokens. */
import { createHash } from 'node:crypto';

/** Equal for equal parameters, whatever order their members were written in. */
export function fingerprintOf(parameters: unknown): string {
  return createHash('sha256').update(canonical(parameters)).digest('base64url');
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    inner !== null && typeof inner === 'object' && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
