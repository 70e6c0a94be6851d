/** Signed as botocore's S3 query signer does: the worked example of the S3 developer guide's version 2 chapter. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { test } from 'node:test';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import { credentials, serve } from './test-bench.ts';

function presign(path: string, options: { method?: string; expires: number; extra?: string; type?: string }): string {
  const { method = 'GET', expires, extra = '', type = '' } = options;
  const resource = extra === '' ? path : `${path}?${decodeURIComponent(extra)}`;
  const toSign = [method, '', type, expires, resource].join('\n');
  const signature = createHmac('sha1', credentials.secretAccessKey).update(toSign).digest('base64');
  const query = `AWSAccessKeyId=${credentials.accessKeyId}&Signature=${encodeURIComponent(signature)}&Expires=${expires}`;
  return `${path}?${query}${extra === '' ? '' : `&${extra}`}`;
}

test("boto3's default presigned URL reads and writes an object until it expires", async () => {
  await using place = await serve();
  await place.s3.send(new PutObjectCommand({ Bucket: 'bucket', Key: 'a b', Body: 'hello' }));
  const at = (target: string, init?: RequestInit) => fetch(`http://127.0.0.1:${place.port}${target}`, init);
  const soon = Math.floor(Date.now() / 1000) + 60;
  const got = await at(presign('/bucket/a%20b', { expires: soon }));
  assert.deepEqual([got.status, await got.text()], [200, 'hello']);
  const extra = `response-content-type=${encodeURIComponent('text/css')}`;
  assert.equal((await at(presign('/bucket/a%20b', { expires: soon, extra }))).headers.get('content-type'), 'text/css');
  const type = 'text/plain';
  const put = presign('/bucket/c', { method: 'PUT', expires: soon, type });
  assert.equal((await at(put, { method: 'PUT', body: 'x', headers: { 'content-type': type } })).status, 200);

  const refused = async (target: string) => {
    const answer = await at(target);
    return `${answer.status} ${/<Code>(\w+)</.exec(await answer.text())?.[1]}`;
  };
  assert.equal(await refused(presign('/bucket/a%20b', { expires: 1 })), '403 AccessDenied');
  assert.equal(
    await refused(presign('/bucket/other', { expires: soon }).replace('other', 'a%20b')),
    '403 SignatureDoesNotMatch',
  );
  assert.equal(
    await refused(presign('/bucket/c', { expires: soon }).replace('AKID', 'NOBODY')),
    '403 InvalidAccessKeyId',
  );
});
