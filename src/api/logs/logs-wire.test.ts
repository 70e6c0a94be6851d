/** CloudWatch Logs by the official SDK: what builds and apps printed, and a client's own groups. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  CloudWatchLogsClient,
  type CloudWatchLogsClientConfig,
  CreateLogGroupCommand,
  CreateLogStreamCommand,
  DeleteLogGroupCommand,
  DescribeLogGroupsCommand,
  DescribeLogStreamsCommand,
  FilterLogEventsCommand,
  GetLogEventsCommand,
  PutLogEventsCommand,
  PutRetentionPolicyCommand,
  paginateFilterLogEvents,
  StartLiveTailCommand,
} from '@aws-sdk/client-cloudwatch-logs';
import { CreateMicrovmImageCommand, RunMicrovmCommand } from '@aws-sdk/client-lambda-microvms';
import {
  account,
  baseImageArn,
  buildRoleArn,
  codeArtifact,
  createApiBench,
  credentials,
  region,
} from '../../../test/support/api-bench.ts';

async function openBench() {
  await using stack = new AsyncDisposableStack();
  const bench = stack.use(await createApiBench());
  const endpoint = `http://127.0.0.1:${bench.apiPort}`;
  const client = (config: CloudWatchLogsClientConfig = {}) =>
    owned.adopt(new CloudWatchLogsClient({ region, endpoint, credentials, maxAttempts: 1, ...config }), (made) =>
      made.destroy(),
    );
  const owned = stack.move();
  const sdk = client();
  return { ...bench, sdk, microvmsSdk: bench.sdk, client, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const group = { logGroupName: '/own/group' };
const stream = { ...group, logStreamName: 'one' };

test('a build and a microVM log where the service has them log', async () => {
  await using bench = await openBench();
  const { microvmsSdk, sdk } = bench;
  const imageArn = `arn:aws:lambda:${region}:${account}:microvm-image:demo`;
  await microvmsSdk.send(new CreateMicrovmImageCommand({ name: 'demo', baseImageArn, buildRoleArn, codeArtifact }));
  let printed = '';
  for await (const chunk of bench.images.buildLog(imageArn, '1.0', { follow: true })) printed += chunk.toString();
  const logGroupName = '/aws/lambda-microvms/demo';
  const { logStreams = [] } = await sdk.send(new DescribeLogStreamsCommand({ logGroupName }));
  assert.match(logStreams[0]?.logStreamName ?? '', /^\d{4}\/\d\d\/\d\d\[1\.0\][0-9a-f-]+$/);
  const { events = [] } = await sdk.send(new FilterLogEventsCommand({ logGroupName }));
  assert.deepEqual(
    events.map(({ message }) => message),
    printed.split('\n').filter((line) => line !== ''),
  );
  assert.ok(events.length > 0);

  const run = { imageIdentifier: imageArn, logging: { cloudWatch: { logGroup: '/of/mine', logStream: 'this-one' } } };
  const { microvmId = '' } = await microvmsSdk.send(new RunMicrovmCommand(run));
  await bench.microvms.wake(microvmId, {});
  bench.engine.print(microvmId, 'hello from the app');
  const stop = new AbortController();
  for await (const { text } of bench.microvms.logs(microvmId, { follow: true, signal: stop.signal })) {
    if (text === 'hello from the app') stop.abort();
  }
  const mine = await sdk.send(new GetLogEventsCommand({ logGroupName: '/of/mine', logStreamName: 'this-one' }));
  assert.ok(mine.events?.some(({ message }) => message === 'hello from the app'));
});

test('a stream is paged through from both ends, and the same token says that there is no more', async () => {
  await using bench = await openBench();
  const { sdk } = bench;
  await sdk.send(new CreateLogGroupCommand(group));
  await sdk.send(new CreateLogStreamCommand(stream));
  const now = Date.now();
  const logEvents = ['a', 'b', 'c', 'd', 'e'].map((message, n) => ({ timestamp: now - 10 + n, message }));
  await sdk.send(new PutLogEventsCommand({ ...stream, logEvents }));
  const read = (more: object) => sdk.send(new GetLogEventsCommand({ ...stream, limit: 2, ...more }));
  const texts = (page: Awaited<ReturnType<typeof read>>) => page.events?.map(({ message }) => message).join('');
  const head = await read({ startFromHead: true });
  assert.equal(texts(head), 'ab');
  const next = await read({ nextToken: head.nextForwardToken });
  assert.equal(texts(next), 'cd');
  const last = await read({ nextToken: next.nextForwardToken });
  assert.equal(texts(last), 'e');
  const end = await read({ nextToken: last.nextForwardToken });
  assert.deepEqual([texts(end), end.nextForwardToken], ['', last.nextForwardToken]);
  const back = await read({ nextToken: last.nextBackwardToken });
  assert.equal(texts(back), 'cd');
  assert.equal(texts(await read({})), 'de');
  let all = '';
  for await (const { events = [] } of paginateFilterLogEvents({ client: sdk }, { ...group, limit: 2 })) {
    all += events.map(({ message }) => message).join('');
  }
  assert.equal(all, 'abcde');
  const ids = (await sdk.send(new FilterLogEventsCommand(group))).events?.map(({ eventId }) => eventId ?? '') ?? [];
  assert.ok(ids.every((id) => /^\d{56}$/.test(id)));
  assert.deepEqual(ids, ids.toSorted());
});

test('groups are listed a page at a time, kept for a time, and gone', async () => {
  await using bench = await openBench();
  const { sdk } = bench;
  for (const name of ['/b', '/a/2', '/a/1']) await sdk.send(new CreateLogGroupCommand({ logGroupName: name }));
  await sdk.send(new PutRetentionPolicyCommand({ logGroupName: '/b', retentionInDays: 7 }));
  const first = await sdk.send(new DescribeLogGroupsCommand({ limit: 2 }));
  const second = await sdk.send(new DescribeLogGroupsCommand({ limit: 2, nextToken: first.nextToken }));
  const all = [...(first.logGroups ?? []), ...(second.logGroups ?? [])];
  assert.deepEqual(
    all.map(({ logGroupName, retentionInDays }) => [logGroupName, retentionInDays]),
    [
      ['/a/1', undefined],
      ['/a/2', undefined],
      ['/b', 7],
    ],
  );
  assert.equal(all[2]?.arn, `arn:aws:logs:${region}:${account}:log-group:/b:*`);
  assert.equal(second.nextToken, undefined);
  const found = await sdk.send(new DescribeLogGroupsCommand({ logGroupNamePrefix: '/a' }));
  assert.equal(found.logGroups?.length, 2);
  await sdk.send(new DeleteLogGroupCommand({ logGroupName: '/b' }));
  await assert.rejects(sdk.send(new DeleteLogGroupCommand({ logGroupName: '/b' })), {
    name: 'ResourceNotFoundException',
    message: 'The specified log group does not exist.',
  });
});

test('what cannot be is refused in the names clients know', async () => {
  await using bench = await openBench();
  const { sdk } = bench;
  await sdk.send(new CreateLogGroupCommand(group));
  await sdk.send(new CreateLogStreamCommand(stream));
  const now = Date.now();
  const put = (...timestamps: number[]) =>
    sdk.send(
      new PutLogEventsCommand({ ...stream, logEvents: timestamps.map((timestamp) => ({ timestamp, message: 'x' })) }),
    );
  await assert.rejects(sdk.send(new CreateLogGroupCommand(group)), { name: 'ResourceAlreadyExistsException' });
  await assert.rejects(sdk.send(new CreateLogGroupCommand({ logGroupName: 'a b' })), {
    name: 'InvalidParameterException',
  });
  await assert.rejects(sdk.send(new PutRetentionPolicyCommand({ ...group, retentionInDays: 2 })), {
    name: 'InvalidParameterException',
  });
  await assert.rejects(put(now, now - 1), { name: 'InvalidParameterException', message: /chronological/ });
  await assert.rejects(sdk.send(new FilterLogEventsCommand({ ...group, filterPattern: '[a, b]' })), {
    name: 'InvalidParameterException',
  });
  await assert.rejects(sdk.send(new FilterLogEventsCommand({ ...group, nextToken: 'zz' })), {
    name: 'InvalidParameterException',
    message: /nextToken/,
  });
  const { rejectedLogEventsInfo } = await put(now - 15 * 86_400_000, now, now + 3 * 3_600_000);
  assert.deepEqual(rejectedLogEventsInfo, { tooOldLogEventEndIndex: 1, tooNewLogEventStartIndex: 2 });
  assert.equal((await sdk.send(new FilterLogEventsCommand(group))).events?.length, 1);
  await assert.rejects(
    bench.client({ credentials: { ...credentials, secretAccessKey: 'wrong' } }).send(new DescribeLogGroupsCommand()),
    {
      name: 'InvalidSignatureException',
    },
  );
});

test('policies decide per group', async () => {
  await using bench = await openBench();
  await bench.sdk.send(new CreateLogGroupCommand(group));
  await bench.sdk.send(new CreateLogGroupCommand({ logGroupName: '/other' }));
  const { directory } = bench.identity;
  const holder = { kind: 'user', name: 'reader' } as const;
  await directory.create(holder);
  const Resource = `arn:aws:logs:${region}:${account}:log-group:/own/*`;
  const Statement = [{ Effect: 'Allow', Action: 'logs:FilterLogEvents', Resource }];
  await directory.putPolicy(holder, 'read', JSON.stringify({ Version: '2012-10-17', Statement }));
  const key = await directory.createKey('reader');
  const reader = bench.client({ credentials: key });
  assert.deepEqual((await reader.send(new FilterLogEventsCommand(group))).events, []);
  await assert.rejects(reader.send(new FilterLogEventsCommand({ logGroupName: '/other' })), {
    name: 'AccessDeniedException',
    message: /logs:FilterLogEvents on resource: arn:aws:logs:us-east-1:\d{12}:log-group:\/other:\*/,
  });
});

