/** Ten thousand requests that must be refused: never a server error, never a crash, never a change of state. */
import assert from 'node:assert/strict';
import { Agent, request as httpRequest } from 'node:http';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { LambdaMicrovms } from '@aws-sdk/client-lambda-microvms';
import { RECORD_KINDS } from '../../src/store/index.ts';
import {
  type ApiBench,
  account,
  baseImageArn,
  buildRoleArn,
  codeArtifact,
  createApiBench,
  credentials,
  region,
} from '../support/api-bench.ts';
import { type BadRequest, BadRequests, type Known } from '../support/bad-requests.ts';

const COUNT = 10_000;
const SEED = 20_261_121;
const AT_ONCE = 16;

async function furnish(bench: ApiBench): Promise<Known> {
  const endpoint = `http://127.0.0.1:${bench.apiPort}`;
  const sdk = new LambdaMicrovms({ region, endpoint, credentials });
  const tags = { team: 'a' };
  const { imageArn = '' } = await sdk.createMicrovmImage({
    name: 'kept',
    baseImageArn,
    buildRoleArn,
    codeArtifact,
    tags,
  });
  for await (const _ of bench.images.buildLog(imageArn, '1.0', { follow: true })) {
    // Only its end matters.
  }
  const { microvmId = '' } = await sdk.runMicrovm({ imageIdentifier: imageArn, maximumDurationInSeconds: 28_800 });
  await bench.microvms.wake(microvmId, {});
  sdk.destroy();
  const connectorArn = `arn:aws:lambda:${region}:${account}:network-connector:nc-00000000-0000-0000-0000-000000000001`;
  return { host: `127.0.0.1:${bench.apiPort}`, imageArn, microvmId, connectorArn };
}

/** Every record, as text. */
async function stateOf(bench: ApiBench): Promise<string> {
  const kinds = await Promise.all(
    RECORD_KINDS.map(async (kind) => [kind, await bench.store.records(kind).list({ limit: 100_000 })]),
  );
  return JSON.stringify(kinds, null, 1);
}

interface Answer {
  readonly status: number;
  readonly type: unknown;
  readonly body: string;
}

function send(agent: Agent, port: number, bad: BadRequest): Promise<Answer> {
  const { method, target: path, headers, body } = bad;
  // What was announced and never comes keeps the connection busy: it gets one of its own.
  const isTruncated = headers['content-length'] !== String(body.length);
  return new Promise((resolve, reject) => {
    const call = httpRequest(
      { agent: isTruncated ? false : agent, host: '127.0.0.1', port, method, path, headers },
      (response) => {
        const type = response.headers['x-amzn-errortype'];
        text(response).then((answer) => {
          if (isTruncated) call.destroy();
          resolve({ status: response.statusCode ?? 0, type, body: answer });
        }, reject);
      },
    );
    call.on('error', (error) => reject(new Error(`no answer to ${bad.what}`, { cause: error })));
    if (isTruncated) call.flushHeaders();
    else call.end(body);
  });
}

test(`${COUNT} generated bad requests over all operations are refused and change nothing`, async () => {
  await using bench = await createApiBench();
  const known = await furnish(bench);
  const before = await stateOf(bench);
  const generator = new BadRequests(SEED, known);
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
  const wrong: string[] = [];
  let sent = 0;
  const work = async () => {
    while (sent < COUNT && wrong.length < 20) {
      sent++;
      const bad = generator.next();
      const answer = await send(agent, bench.apiPort, bad);
      const isRefused = answer.status >= 400 && answer.status < 500;
      if (isRefused && typeof answer.type === 'string' && isObject(answer.body)) continue;
      const request = `${bad.method} ${bad.target.slice(0, 200)} ${bad.body.toString().slice(0, 300)}`;
      wrong.push(`${bad.what}\n  ${request}\n  ${answer.status} ${String(answer.type)} ${answer.body.slice(0, 300)}`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  agent.destroy();
  assert.deepEqual(wrong, []);
  assert.equal(await stateOf(bench), before);
});

function isObject(body: string): boolean {
  const value: unknown = JSON.parse(body);
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
