import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_POLICY_CHARACTERS, readPolicy } from './document.ts';

const statement = { Effect: 'Allow', Action: 'lambda:*', Resource: '*' };
const refused = (document: unknown, message: RegExp) =>
  assert.throws(() => readPolicy(typeof document === 'string' ? document : JSON.stringify(document)), {
    code: 'INVALID',
    message,
  });
const bad = (over: object, message: RegExp) =>
  refused({ Version: '2012-10-17', Statement: [statement, { ...statement, ...over }] }, message);

test('one statement may stand without a list, and Version may be left out', () => {
  assert.equal(readPolicy(JSON.stringify({ Statement: statement })).statements.length, 1);
  assert.equal(
    readPolicy(JSON.stringify({ Version: '2012-10-17', Id: 'x', Statement: [statement] })).statements.length,
    1,
  );
});

test('what is no policy document is refused', () => {
  refused('{', /not valid JSON/);
  refused('[]', /must be a JSON object/);
  refused({}, /no Statement/);
  refused({ Statement: [] }, /no Statement/);
  refused({ Version: '2020-01-01', Statement: statement }, /Version must be "2012-10-17"/);
  refused({ Statement: statement, Statements: [] }, /unknown member "Statements"/);
  refused(' '.repeat(MAX_POLICY_CHARACTERS + 1), /at most 10240/);
});

test('a malformed statement is refused by its number and Sid', () => {
  refused({ Statement: ['x'] }, /^Statement 1: it must be a JSON object\.$/);
  bad({ Sid: 'Mine', Effect: 'allow' }, /^Statement 2 \("Mine"\): Effect must be "Allow" or "Deny"\.$/);
  bad({ Sid: 'not mine' }, /^Statement 2: Sid/);
  bad({ Principal: '*' }, /^Statement 2: Principal has no place/);
  bad({ Actions: '*' }, /unknown member "Actions"/);
  bad({ NotAction: 's3:*' }, /either Action or NotAction/);
  bad({ Action: undefined }, /either Action or NotAction/);
  bad({ NotResource: '*' }, /either Resource or NotResource/);
  bad({ Action: [] }, /Action is empty/);
  bad({ Action: [1] }, /Action must be a string/);
  for (const Action of ['RunMicrovm', 'lam*:Run', 'lambda:', ':Run', 'lambda:Run Microvm', '']) {
    bad({ Action }, /^Statement 2: ".*" is not an action/);
  }
  for (const Resource of ['image', 'arn:aws:lambda', 'lambda:*', '', 'arn:aws:lambda:us-east-1:0']) {
    bad({ Resource }, /neither an ARN nor/);
  }
  bad({ Resource: `arn:aws:s3:::\${nothing}` }, /"\$\{nothing\}" is not a policy variable/);
  bad({ Resource: `arn:aws:s3:::x\${aws:username` }, /not closed/);
  refused(
    {
      Statement: [
        { ...statement, Sid: 'A' },
        { ...statement, Sid: 'A' },
      ],
    },
    /Two statements.*"A"/,
  );
});

test('a malformed condition is refused by its statement', () => {
  const condition = (Condition: unknown, message: RegExp) => bad({ Sid: 'C', Condition }, message);
  condition([], /^Statement 2 \("C"\): Condition must be a JSON object\.$/);
  condition({ StringMaybe: { 'a:b': 'x' } }, /Condition: "StringMaybe" is not a condition operator/);
  for (const operator of [
    'IfExists',
    'ForAllValues:',
    'ForSomeValues:StringEquals',
    'toString',
    'NullIfExists',
    'stringEquals',
  ]) {
    condition({ [operator]: { 'a:b': 'x' } }, /is not a condition operator/);
  }
  condition({ StringEquals: 'x' }, /must hold an object/);
  condition({ StringEquals: { tag: 'x' } }, /"tag" is not a condition key/);
  condition({ StringEquals: { 'a:b': { c: 1 } } }, /must be strings, numbers or booleans/);
  condition({ StringEquals: { 'a:b': [] } }, /has no value for a:b/);
  condition({ NumericEquals: { 'a:b': 'five' } }, /"five" is not a number/);
  condition({ DateLessThan: { 'a:b': 'tomorrow' } }, /"tomorrow" is not a date/);
  condition({ Bool: { 'a:b': 'yes' } }, /neither true nor false/);
  condition({ Null: { 'a:b': 'maybe' } }, /neither true nor false/);
  condition({ IpAddress: { 'a:b': '10.0.0.0/33' } }, /not an IP address or range/);
  condition({ IpAddress: { 'a:b': '10.0.0.0/' } }, /not an IP address or range/);
  condition({ ArnLike: { 'a:b': 'shop' } }, /is not an ARN/);
  condition({ BinaryEquals: { 'a:b': '%' } }, /not base64/);
});
