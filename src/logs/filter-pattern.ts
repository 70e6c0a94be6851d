/**
 * CloudWatch's filter patterns, as far as they are plain: terms (`error timeout`), alternatives (`?error ?warning`), exclusions
 * (`-debug`), quoted phrases, and properties of JSON events (`{ $.level = "error" && $.ms > 100 }`). GUESS: log-filter-patterns
 *
 * Field lists (`[a, b]`) and regular expressions (`%…%`) are refused: a pattern of a client's must not be able to hold the
 * server up.
 */
import { DomainError } from '../lib/index.ts';

export type Matcher = (message: string) => boolean;

const MAX_LENGTH = 1024;

/** @throws DomainError INVALID */
export function compilePattern(pattern: string | undefined): Matcher {
  const text = pattern?.trim() ?? '';
  if (text === '') return () => true;
  if (text.length > MAX_LENGTH) throw invalid('it is longer than 1,024 characters');
  if (text.startsWith('{')) return compileProperties(text);
  if (text.startsWith('[')) throw invalid('lists of fields are not supported; use terms or { $.property = value }');
  return compileTerms(text);
}

function compileTerms(text: string): Matcher {
  const all: string[] = [];
  const any: string[] = [];
  const none: string[] = [];
  for (const [, sign = '', quoted, bare = ''] of text.matchAll(/([?-]?)(?:"((?:[^"\\]|\\.)*)"|(\S+))/g)) {
    const term = quoted === undefined ? bare : quoted.replace(/\\(.)/g, '$1');
    if (term.startsWith('%')) throw invalid('regular expressions are not supported');
    if (quoted === undefined && term.includes('"')) throw invalid('a quotation mark is not closed');
    (sign === '?' ? any : sign === '-' ? none : all).push(term);
  }
  return (message) =>
    all.every((term) => message.includes(term)) &&
    (any.length === 0 || all.length > 0 || any.some((term) => message.includes(term))) &&
    !none.some((term) => message.includes(term));
}

type Test = (event: unknown) => boolean;

function compileProperties(text: string): Matcher {
  if (!text.endsWith('}')) throw invalid('the closing } is missing');
  const tokens = tokenize(text.slice(1, -1));
  const test = readAny(tokens);
  if (tokens.length > 0) throw invalid(`${tokens[0]} was not expected`);
  return (message) => {
    if (!message.trimStart().startsWith('{')) return false;
    try {
      return test(JSON.parse(message));
    } catch {
      return false;
    }
  };
}

function tokenize(text: string): string[] {
  const tokens: string[] = [];
  const shape = /\s*(?:(&&|\|\||!=|<=|>=|[=<>()])|("(?:[^"\\]|\\.)*")|([^\s=<>!&|()"]+))/y;
  while (shape.lastIndex < text.trimEnd().length) {
    const at = shape.lastIndex;
    const match = shape.exec(text);
    if (match === null) throw invalid(`it cannot be read from "${text.slice(at, at + 20)}" on`);
    tokens.push(match[1] ?? match[2] ?? match[3] ?? '');
  }
  return tokens;
}

function readAny(tokens: string[]): Test {
  const tests = [readAll(tokens)];
  while (tokens[0] === '||') {
    tokens.shift();
    tests.push(readAll(tokens));
  }
  return (event) => tests.some((test) => test(event));
}

function readAll(tokens: string[]): Test {
  const tests = [readOne(tokens)];
  while (tokens[0] === '&&') {
    tokens.shift();
    tests.push(readOne(tokens));
  }
  return (event) => tests.every((test) => test(event));
}

function readOne(tokens: string[]): Test {
  const first = tokens.shift();
  if (first === '(') {
    const inner = readAny(tokens);
    if (tokens.shift() !== ')') throw invalid('a closing ) is missing');
    return inner;
  }
  const path = pathOf(first);
  const operator = tokens.shift();
  const value = tokens.shift();
  if (operator === 'IS' && value === 'NULL') return (event) => property(event, path) === null;
  if (operator === 'IS' && (value === 'TRUE' || value === 'FALSE')) {
    return (event) => property(event, path) === (value === 'TRUE');
  }
  if (operator === 'NOT' && value === 'EXISTS') return (event) => property(event, path) === undefined;
  if (value === undefined || operator === undefined) throw invalid('a comparison is not complete');
  return comparison(path, operator, value);
}

function comparison(path: readonly string[], operator: string, value: string): Test {
  const text = value.startsWith('"') ? value.slice(1, -1).replace(/\\(.)/g, '$1') : value;
  if (text.startsWith('%')) throw invalid('regular expressions are not supported');
  const number = Number(value);
  if (operator === '=' || operator === '!=') {
    const isSame =
      Number.isNaN(number) || value.startsWith('"') ? sameText(text) : (found: unknown) => found === number;
    return (event) => {
      const found = property(event, path);
      return found !== undefined && isSame(found) === (operator === '=');
    };
  }
  if (Number.isNaN(number)) throw invalid(`${operator} compares with a number`);
  const compare = NUMBERS[operator];
  if (compare === undefined) throw invalid(`${operator} is no comparison`);
  return (event) => {
    const found = property(event, path);
    return typeof found === 'number' && compare(found, number);
  };
}

const NUMBERS: Readonly<Record<string, (a: number, b: number) => boolean>> = {
  '<': (a, b) => a < b,
  '>': (a, b) => a > b,
  '<=': (a, b) => a <= b,
  '>=': (a, b) => a >= b,
};

/** `*` stands for anything at the beginning and the end. */
function sameText(wanted: string): (found: unknown) => boolean {
  const [head, tail] = [wanted.startsWith('*'), wanted.length > 1 && wanted.endsWith('*')];
  const middle = wanted.slice(head ? 1 : 0, tail ? -1 : undefined);
  return (found) => {
    const text = String(found);
    if (head && tail) return text.includes(middle);
    if (head) return text.endsWith(middle);
    return tail ? text.startsWith(middle) : text === middle;
  };
}

function pathOf(token: string | undefined): string[] {
  if (token?.startsWith('$.') !== true) throw invalid(`a property is written $.name, not ${token ?? 'nothing'}`);
  return token.slice(2).split('.');
}

function property(event: unknown, path: readonly string[]): unknown {
  let at = event;
  for (const name of path) {
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, name)) return undefined;
    at = (at as Record<string, unknown>)[name];
  }
  return at;
}

function invalid(why: string): DomainError {
  return new DomainError('INVALID', `Invalid filter pattern: ${why}.`);
}
