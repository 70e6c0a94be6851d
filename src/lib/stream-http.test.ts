import assert from 'node:assert/strict';
import { type Duplex, duplexPair } from 'node:stream';
import { test } from 'node:test';
import { requestOverStream } from './index.ts';

interface App {
  readonly answer: Promise<{ status: number }>;
  /** The app's end. */
  readonly stream: Duplex;
  readonly stop: AbortController;
}

function ask(): App {
  const [near, stream] = duplexPair();
  stream.resume();
  stream.on('error', () => {});
  const stop = new AbortController();
  const answer = requestOverStream(near, { method: 'POST', path: '/', host: 'app', body: '{}', signal: stop.signal });
  answer.catch(() => {});
  return { answer, stream, stop };
}

/** Writes what `next` gives until the other side is gone; returns how much that was. */
async function flood(stream: Duplex, next: () => string): Promise<number> {
  let sent = 0;
  while (!stream.destroyed && !stream.closed && sent < 64 * 2 ** 20) {
    const text = next();
    sent += text.length;
    const isTaken = stream.write(text);
    await new Promise((resolve) => setImmediate(resolve));
    if (!isTaken && stream.writableLength > 2 ** 20) break;
  }
  return sent;
}

test('the head is enough: a body without end is not waited for', async () => {
  const { answer, stream } = ask();
  stream.write('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n');
  assert.deepEqual(await answer, { status: 200 });
  assert.ok((await flood(stream, () => `400\r\n${'x'.repeat(1024)}\r\n`)) < 4 * 2 ** 20, 'nobody takes it');
});

test('a head without end is refused after 16 KiB', async () => {
  const { answer, stream } = ask();
  stream.write('HTTP/1.1 200 OK\r\n');
  let count = 0;
  const sent = flood(stream, () => `x-${++count}: ${'y'.repeat(100)}\r\n`);
  await assert.rejects(answer);
  assert.ok((await sent) < 4 * 2 ** 20);
});

test('interim answers without end are refused', async () => {
  const { answer, stream } = ask();
  const sent = flood(stream, () => 'HTTP/1.1 102 Processing\r\n\r\n');
  await assert.rejects(answer, /interim/);
  assert.ok((await sent) < 4 * 2 ** 20);
});

test('what is no HTTP, and an upgrade nobody asked for, end the request', async () => {
  for (const text of ['\0\0\0\0\r\n\r\n', 'HTTP/9.9 what\r\n\r\n', 'HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n']) {
    const { answer, stream } = ask();
    stream.write(text);
    await assert.rejects(answer, Error, text);
  }
  const { answer, stream } = ask();
  stream.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n');
  assert.deepEqual(await answer, { status: 101 });
});

test('an app that never answers, or closes, ends with the caller or at once', async () => {
  const silent = ask();
  silent.stream.write('HTTP/1.1 2');
  silent.stop.abort(new Error('the time is over'));
  await assert.rejects(silent.answer);
  const closing = ask();
  closing.stream.end();
  await assert.rejects(closing.answer);
});
