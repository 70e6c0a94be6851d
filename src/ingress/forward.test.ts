/** When a request goes to an app a second time; everything else about forwarding is tested through the fronts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { silentLogger, systemClock } from '../lib/index.ts';
import type { Machine } from '../microvms/index.ts';
import type { AnswerHead, AnswerSink, BodySink, ClientSide, Outgoing, Upstream } from './exchange.ts';
import { forward, type Surroundings } from './forward.ts';

class FakeClient implements ClientSide {
  readonly request = {
    protocol: 'http/1.1',
    method: 'POST',
    path: '/',
    headers: ['Host', 'h'],
    hasBody: true,
    bodyLength: 4,
    expectsContinue: false,
  } as const;
  hasAnswered = false;
  status = 0;
  bodiesRead = 0;
  readBody(sink: BodySink): void {
    this.bodiesRead++;
    sink.data(Buffer.from('body'));
    sink.end([]);
  }
  head(head: AnswerHead): void {
    this.hasAnswered = true;
    this.status = head.status;
  }
  data(): boolean {
    return true;
  }
  end(): void {}
  failed(): void {}
  interim(): void {}
  resumeBody(): void {}
  discardBody(): void {}
  sendContinue(): void {}
  onGone(): void {}
  onDrain(): void {}
}

/** Plays one way per attempt. */
async function play(ways: readonly ((answer: AnswerSink) => Partial<BodySink>)[]): Promise<FakeClient> {
  const client = new FakeClient();
  let attempt = 0;
  const upstream: Upstream = {
    send: async (_head, _headers, answer): Promise<Outgoing> => {
      const body = { data: () => true, end: () => {}, abort: () => {}, ...ways[attempt++]?.(answer) };
      return { body, onDrain: () => {}, resumeAnswer: () => {}, cancel: () => {} };
    },
  };
  const around = {
    microvms: {
      wake: async () => ({}) as Machine,
      activity: () => {},
      exchange: () => ({ servedMs: 0, active: () => {}, answered: () => {}, [Symbol.dispose]: () => {} }),
    },
    upstreams: { to: () => upstream },
    clock: systemClock,
    log: silentLogger,
  } as unknown as Surroundings;
  await forward(client, { microvmId: 'microvm-1', port: 8080, requestId: 'id' }, around);
  return client;
}

const answered = (answer: AnswerSink) => ({
  end: () => {
    answer.head({ status: 200, reason: 'OK', headers: [], bodyLength: 0 });
    answer.end([]);
  },
});

test('a request whose way failed before its body was read goes another way, body included', async () => {
  const client = await play([
    (answer) => {
      answer.failed(new Error('stale'), true);
      return {};
    },
    answered,
  ]);
  assert.deepEqual([client.status, client.bodiesRead], [200, 1]);
});

test('a request whose body was read is never sent again, and its client is told', async () => {
  const client = await play([(answer) => ({ end: () => answer.failed(new Error('stale'), true) }), answered]);
  assert.deepEqual([client.status, client.bodiesRead], [502, 1]);
});