test('a live tail shows what arrives while it listens', async () => {
  await using bench = await openBench();
  // The service has a host of its own for these sessions; there is one host here.
  const sdk = bench.client({ disableHostPrefix: true });
  await sdk.send(new CreateLogGroupCommand(group));
  await sdk.send(new CreateLogStreamCommand(stream));
  const arn = `arn:aws:logs:${region}:${account}:log-group:${group.logGroupName}`;
  const stop = new AbortController();
  const { responseStream } = await sdk.send(
    new StartLiveTailCommand({ logGroupIdentifiers: [arn], logEventFilterPattern: 'wanted' }),
    { abortSignal: stop.signal },
  );
  assert.ok(responseStream);
  const seen: (string | undefined)[] = [];
  for await (const { sessionStart, sessionUpdate } of responseStream) {
    if (sessionStart !== undefined) {
      assert.deepEqual(sessionStart.logGroupIdentifiers, [arn]);
      const timestamp = Date.now();
      const logEvents = ['wanted 1', 'other', 'wanted 2'].map((message) => ({ timestamp, message }));
      await sdk.send(new PutLogEventsCommand({ ...stream, logEvents }));
    }
    seen.push(...(sessionUpdate?.sessionResults ?? []).map(({ message }) => message));
    if (seen.length === 2) break;
  }
  stop.abort();
  assert.deepEqual(seen, ['wanted 1', 'wanted 2']);
});
