import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Context } from './condition.ts';
import { readPolicy } from './document.ts';
import { type AccessRequest, evaluate, type Outcome } from './evaluate.ts';

const image = 'arn:aws:lambda:us-east-1:000000000000:microvm-image:shop';

function decide(statements: unknown, request: Partial<AccessRequest> = {}, version = '2012-10-17'): Outcome {
  const policy = readPolicy(JSON.stringify({ Version: version, Statement: statements }));
  const whole: AccessRequest = { action: 'lambda:RunMicrovm', resource: image, context: {}, ...request };
  return evaluate([{ name: 'p', policy }], whole).outcome;
}

const allow = (over: object = {}) => ({ Effect: 'Allow', Action: '*', Resource: '*', ...over });
const deny = (over: object = {}) => ({ ...allow(over), Effect: 'Deny' });

test('without a policy, and without a statement that applies, everything is denied', () => {
  const request = { action: 'lambda:GetMicrovm', resource: image, context: {} };
  assert.equal(evaluate([], request).outcome, 'implicit-deny');
  assert.equal(decide(allow({ Action: 'lambda:GetMicrovm' })), 'implicit-deny');
});

test('an explicit Deny wins over any Allow, wherever it stands', () => {
  assert.equal(decide([deny(), allow()]), 'explicit-deny');
  assert.equal(decide([allow(), deny({ Action: 'lambda:Run*' })]), 'explicit-deny');
  assert.equal(decide([allow(), deny({ Action: 'lambda:Get*' })]), 'allowed');
  const policies = [allow(), deny()].map((statement, index) => ({
    name: `p${index}`,
    policy: readPolicy(JSON.stringify({ Statement: statement })),
  }));
  assert.equal(evaluate(policies, { action: 'a:B', resource: '*', context: {} }).outcome, 'explicit-deny');
});

test('actions are compared without regard to case, with * and ?', () => {
  for (const Action of [
    'LAMBDA:runmicrovm',
    'lambda:Run*',
    'lambda:*',
    '*',
    '*:*',
    'lambda:?unMicrovm',
    'lambda:*Microvm*',
  ])
    assert.equal(decide(allow({ Action })), 'allowed', Action);
  for (const Action of ['lambda:Run', 'lambda:RunMicrovm?', 's3:*', 'lambda:*Image'])
    assert.equal(decide(allow({ Action })), 'implicit-deny', Action);
  assert.equal(decide(allow({ Action: ['s3:Get*', 'lambda:RunMicrovm'] })), 'allowed');
});

test('NotAction covers every action but the named ones', () => {
  const statement = (NotAction: unknown) => ({ Effect: 'Allow', NotAction, Resource: '*' });
  assert.equal(decide(statement('lambda:Delete*')), 'allowed');
  assert.equal(decide(statement(['lambda:Delete*', 'lambda:Run*'])), 'implicit-deny');
});

test('resources are compared with regard to case; a * at the end of an ARN segment goes on, inside one it stays there', () => {
  for (const Resource of [
    image,
    '*',
    'arn:aws:lambda:*:*:microvm-image:*',
    'arn:aws:lambda:us-*-1:000000000000:microvm-image:sh?p',
    'arn:aws:lambda:*',
    'arn:*:lambda:*:microvm-image:shop',
    ['arn:aws:lambda:us-east-1:000000000000:microvm-image:other', image],
  ])
    assert.equal(decide(allow({ Resource })), 'allowed', String(Resource));
  for (const Resource of [
    image.replace('shop', 'Shop'),
    'arn:aws:lambda:us-east-1:000000000000:microvm-image:shop?',
    'arn:aws:lambda:us*1:000000000000:microvm-image:shop*x',
    'arn:aws:l*a:us-east-1:microvm-image:shop',
    'arn:aws:lambda:us-*0:microvm-image:shop',
  ])
    assert.equal(decide(allow({ Resource })), 'implicit-deny', String(Resource));
});

test('NotResource covers every resource but the named ones', () => {
  const statement = (NotResource: unknown) => ({ Effect: 'Allow', Action: '*', NotResource });
  assert.equal(decide(statement(image)), 'implicit-deny');
  assert.equal(decide(statement(image), { resource: `${image}-2` }), 'allowed');
});

test('an operation on no resource in particular needs a policy for *', () => {
  assert.equal(decide(allow({ Resource: 'arn:aws:lambda:*:*:*' }), { resource: '*' }), 'implicit-deny');
  assert.equal(decide(allow(), { resource: '*' }), 'allowed');
});

