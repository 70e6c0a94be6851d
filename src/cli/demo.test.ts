import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { RawSettings } from '../config.ts';
import { createFakeEngine, type FakeApp, type FakeEngineOptions } from '../engine/index.ts';
import { demo } from './commands/demo.ts';
import type { Terminal } from './terminal.ts';
import { startFakeServer } from './test-server.ts';

/** What examples/counter does. */
const counter: FakeApp = (guest) => (request, response) => {
  const { memory } = guest;
  if (request.url === '/count') memory.count = Number(memory.count ?? 0) + 1;
  response.end(JSON.stringify({ count: memory.count ?? 0, pid: 7, started: 1 }));
};

/** Runs the demo on fake machines and keeps what it says. */
async function runDemo(
  options: FakeEngineOptions,
): Promise<{ exitCode: number; output: string; isStopped: () => Promise<boolean> }> {
  const said: string[] = [];
  const say = (line: string) => void said.push(line);
  const terminal: Terminal = { say, note: say, json: () => {}, raw: async () => {}, isJson: false };
  let apiUrl = '';
  const start = async (flags: RawSettings) => {
    const { server } = await startFakeServer(async () => createFakeEngine({ app: counter, ...options }), flags);
    ({ apiUrl } = server);
    return server;
  };
  const exitCode = await demo({}, {}, { start, terminal });
  return {
    exitCode,
    output: said.join('\n'),
    isStopped: () =>
      fetch(apiUrl).then(
        () => false,
        () => true,
      ),
  };
}

test('the demo goes through the whole job, prints its steps with their times, and leaves nothing running', async () => {
  const { exitCode, output, isStopped } = await runDemo({ buildLog: '#1 compiled\n' });
  assert.equal(exitCode, 0, output);
  for (const words of [
    '#1 compiled',
    'CREATED',
    'count=3',
    'SUSPENDED',
    'count=4',
    'TERMINATED',
    'Nothing is left running',
  ]) {
    assert.ok(output.includes(words), `${words} in ${output}`);
  }
  assert.ok(await isStopped());
});

test('a demo whose app loses its memory fails at the step that shows it, and still cleans up', async () => {
  let count = 0;
  const forgetful: FakeApp = () => (_request, response) => {
    count++;
    response.end(JSON.stringify({ count: count - 1, pid: count < 5 ? 7 : 8, started: 1 }));
  };
  const { exitCode, output, isStopped } = await runDemo({ app: forgetful });
  assert.equal(exitCode, 1, output);
  assert.match(output, /demo failed at "wake it by the next request": the app was started anew/);
  assert.ok(await isStopped());
});
