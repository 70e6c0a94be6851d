import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compilePattern } from './filter-pattern.ts';

const json = JSON.stringify({ level: 'error', ms: 120, user: { name: 'ann' }, ok: true, gone: null });

test('patterns select as CloudWatch does', () => {
  const cases: [pattern: string | undefined, message: string, matches: boolean][] = [
    [undefined, 'anything', true],
    ['', 'anything', true],
    ['ERROR', 'an ERROR here', true],
    ['ERROR', 'an error here', false],
    ['one two', 'two and one', true],
    ['one two', 'one only', false],
    ['?one ?two', 'two', true],
    ['?one ?two', 'three', false],
    ['one -two', 'one', true],
    ['one -two', 'one two', false],
    ['"two words"', 'has two words in it', true],
    ['"two words"', 'words two', false],
    ['"a \\"quote\\""', 'say a "quote"', true],
    ['{ $.level = "error" }', json, true],
    ['{ $.level = "err*" }', json, true],
    ['{ $.level != "error" }', json, false],
    ['{ $.ms > 100 && $.ms <= 120 }', json, true],
    ['{ $.ms > 200 || $.user.name = "ann" }', json, true],
    ['{ ($.ms > 200 || $.ms < 1) && $.level = "error" }', json, false],
    ['{ $.gone IS NULL }', json, true],
    ['{ $.ok IS TRUE }', json, true],
    ['{ $.other NOT EXISTS }', json, true],
    ['{ $.ms = 120 }', 'no json', false],
    ['{ $.constructor.name = "Object" }', json, false],
  ];
  for (const [pattern, message, matches] of cases) {
    assert.equal(compilePattern(pattern)(message), matches, `${pattern} on ${message}`);
  }
});

test('patterns that are not understood are refused with what is wrong', () => {
  const cases: [pattern: string, why: RegExp][] = [
    ['[ip, user]', /lists of fields/],
    ['%a+%', /regular expressions/],
    ['{ $.a = %b% }', /regular expressions/],
    ['{ $.a = 1', /closing }/],
    ['{ a = 1 }', /\$\.name/],
    ['{ $.a }', /not complete/],
    ['{ ($.a = 1 }', /closing \)/],
    ['{ $.a > "x" }', /with a number/],
    ['{ $.a = 1 $.b = 2 }', /not expected/],
    ['x'.repeat(1025), /1,024/],
    ['"open', /not closed/],
  ];
  for (const [pattern, why] of cases) assert.throws(() => compilePattern(pattern), { code: 'INVALID', message: why });
});
