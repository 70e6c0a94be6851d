/**
 * Reads a JSON policy as IAM does for identity-based ones, and refuses what it would never understand.
 *
 * Invariant: a policy that left this file can be evaluated without failing; a refusal names the statement.
 */
import { DomainError } from '../../lib/index.ts';
import { type Condition, readCondition } from './condition.ts';
import { compilePattern, type Pattern } from './wildcard.ts';

export interface Statement {
  /** From 1, as a reader counts. */
  readonly number: number;
  readonly sid: string | undefined;
  readonly effect: 'Allow' | 'Deny';
  /** Patterns of Action, or of NotAction. */
  readonly actions: { readonly patterns: readonly Pattern[]; readonly isNot: boolean };
  /** Patterns of Resource, or of NotResource. */
  readonly resources: { readonly patterns: readonly Pattern[]; readonly isNot: boolean };
  readonly conditions: readonly Condition[];
}

export interface Policy {
  readonly statements: readonly Statement[];
}

/** IAM's limit for a role's inline policies together; here it bounds each policy. */
export const MAX_POLICY_CHARACTERS = 10_240;

const VERSIONS = ['2012-10-17', '2008-10-17'];
const STATEMENT_MEMBERS = ['Sid', 'Effect', 'Action', 'NotAction', 'Resource', 'NotResource', 'Condition'];

/** @throws DomainError INVALID */
export function readPolicy(text: string): Policy {
  if (text.length > MAX_POLICY_CHARACTERS) {
    throw invalid(`The policy has ${text.length} characters; at most ${MAX_POLICY_CHARACTERS} are allowed.`);
  }
  const document = parse(text);
  for (const member of Object.keys(document)) {
    if (!['Version', 'Id', 'Statement'].includes(member))
      throw invalid(`The policy has an unknown member "${member}".`);
  }
  const { Version = '2008-10-17', Statement } = document;
  if (typeof Version !== 'string' || !VERSIONS.includes(Version)) {
    throw invalid(`The policy's Version must be "2012-10-17" (or "2008-10-17"), not ${JSON.stringify(Version)}.`);
  }
  const found = Array.isArray(Statement) ? (Statement as unknown[]) : [Statement];
  if (Statement === undefined || found.length === 0) throw invalid('The policy has no Statement.');
  const statements = found.map((statement, index) =>
    readStatement(statement, index + 1, { variables: Version === '2012-10-17' }),
  );
  const sids = statements.flatMap(({ sid }) => (sid === undefined || sid === '' ? [] : [sid]));
  const twice = sids.find((sid, index) => sids.indexOf(sid) !== index);
  if (twice !== undefined) throw invalid(`Two statements of the policy have the Sid "${twice}".`);
  return { statements };
}

interface Language {
  readonly variables: boolean;
}

function readStatement(found: unknown, number: number, language: Language): Statement {
  let name = `Statement ${number}`;
  const refuse = (what: string) => invalid(`${name}: ${what}.`);
  if (!isObject(found)) throw refuse('it must be a JSON object');
  const sid = found.Sid;
  if (sid !== undefined && (typeof sid !== 'string' || !/^[A-Za-z0-9]*$/.test(sid))) {
    throw refuse('Sid must consist of letters and digits');
  }
  if (sid !== undefined && sid !== '') name += ` ("${sid}")`;
  for (const member of Object.keys(found)) {
    if (member === 'Principal' || member === 'NotPrincipal') {
      throw refuse(`${member} has no place in a policy of a user or role`);
    }
    if (!STATEMENT_MEMBERS.includes(member)) throw refuse(`it has an unknown member "${member}"`);
  }
  const effect = found.Effect;
  if (effect !== 'Allow' && effect !== 'Deny') throw refuse('Effect must be "Allow" or "Deny"');
  try {
    const actions = readPatterns(found, 'Action', (text) => readAction(text));
    const resources = readPatterns(found, 'Resource', (text) => readResource(text, language));
    return { number, sid, effect, actions, resources, conditions: readConditions(found.Condition, language) };
  } catch (error) {
    if (error instanceof RangeError) throw refuse(error.message);
    throw error;
  }
}

function readPatterns(
  statement: Readonly<Record<string, unknown>>,
  member: 'Action' | 'Resource',
  read: (text: string) => Pattern,
): Statement['actions'] {
  const not = `Not${member}`;
  const isNot = not in statement;
  if (isNot === member in statement) throw new RangeError(`it must have either ${member} or ${not}`);
  const found = statement[isNot ? not : member];
  const texts = Array.isArray(found) ? (found as unknown[]) : [found];
  if (texts.length === 0) throw new RangeError(`${isNot ? not : member} is empty`);
  const patterns = texts.map((text) => {
    if (typeof text !== 'string') throw new RangeError(`${isNot ? not : member} must be a string or a list of strings`);
    return read(text);
  });
  return { patterns, isNot };
}

/** The service's prefix takes no wildcards, except where everything is meant. */
function readAction(text: string): Pattern {
  if (text !== '*' && text !== '*:*' && !/^[A-Za-z0-9-]+:[A-Za-z0-9*?]+$/.test(text)) {
    throw new RangeError(`"${text}" is not an action such as lambda:RunMicrovm or lambda:Get*`);
  }
  return compilePattern(text, { variables: false, wildcards: 'text' });
}

function readResource(text: string, { variables }: Language): Pattern {
  const colons = text.replace(/\$\{[^}]*\}/g, '').split(':').length - 1;
  const isArn = text.startsWith('arn:') && (colons >= 5 || text.endsWith('*'));
  if (text !== '*' && !isArn) throw new RangeError(`"${text}" is neither an ARN nor "*"`);
  return compilePattern(text, { variables, wildcards: 'arn' });
}

function readConditions(found: unknown, language: Language): Condition[] {
  if (found === undefined) return [];
  if (!isObject(found)) throw new RangeError('Condition must be a JSON object');
  return Object.entries(found).flatMap(([operator, keys]) => {
    if (!isObject(keys)) throw new RangeError(`Condition: ${operator} must hold an object of keys and values`);
    return Object.entries(keys).map(([key, value]) => {
      const values = (Array.isArray(value) ? (value as unknown[]) : [value]).map((item) => {
        if (typeof item === 'string') return item;
        if (typeof item === 'number' || typeof item === 'boolean') return String(item);
        throw new RangeError(`Condition: the values of ${operator} for ${key} must be strings, numbers or booleans`);
      });
      try {
        return readCondition(operator, key, values, language);
      } catch (error) {
        if (error instanceof RangeError) throw new RangeError(`Condition: ${error.message}`);
        throw error;
      }
    });
  });
}

function parse(text: string): Record<string, unknown> {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw invalid(`The policy is not valid JSON: ${error instanceof Error ? error.message : String(error)}.`);
  }
  if (!isObject(document)) throw invalid('The policy must be a JSON object.');
  return document;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function invalid(message: string): DomainError {
  return new DomainError('INVALID', message);
}
