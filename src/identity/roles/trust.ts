/** Who may pass a role to what: the role's own word, besides the caller's policies. */
import { compilePattern, matches } from '../policy/wildcard.ts';
import type { TrustStatement } from './roles-file.ts';

/** The one service here that roles are passed to. */
export const SERVICE = 'lambda.amazonaws.com';

/** Whether `trust` lets `principal` (an ARN) pass the role to `service`; without a trust whoever their policies let. */
export function trusts(
  trust: readonly TrustStatement[] | null,
  principal: string | undefined,
  service: string = SERVICE,
): boolean {
  if (trust === null) return true;
  return trust.some(
    ({ principals, services }) =>
      principal !== undefined &&
      services.some((pattern) => fits(pattern, service)) &&
      principals.some((pattern) => fits(pattern, principal)),
  );
}

function fits(pattern: string, text: string): boolean {
  const steps = compilePattern(pattern, { variables: false, wildcards: 'text' }).steps(() => undefined);
  return steps !== undefined && matches(steps, text);
}
