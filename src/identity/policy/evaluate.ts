/**
 * Whether policies let a request through: an explicit Deny wins, an Allow is needed, all else is denied. Pure, and says
 * of every statement why it did or did not apply.
 */
import { type Context, type ContextKeys, contextKeys } from './condition.ts';
import type { Policy, Statement } from './document.ts';
import { matches, type Pattern, type Variables } from './wildcard.ts';

export interface NamedPolicy {
  readonly name: string;
  readonly policy: Policy;
}

export interface AccessRequest {
  /** `lambda:RunMicrovm`. */
  readonly action: string;
  /**
   * An ARN, or `*` for an operation on no resource in particular. Undefined when the resource turned out not to exist:
   * then an Allow counts whatever its resources are, and a Deny only if it covers everything.
   */
  readonly resource: string | undefined;
  readonly context: Context;
}

/** Why a statement does not apply. */
export type Mismatch =
  | { readonly on: 'action' }
  | { readonly on: 'resource' }
  | { readonly on: 'condition'; readonly operator: string; readonly key: string };

export interface StatementVerdict {
  readonly policy: string;
  /** From 1. */
  readonly statement: number;
  readonly sid: string | undefined;
  readonly effect: 'Allow' | 'Deny';
  /** Undefined when the statement applies. */
  readonly mismatch: Mismatch | undefined;
}

export type Outcome = 'allowed' | 'explicit-deny' | 'implicit-deny';

export interface Evaluation {
  readonly outcome: Outcome;
  readonly statements: readonly StatementVerdict[];
}

export function evaluate(policies: readonly NamedPolicy[], request: AccessRequest): Evaluation {
  const context = contextKeys(request.context);
  const statements = policies.flatMap(({ name, policy }) =>
    policy.statements.map((statement) => ({
      policy: name,
      statement: statement.number,
      sid: statement.sid,
      effect: statement.effect,
      mismatch: mismatchOf(statement, request, context),
    })),
  );
  const applies = (effect: 'Allow' | 'Deny') =>
    statements.some((statement) => statement.effect === effect && statement.mismatch === undefined);
  const outcome = applies('Deny') ? 'explicit-deny' : applies('Allow') ? 'allowed' : 'implicit-deny';
  return { outcome, statements };
}

function mismatchOf(statement: Statement, request: AccessRequest, context: ContextKeys): Mismatch | undefined {
  const variables: Variables = (name) => {
    const values = context.get(name.toLowerCase());
    return values?.length === 1 ? values[0] : undefined;
  };
  const { actions, resources, effect, conditions } = statement;
  const names = actions.patterns.some((pattern) => fits(pattern, request.action, variables, true));
  if (names === actions.isNot) return { on: 'action' };
  if (!coversResource(resources, effect, request.resource, variables)) return { on: 'resource' };
  const failed = conditions.find((condition) => !condition.holds(context, variables));
  return failed && { on: 'condition', operator: failed.operator, key: failed.key };
}

function coversResource(
  { patterns, isNot }: Statement['resources'],
  effect: Statement['effect'],
  resource: string | undefined,
  variables: Variables,
): boolean {
  if (resource === undefined) return effect === 'Allow' || (!isNot && patterns.some(({ text }) => text === '*'));
  // A variable that stands for nothing fits no resource; an Allow of everything but that must not become one of everything.
  const isOpen = (pattern: Pattern) => pattern.steps(variables) === undefined;
  if (isNot && effect === 'Allow' && patterns.some(isOpen)) return false;
  return patterns.some((pattern) => fits(pattern, resource, variables, false)) !== isNot;
}

function fits(pattern: Pattern, text: string, variables: Variables, ignoreCase: boolean): boolean {
  const steps = pattern.steps(variables);
  return steps !== undefined && matches(steps, text, { ignoreCase });
}
