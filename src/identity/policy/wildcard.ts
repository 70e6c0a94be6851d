/**
 * Patterns of policies: `*` and `?` wildcards, and policy variables (`${aws:username}`), matched in time proportional to
 * pattern times text, so that no policy can stall the server.
 *
 * Invariant: what a variable stands for is taken literally, wildcards in it included.
 */

/** Looks up what a policy variable stands for; undefined when the request has no single value for it. */
export type Variables = (name: string) => string | undefined;

/** One step of a pattern: a character, any one character, any run of characters, any run within an ARN segment. */
type Step = { readonly literal: string } | 'one' | 'run' | 'run-in-segment';

type Part = { readonly text: string } | { readonly variable: string; readonly fallback: string | undefined };

export interface Pattern {
  readonly text: string;
  /** Undefined when a variable of the pattern cannot be resolved. */
  steps(variables: Variables): readonly Step[] | undefined;
}

export interface PatternOptions {
  /** Policy language of 2012-10-17 and later: `${…}` is a variable. */
  readonly variables: boolean;
  /**
   * `arn`: a `*` inside one of the first five segments stays in it, one at a segment's end may go on (IAM's rule for
   * Resource). `text`: a `*` matches anything. `none`: no wildcards.
   */
  readonly wildcards: 'arn' | 'text' | 'none';
}

const VARIABLE = /\$\{([^}]*)\}/g;
const VARIABLE_BODY = /^\s*([A-Za-z0-9-]+:[^,\s]+(?: [^,\s]+)*)\s*(?:,\s*'([^']*)')?\s*$/;
/** `${*}`, `${?}` and `${$}` stand for the characters themselves. */
const ESCAPES = ['*', '?', '$'];
const SEGMENTS_BEFORE_RESOURCE = 5;

/** @throws RangeError with a sentence's end when a variable is malformed */
export function compilePattern(text: string, options: PatternOptions): Pattern {
  const parts = options.variables ? partsOf(text) : [{ text }];
  const isFixed = parts.every((part) => 'text' in part);
  const fixed = isFixed ? stepsOf(parts, options.wildcards, () => undefined) : undefined;
  return { text, steps: (variables) => fixed ?? stepsOf(parts, options.wildcards, variables) };
}

/** Whether the whole of `text` fits the steps. */
export function matches(steps: readonly Step[], text: string, options: { ignoreCase?: boolean } = {}): boolean {
  if (steps.length === 1 && steps[0] === 'run') return true;
  const fold = (value: string) => (options.ignoreCase === true ? value.toLowerCase() : value);
  const subject = [...fold(text)];
  const fits = (step: Step | undefined, character: string) =>
    step === 'one' || (typeof step === 'object' && fold(step.literal) === character);
  if (!steps.includes('run-in-segment')) return matchesGreedily(steps, subject, fits);
  // reached[i]: the first i steps fit what was read so far.
  let reached = skipRuns(steps, new Uint8Array(steps.length + 1).fill(1, 0, 1));
  for (const character of subject) {
    const next = new Uint8Array(steps.length + 1);
    let isAlive = false;
    for (const [index, step] of steps.entries()) {
      if (reached[index] !== 1) continue;
      if (step === 'run' || (step === 'run-in-segment' && character !== ':')) next[index] = 1;
      else if (fits(step, character)) next[index + 1] = 1;
      else continue;
      isAlive = true;
    }
    if (!isAlive) return false;
    reached = skipRuns(steps, next);
  }
  return reached[steps.length] === 1;
}

/** Only the latest run needs to be tried again, as long as every run may be of anything. */
function matchesGreedily(
  steps: readonly Step[],
  subject: readonly string[],
  fits: (step: Step | undefined, character: string) => boolean,
): boolean {
  let [at, step] = [0, 0];
  let latestRun: { step: number; at: number } | undefined;
  while (at < subject.length) {
    if (steps[step] === 'run') {
      latestRun = { step, at };
      step++;
    } else if (fits(steps[step], subject[at] ?? '')) {
      at++;
      step++;
    } else if (latestRun !== undefined) {
      latestRun.at++;
      at = latestRun.at;
      step = latestRun.step + 1;
    } else return false;
  }
  while (steps[step] === 'run') step++;
  return step === steps.length;
}

/** A run may be empty. */
function skipRuns(steps: readonly Step[], reached: Uint8Array): Uint8Array {
  for (const [index, step] of steps.entries()) {
    if (reached[index] === 1 && (step === 'run' || step === 'run-in-segment')) reached[index + 1] = 1;
  }
  return reached;
}

function partsOf(text: string): Part[] {
  const parts: Part[] = [];
  let end = 0;
  for (const found of text.matchAll(VARIABLE)) {
    parts.push({ text: text.slice(end, found.index) });
    end = found.index + found[0].length;
    const body = found[1] ?? '';
    if (ESCAPES.includes(body)) {
      parts.push({ variable: '', fallback: body });
      continue;
    }
    const [, variable, fallback] = VARIABLE_BODY.exec(body) ?? [];
    if (variable === undefined) throw new RangeError(`"${found[0]}" is not a policy variable`);
    parts.push({ variable, fallback });
  }
  parts.push({ text: text.slice(end) });
  if (parts.some((part) => 'text' in part && part.text.includes('${'))) {
    throw new RangeError(`a policy variable in "${text}" is not closed`);
  }
  return parts;
}

function stepsOf(
  parts: readonly Part[],
  wildcards: PatternOptions['wildcards'],
  variables: Variables,
): readonly Step[] | undefined {
  const steps: Step[] = [];
  let colons = 0;
  const literal = (character: string) => {
    if (character === ':') colons++;
    steps.push({ literal: character });
  };
  for (const [at, part] of parts.entries()) {
    if (!('text' in part)) {
      const value = (part.variable === '' ? undefined : variables(part.variable)) ?? part.fallback;
      if (value === undefined) return undefined;
      for (const character of value) literal(character);
      continue;
    }
    const characters = [...part.text];
    const isLast = at === parts.length - 1;
    for (const [index, character] of characters.entries()) {
      if (wildcards === 'none' || (character !== '*' && character !== '?')) literal(character);
      else if (character === '?') steps.push('one');
      else {
        const after = characters[index + 1];
        const endsSegment = after === ':' || (after === undefined && isLast);
        const isConfined = wildcards === 'arn' && colons < SEGMENTS_BEFORE_RESOURCE && !endsSegment;
        steps.push(isConfined ? 'run-in-segment' : 'run');
      }
    }
  }
  return steps;
}
