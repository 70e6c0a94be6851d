/** The same scenarios through the JavaScript SDK, boto3 and the AWS CLI, over the real rooms and the fake VMM. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setUpPythonClients } from '../../scripts/testing/python-clients.ts';
import { type ApiBench, createApiBench } from '../support/api-bench.ts';
import { type Client, jsClient, pythonClient } from '../support/clients.ts';
import { playScenario, type Scenario, servicesOf } from '../support/scenario.ts';

const python = await setUpPythonClients({
  env: process.env,
  signal: AbortSignal.timeout(240_000),
  say: (line) => process.stderr.write(`test: ${line}\n`),
});
const path = python.kind === 'ready' ? python.python : '';
const clients: Readonly<Record<string, (bench: ApiBench) => Client>> = {
  'the JavaScript SDK': jsClient,
  boto3: (bench) => pythonClient(bench, path, 'boto3'),
  'the AWS CLI': (bench) => pythonClient(bench, path, 'cli'),
};

for (const file of globSync(join(import.meta.dirname, 'scenarios/*.json')).sort()) {
  const scenario = JSON.parse(readFileSync(file, 'utf8')) as Scenario;
  for (const [name, open] of Object.entries(clients)) {
    const isScript = name === 'the JavaScript SDK';
    const noPackage = isScript && servicesOf(scenario).has('lambda-core') && 'there is no lambda-core package';
    const noPython = !isScript && python.kind === 'missing' && python.reason;
    test(`${scenario.name}, through ${name}`, { skip: noPackage || noPython }, async () => {
      await using bench = await createApiBench({ limits: scenario.limits ?? {} });
      await using client = open(bench);
      await playScenario(scenario, client);
    });
  }
}