test('for a resource that does not exist any Allow of the action counts, and a Deny that covers everything', () => {
  const unknown = { resource: undefined };
  assert.equal(decide(allow({ Resource: image }), unknown), 'allowed');
  assert.equal(decide(allow({ Action: 'lambda:GetMicrovm', Resource: image }), unknown), 'implicit-deny');
  assert.equal(decide([allow(), deny({ Resource: image })], unknown), 'allowed');
  assert.equal(decide([allow(), deny()], unknown), 'explicit-deny');
});

test('policy variables stand for the request, literally, in the newer policy language only', () => {
  const Resource = `arn:aws:lambda:*:*:microvm-image:\${aws:username}`;
  const as = (username: string): Partial<AccessRequest> => ({ context: { 'aws:username': username } });
  assert.equal(decide(allow({ Resource }), as('shop')), 'allowed');
  assert.equal(decide(allow({ Resource }), as('*')), 'implicit-deny');
  assert.equal(decide(allow({ Resource })), 'implicit-deny');
  assert.equal(decide(allow({ Resource }), as('shop'), '2008-10-17'), 'implicit-deny');
  const withDefault = `arn:aws:lambda:*:*:microvm-image:\${aws:username, 'shop'}`;
  assert.equal(decide(allow({ Resource: withDefault })), 'allowed');
  const escaped = `arn:aws:lambda:*:*:microvm-image:\${*}`;
  assert.equal(decide(allow({ Resource: escaped })), 'implicit-deny');
  assert.equal(decide(allow({ Resource: escaped }), { resource: image.replace('shop', '*') }), 'allowed');
});

test('an unresolved variable in NotResource does not open an Allow', () => {
  const NotResource = `arn:aws:lambda:*:*:microvm-image:\${aws:username}`;
  assert.equal(decide({ Effect: 'Allow', Action: '*', NotResource }), 'implicit-deny');
  assert.equal(decide([allow(), { Effect: 'Deny', Action: '*', NotResource }]), 'explicit-deny');
});

test('an evaluation tells of every statement whether it applied and what stood against it', () => {
  const policy = readPolicy(
    JSON.stringify({
      Version: '2012-10-17',
      Statement: [
        { Sid: 'Other', Effect: 'Allow', Action: 's3:*', Resource: '*' },
        { Effect: 'Deny', Action: '*', Resource: `${image}-2` },
        { Effect: 'Allow', Action: '*', Resource: '*', Condition: { Bool: { 'aws:SecureTransport': 'true' } } },
        { Sid: 'Run', Effect: 'Allow', Action: 'lambda:RunMicrovm', Resource: image },
      ],
    }),
  );
  const { outcome, statements } = evaluate([{ name: 'p', policy }], {
    action: 'lambda:RunMicrovm',
    resource: image,
    context: {},
  });
  assert.equal(outcome, 'allowed');
  assert.deepEqual(
    statements.map(({ statement, sid, mismatch }) => [statement, sid, mismatch]),
    [
      [1, 'Other', { on: 'action' }],
      [2, undefined, { on: 'resource' }],
      [3, undefined, { on: 'condition', operator: 'Bool', key: 'aws:SecureTransport' }],
      [4, 'Run', undefined],
    ],
  );
});

