/** The official SDK clients, and signed requests to what AWS has no operation for. Loaded on first use: they are slow to load. */
import { createHash, createHmac } from 'node:crypto';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import type { LambdaMicrovms } from '@aws-sdk/client-lambda-microvms';
import type { S3Client } from '@aws-sdk/client-s3';
import { CliError } from './exit.ts';
import type { Target } from './target.ts';

export async function microvmsClient(target: Target): Promise<LambdaMicrovms> {
  const { LambdaMicrovms } = await import('@aws-sdk/client-lambda-microvms');
  return new LambdaMicrovms({
    endpoint: target.apiUrl,
    region: target.region,
    credentials: { accessKeyId: target.accessKeyId, secretAccessKey: target.secretAccessKey },
  });
}

export async function s3Client(target: Target): Promise<S3Client> {
  const { S3Client } = await import('@aws-sdk/client-s3');
  return new S3Client({
    endpoint: target.s3Url,
    region: target.region,
    forcePathStyle: true,
    credentials: { accessKeyId: target.accessKeyId, secretAccessKey: target.secretAccessKey },
  });
}

/** GETs one of Rekindle's own resources (`/rekindle/v1/…`), signed like an AWS call. @throws CliError with the server's words */
export function getExtension(
  target: Target,
  path: string,
  query: Readonly<Record<string, string>>,
  options: { signal?: AbortSignal | undefined; now?: Date } = {},
): Promise<IncomingMessage> {
  const url = new URL(path, target.apiUrl);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  return askExtension(target, { method: 'GET', url, body: '' }, options);
}

/** Changes or asks one of Rekindle's own resources, or one no official client is published for. @returns the JSON it answered @throws CliError with the server's words */
export async function callExtension(target: Target, method: string, path: string, body = ''): Promise<unknown> {
  const response = await askExtension(target, { method, url: new URL(path, target.apiUrl), body }, {});
  return JSON.parse(await text(response));
}

/** POSTs a file as it is read; its content is no part of what is signed. @returns the JSON it answered @throws CliError with the server's words */
export async function sendToExtension(
  target: Target,
  path: string,
  query: URLSearchParams,
  content: Readable,
): Promise<unknown> {
  const url = new URL(path, target.apiUrl);
  url.search = query.toString();
  return JSON.parse(await text(await askExtension(target, { method: 'POST', url, body: content }, {})));
}

interface ExtensionRequest {
  readonly method: string;
  readonly url: URL;
  readonly body: string | Readable;
}

async function askExtension(
  target: Target,
  request: ExtensionRequest,
  options: { signal?: AbortSignal | undefined; now?: Date },
): Promise<IncomingMessage> {
  const { method, url, body } = request;
  const headers = sign(request, target, options.now ?? new Date());
  const send = url.protocol === 'https:' ? httpsRequest : httpRequest;
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const sent = send(url, { method, headers, ...(options.signal === undefined ? {} : { signal: options.signal }) });
    sent.once('response', resolve).once('error', reject);
    if (typeof body === 'string') return void sent.end(body);
    body.once('error', (error) => sent.destroy(error));
    body.pipe(sent);
  });
  if (response.statusCode === 200 || response.statusCode === 201 || response.statusCode === 202) return response;
  throw new CliError(messageIn(await text(response)) ?? `The server answered ${response.statusCode}.`);
}

function messageIn(body: string): string | undefined {
  try {
    const { message, Message = message } = JSON.parse(body);
    return typeof Message === 'string' ? Message : undefined;
  } catch {
    return undefined;
  }
}

/** Signature version 4; the path is encoded once more, as for every service but S3. */
function sign({ method, url, body }: ExtensionRequest, target: Target, now: Date): Record<string, string> {
  const stamp = now.toISOString().replace(/[-:]|\.\d{3}/g, '');
  const date = stamp.slice(0, 8);
  const scope = `${date}/${target.region}/lambda/aws4_request`;
  const path = url.pathname.split('/').map(encodeStrictly).join('/');
  const query = [...url.searchParams]
    .map(([name, value]) => `${encodeStrictly(name)}=${encodeStrictly(value)}`)
    .sort()
    .join('&');
  const canonical = [
    method,
    path,
    query,
    `host:${url.host}`,
    `x-amz-date:${stamp}`,
    '',
    'host;x-amz-date',
    typeof body === 'string' ? createHash('sha256').update(body).digest('hex') : 'UNSIGNED-PAYLOAD',
  ];
  const digest = createHash('sha256').update(canonical.join('\n')).digest('hex');
  const hmac = (key: string | Buffer, text: string) => createHmac('sha256', key).update(text).digest();
  const key = [date, target.region, 'lambda', 'aws4_request'].reduce<Buffer>(
    (chained, part) => hmac(chained, part),
    Buffer.from(`AWS4${target.secretAccessKey}`),
  );
  const signature = hmac(key, ['AWS4-HMAC-SHA256', stamp, scope, digest].join('\n')).toString('hex');
  return {
    'x-amz-date': stamp,
    authorization: `AWS4-HMAC-SHA256 Credential=${target.accessKeyId}/${scope}, SignedHeaders=host;x-amz-date, Signature=${signature}`,
  };
}

function encodeStrictly(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}
