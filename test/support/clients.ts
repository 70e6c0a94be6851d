/** The official clients behind one face: a call by the operation's name, its output or its error. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import * as logsSdk from '@aws-sdk/client-cloudwatch-logs';
import * as sdk from '@aws-sdk/client-lambda-microvms';
import { type ApiBench, credentials, region } from './api-bench.ts';

export type Service = 'lambda-microvms' | 'lambda-core' | 'logs';

export interface Call {
  readonly service: Service;
  readonly operation: string;
  readonly params: Readonly<Record<string, unknown>>;
  /** Through the client's paginator, all pages of this many items put together. */
  readonly pageSize?: number;
}

export type Outcome =
  | { readonly output: Readonly<Record<string, unknown>> }
  | { readonly error: { readonly name: string; readonly message: string } };

export interface Client extends AsyncDisposable {
  readonly speaks: readonly Service[];
  call(call: Call): Promise<Outcome>;
}

interface AnyCommandClass {
  new (input: unknown): Parameters<sdk.LambdaMicrovmsClient['send']>[0];
}
type Paginate = (config: { client: unknown; pageSize: number }, input: unknown) => AsyncIterable<{ items?: unknown[] }>;

export function jsClient(bench: ApiBench): Client {
  const client = bench.client();
  const endpoint = `http://127.0.0.1:${bench.apiPort}`;
  const logs = new logsSdk.CloudWatchLogsClient({ region, endpoint, credentials, maxAttempts: 1 });
  return {
    // There is no package of lambda-core for JavaScript.
    speaks: ['lambda-microvms', 'logs'],
    call: async ({ service, operation, params, pageSize }) => {
      const named = (service === 'logs' ? logsSdk : sdk) as unknown as Readonly<Record<string, unknown>>;
      try {
        if (service === 'logs') {
          const Command = named[`${operation}Command`] as new (input: unknown) => logsSdk.FilterLogEventsCommand;
          const { $metadata: _, ...output } = await logs.send(new Command(params));
          return { output };
        }
        if (pageSize === undefined) {
          const Command = named[`${operation}Command`] as AnyCommandClass;
          const { $metadata: _, ...output } = (await client.send(new Command(params))) as { $metadata: unknown };
          return { output };
        }
        const items: unknown[] = [];
        const paginate = named[`paginate${operation}`] as Paginate;
        for await (const page of paginate({ client, pageSize }, params)) items.push(...(page.items ?? []));
        return { output: { items } };
      } catch (error) {
        if (!(error instanceof Error)) throw error;
        return { error: { name: error.name, message: error.message } };
      }
    },
    [Symbol.asyncDispose]: async () => {
      client.destroy();
      logs.destroy();
    },
  };
}

/** What the Python clients find the bench by. */
export function environmentOf(bench: ApiBench): Record<string, string> {
  const endpoint = `http://127.0.0.1:${bench.apiPort}`;
  return {
    PATH: process.env.PATH ?? '',
    HOME: process.env.TMPDIR ?? '/tmp',
    AWS_ACCESS_KEY_ID: credentials.accessKeyId,
    AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
    AWS_REGION: region,
    AWS_DEFAULT_REGION: region,
    AWS_ENDPOINT_URL_LAMBDA_MICROVMS: endpoint,
    AWS_ENDPOINT_URL_LAMBDA_CORE: endpoint,
    AWS_ENDPOINT_URL_CLOUDWATCH_LOGS: endpoint,
    AWS_ENDPOINT_URL_S3: `http://127.0.0.1:${bench.s3Port}`,
    AWS_EC2_METADATA_DISABLED: 'true',
    AWS_CONFIG_FILE: '/nonexistent',
    AWS_SHARED_CREDENTIALS_FILE: '/nonexistent',
    AWS_PAGER: '',
    PYTHONDONTWRITEBYTECODE: '1',
    PYTHONWARNINGS: 'ignore',
  };
}

export function pythonClient(bench: ApiBench, python: string, kind: 'boto3' | 'cli'): Client {
  const child = spawn(python, [join(import.meta.dirname, '../contract/python_driver.py'), kind], {
    env: environmentOf(bench),
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout });
  return {
    speaks: ['lambda-microvms', 'lambda-core', 'logs'],
    call: async (call) => {
      child.stdin.write(`${JSON.stringify(call)}\n`);
      return JSON.parse(await nextLine(lines, child)) as Outcome;
    },
    [Symbol.asyncDispose]: async () => {
      child.stdin.end();
      if (child.exitCode === null) await once(child, 'exit');
    },
  };
}

async function nextLine(lines: Interface, child: ChildProcess): Promise<string> {
  const controller = new AbortController();
  const { signal } = controller;
  try {
    const ended = once(child, 'exit', { signal }).then(() => {
      throw new Error('the Python client ended before it answered');
    });
    ended.catch(() => {});
    const [line] = (await Promise.race([once(lines, 'line', { signal }), ended])) as [string];
    return line;
  } finally {
    controller.abort();
  }
}