/** condition block, request context, whether it holds */
const conditions: readonly [string, object, Context, boolean][] = [
  ['string equal', { StringEquals: { 'aws:RequestTag/team': 'a' } }, { 'aws:RequestTag/team': 'a' }, true],
  ['string of another case', { StringEquals: { 'aws:RequestTag/team': 'A' } }, { 'aws:RequestTag/team': 'a' }, false],
  ['wildcard taken literally', { StringEquals: { 'a:b': 'x*' } }, { 'a:b': 'xy' }, false],
  ['one of several values', { StringEquals: { 'a:b': ['x', 'y'] } }, { 'a:b': 'y' }, true],
  ['key name of another case', { StringEquals: { 'AWS:requesttag/TEAM': 'a' } }, { 'aws:RequestTag/team': 'a' }, true],
  ['missing key', { StringEquals: { 'a:b': 'x' } }, {}, false],
  ['missing key, IfExists', { StringEqualsIfExists: { 'a:b': 'x' } }, {}, true],
  ['other value, IfExists', { StringEqualsIfExists: { 'a:b': 'x' } }, { 'a:b': 'y' }, false],
  ['not equal to any', { StringNotEquals: { 'a:b': ['x', 'y'] } }, { 'a:b': 'z' }, true],
  ['not equal, but one is', { StringNotEquals: { 'a:b': ['x', 'y'] } }, { 'a:b': 'y' }, false],
  ['not equal, missing key', { StringNotEquals: { 'a:b': 'x' } }, {}, true],
  ['ignoring case', { StringEqualsIgnoreCase: { 'a:b': 'X' } }, { 'a:b': 'x' }, true],
  ['not, ignoring case', { StringNotEqualsIgnoreCase: { 'a:b': 'X' } }, { 'a:b': 'x' }, false],
  ['like', { StringLike: { 'a:b': 'x*z?' } }, { 'a:b': 'xyyz1' }, true],
  ['not like', { StringNotLike: { 'a:b': 'x*' } }, { 'a:b': 'xy' }, false],
  [
    'variable',
    { StringEquals: { 'aws:RequestTag/owner': `\${aws:username}` } },
    { 'aws:RequestTag/owner': 'ann', 'aws:username': 'ann' },
    true,
  ],
  ['numeric equal', { NumericEquals: { 'a:n': 5 } }, { 'a:n': '5.0' }, true],
  ['numeric not equal', { NumericNotEquals: { 'a:n': '5' } }, { 'a:n': '6' }, true],
  ['less', { NumericLessThan: { 'a:n': '10' } }, { 'a:n': '9' }, true],
  ['not less', { NumericLessThan: { 'a:n': '10' } }, { 'a:n': '10' }, false],
  ['at most', { NumericLessThanEquals: { 'a:n': '10' } }, { 'a:n': '10' }, true],
  ['more', { NumericGreaterThan: { 'a:n': '10' } }, { 'a:n': '10' }, false],
  ['at least', { NumericGreaterThanEquals: { 'a:n': '10' } }, { 'a:n': '10' }, true],
  ['no number', { NumericLessThan: { 'a:n': '10' } }, { 'a:n': 'nine' }, false],
  [
    'date before',
    { DateLessThan: { 'aws:CurrentTime': '2030-01-01T00:00:00Z' } },
    { 'aws:CurrentTime': '2029-12-31T23:59:59Z' },
    true,
  ],
  [
    'date in a zone',
    { DateEquals: { 'aws:CurrentTime': '2030-01-01T01:00:00+01:00' } },
    { 'aws:CurrentTime': '2030-01-01T00:00:00Z' },
    true,
  ],
  [
    'date without a zone',
    { DateEquals: { 'aws:CurrentTime': '2030-01-01T00:00:00' } },
    { 'aws:CurrentTime': '2030-01-01T00:00:00Z' },
    true,
  ],
  ['date in seconds', { DateGreaterThan: { 'aws:EpochTime': '1600000000' } }, { 'aws:EpochTime': '1700000000' }, true],
  [
    'date at the latest',
    { DateLessThanEquals: { 'aws:CurrentTime': '2030' } },
    { 'aws:CurrentTime': '2031-01-01' },
    false,
  ],
  ['bool', { Bool: { 'aws:SecureTransport': false } }, { 'aws:SecureTransport': 'false' }, true],
  ['other bool', { Bool: { 'aws:SecureTransport': 'true' } }, { 'aws:SecureTransport': 'false' }, false],
  ['binary', { BinaryEquals: { 'a:b': 'QmluYXJ5' } }, { 'a:b': 'QmluYXJ5' }, true],
  [
    'address in range',
    { IpAddress: { 'aws:SourceIp': ['10.0.0.0/8', '203.0.113.5'] } },
    { 'aws:SourceIp': '203.0.113.5' },
    true,
  ],
  ['address out of range', { IpAddress: { 'aws:SourceIp': '10.0.0.0/8' } }, { 'aws:SourceIp': '11.0.0.1' }, false],
  ['mapped address', { IpAddress: { 'aws:SourceIp': '10.0.0.0/8' } }, { 'aws:SourceIp': '::ffff:10.1.1.1' }, true],
  ['v6 address', { IpAddress: { 'aws:SourceIp': '2001:db8::/32' } }, { 'aws:SourceIp': '2001:db8::1' }, true],
  ['v6 range, v4 address', { IpAddress: { 'aws:SourceIp': '::/0' } }, { 'aws:SourceIp': '10.0.0.1' }, false],
  ['address not in range', { NotIpAddress: { 'aws:SourceIp': '10.0.0.0/8' } }, { 'aws:SourceIp': '11.0.0.1' }, true],
  [
    'arn like',
    { ArnLike: { 'aws:PrincipalArn': 'arn:aws:iam::*:user/a*' } },
    { 'aws:PrincipalArn': 'arn:aws:iam::0:user/ann' },
    true,
  ],
  [
    'arn equals takes wildcards too',
    { ArnEquals: { 'aws:PrincipalArn': 'arn:aws:iam::?:user/*' } },
    { 'aws:PrincipalArn': 'arn:aws:iam::0:user/ann' },
    true,
  ],
  [
    'arn wildcard of one part',
    { ArnLike: { 'a:b': 'arn:aws:*:x:0:user/ann' } },
    { 'a:b': 'arn:aws:iam:y:x:0:user/ann' },
    false,
  ],
  ['arn not like', { ArnNotLike: { 'a:b': 'arn:aws:iam::0:user/*' } }, { 'a:b': 'arn:aws:iam::0:role/x' }, true],
  ['arn not equal', { ArnNotEquals: { 'a:b': 'arn:aws:iam::0:user/*' } }, { 'a:b': 'arn:aws:iam::0:user/x' }, false],
  [
    'arn with a variable',
    { ArnLike: { 'a:b': `arn:aws:iam::0:user/\${aws:username}` } },
    { 'a:b': 'arn:aws:iam::0:user/x', 'aws:username': 'x' },
    true,
  ],
  ['null, absent', { Null: { 'a:b': 'true' } }, {}, true],
  ['null, present', { Null: { 'a:b': true } }, { 'a:b': 'x' }, false],
  ['not null, present', { Null: { 'a:b': 'false' } }, { 'a:b': 'x' }, true],
  ['not null, an empty list', { Null: { 'aws:TagKeys': 'false' } }, { 'aws:TagKeys': [] }, false],
  ['all values', { 'ForAllValues:StringEquals': { 'aws:TagKeys': ['a', 'b'] } }, { 'aws:TagKeys': ['b', 'a'] }, true],
  [
    'not all values',
    { 'ForAllValues:StringEquals': { 'aws:TagKeys': ['a', 'b'] } },
    { 'aws:TagKeys': ['a', 'c'] },
    false,
  ],
  ['all values of none', { 'ForAllValues:StringEquals': { 'aws:TagKeys': ['a'] } }, {}, true],
  ['any value', { 'ForAnyValue:StringLike': { 'aws:TagKeys': 'a*' } }, { 'aws:TagKeys': ['x', 'ab'] }, true],
  ['any value of none', { 'ForAnyValue:StringEquals': { 'aws:TagKeys': 'a' } }, {}, false],
  ['any value unlike', { 'ForAnyValue:StringNotEquals': { 'aws:TagKeys': 'a' } }, { 'aws:TagKeys': ['a', 'b'] }, true],
  [
    'all values unlike',
    { 'ForAllValues:StringNotEquals': { 'aws:TagKeys': 'a' } },
    { 'aws:TagKeys': ['a', 'b'] },
    false,
  ],
  ['any value of none, IfExists', { 'ForAnyValue:StringEqualsIfExists': { 'aws:TagKeys': 'a' } }, {}, true],
  [
    'two operators, one fails',
    { StringEquals: { 'a:b': 'x' }, Bool: { 'a:c': 'true' } },
    { 'a:b': 'x', 'a:c': 'false' },
    false,
  ],
  ['two keys, both hold', { StringEquals: { 'a:b': 'x', 'a:c': 'y' } }, { 'a:b': 'x', 'a:c': 'y' }, true],
  ['two keys, one fails', { StringEquals: { 'a:b': 'x', 'a:c': 'y' } }, { 'a:b': 'x', 'a:c': 'z' }, false],
];

for (const [name, Condition, context, holds] of conditions) {
  test(`condition: ${name}: ${holds ? 'holds' : 'does not hold'}`, () => {
    assert.equal(decide(allow({ Condition }), { context }), holds ? 'allowed' : 'implicit-deny');
  });
}

test('a pattern made to stall a matcher is decided at once', () => {
  const Resource = `arn:aws:s3:::${'a*'.repeat(200)}b`;
  assert.equal(decide(allow({ Resource }), { resource: `arn:aws:s3:::${'a'.repeat(1000)}` }), 'implicit-deny');
});
