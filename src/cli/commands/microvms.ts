/** `rekindle run, ls, url, curl, suspend, resume, rm, logs`: one microVM from launch to end. */
import type { MicrovmItem } from '@aws-sdk/client-lambda-microvms';
import type { Environment } from '../../config.ts';
import { getExtension } from '../clients.ts';
import { send, tokenHeaders } from '../endpoint.ts';
import { CliError, EXIT } from '../exit.ts';
import { type CommonOptions, imageArnOf, openSession, waitForState } from '../session.ts';
import { readCa } from '../target.ts';
import { shellQuoted, table } from '../terminal.ts';
import { connectorArnOf, managedConnectorArn } from './connectors.ts';

/** Bounds waiting for a state; a launch on a loaded machine may take its time. */
const WAIT_MS = 120_000;

export interface RunOptions extends CommonOptions {
  readonly imageVersion?: string;
  /** False: no idle policy at all. */
  readonly idle?: string | false;
  readonly suspendedFor?: string;
  readonly autoResume?: boolean;
  readonly maxDuration?: string;
  readonly payload?: string;
  /** Names, ids or ARNs. */
  readonly egress?: readonly string[];
  readonly shell?: boolean;
  readonly wait?: boolean;
}

export async function runMicrovm(image: string, options: RunOptions, env: Environment): Promise<void> {
  const idleSeconds = options.idle === false ? undefined : wholeNumber('--idle', options.idle);
  const maximum = wholeNumber('--max-duration', options.maxDuration);
  const { client, target, terminal } = await openSession(options, env);
  const egress = await Promise.all((options.egress ?? []).map((connector) => connectorArnOf(target, connector)));
  const started = await client.runMicrovm({
    imageIdentifier: imageArnOf(target, image),
    executionRoleArn: target.executionRoleArn,
    ...(options.imageVersion === undefined ? {} : { imageVersion: options.imageVersion }),
    ...(options.payload === undefined ? {} : { runHookPayload: options.payload }),
    ...(egress.length === 0 ? {} : { egressNetworkConnectors: egress }),
    ...(options.shell === true && {
      ingressNetworkConnectors: ['HTTP_INGRESS', 'SHELL_INGRESS'].map((name) => managedConnectorArn(target, name)),
    }),
    ...(maximum === undefined ? {} : { maximumDurationInSeconds: maximum }),
    ...(idleSeconds === undefined
      ? {}
      : {
          idlePolicy: {
            maxIdleDurationSeconds: idleSeconds,
            suspendedDurationSeconds: wholeNumber('--suspended-for', options.suspendedFor) ?? 28_800,
            autoResumeEnabled: options.autoResume !== false,
          },
        }),
  });
  const microvmId = started.microvmId ?? '';
  let { state = 'PENDING', endpoint = '' } = started;
  if (options.wait !== false)
    ({ state, endpoint } = await waitForState(client, microvmId, ['RUNNING'], { timeoutMs: WAIT_MS }));
  terminal.json({ microvmId, state, endpoint, url: `https://${endpoint}` });
  terminal.note(`${state} at https://${endpoint}; try: rekindle curl ${microvmId} /`);
  terminal.say(microvmId);
}

export async function listMicrovms(
  options: CommonOptions & { readonly all?: boolean },
  env: Environment,
): Promise<void> {
  const { client, terminal } = await openSession(options, env);
  const items: MicrovmItem[] = [];
  let nextToken: string | undefined;
  do {
    const page = await client.listMicrovms({ ...(nextToken === undefined ? {} : { nextToken }) });
    items.push(...(page.items ?? []).filter((item) => options.all === true || item.state !== 'TERMINATED'));
    nextToken = page.nextToken;
  } while (nextToken !== undefined);
  terminal.json(items);
  const rows = items.map((item) => [
    item.microvmId ?? '',
    item.state ?? '',
    `${(item.imageArn ?? '').split(':').at(-1)} ${item.imageVersion ?? ''}`,
    item.startedAt?.toISOString() ?? '',
  ]);
  terminal.say(
    rows.length === 0
      ? 'No microVMs. Start one: rekindle run <image>'
      : table(['ID', 'STATE', 'IMAGE', 'STARTED'], rows),
  );
}

export async function printUrl(
  microvmId: string,
  options: CommonOptions & { readonly token?: boolean; readonly port?: string; readonly minutes?: string },
  env: Environment,
): Promise<void> {
  const { client, target, terminal } = await openSession(options, env);
  const { endpoint } = await client.getMicrovm({ microvmIdentifier: microvmId });
  const url = `https://${endpoint}`;
  if (options.token !== true) {
    terminal.json({ microvmId, url });
    terminal.say(url);
    return;
  }
  const headers = await tokenHeaders(client, microvmId, {
    port: wholeNumber('--port', options.port),
    minutes: wholeNumber('--minutes', options.minutes) ?? 60,
  });
  terminal.json({ microvmId, url, headers, caFile: target.caFile ?? null });
  const flags = Object.entries(headers).map(([name, value]) => `-H ${shellQuoted(`${name}: ${value}`)}`);
  const ca = target.caFile === undefined ? [] : [`--cacert ${shellQuoted(target.caFile)}`];
  terminal.say(['curl', ...ca, ...flags, url].join(' '));
}

export interface CurlOptions extends CommonOptions {
  readonly request?: string;
  readonly header?: readonly string[];
  readonly data?: string;
  readonly port?: string;
  readonly include?: boolean;
}

/** Like curl, token and authority taken care of. Exit code 1 when the answer is an error. */
export async function curl(microvmId: string, path: string, options: CurlOptions, env: Environment): Promise<void> {
  if (!path.startsWith('/')) throw new CliError(`A path begins with "/", not "${path}".`, EXIT.usage);
  const own = parseHeaders(options.header ?? []);
  const { client, target, terminal } = await openSession(options, env);
  const [{ endpoint }, token] = await Promise.all([
    client.getMicrovm({ microvmIdentifier: microvmId }),
    tokenHeaders(client, microvmId, { port: wholeNumber('--port', options.port), minutes: 5 }),
  ]);
  const response = await send({
    url: `https://${endpoint}${path}`,
    method: options.request ?? (options.data === undefined ? 'GET' : 'POST'),
    headers: { ...own, ...token },
    body: options.data,
    ca: readCa(target),
  });
  const { statusCode: status = 0, statusMessage, headers, rawHeaders } = response;
  if (terminal.isJson) {
    const { text } = await import('node:stream/consumers');
    terminal.json({ status, headers, body: await text(response) });
  } else {
    if (options.include === true) await terminal.raw(headOf(status, statusMessage ?? '', rawHeaders));
    for await (const chunk of response) await terminal.raw(chunk);
  }
  if (status >= 400)
    throw new CliError(`${microvmId} answered ${status} ${statusMessage ?? ''}${adviceFor(status)}`.trim());
}

function headOf(status: number, message: string, rawHeaders: readonly string[]): string {
  let head = `HTTP/1.1 ${status} ${message}\n`;
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) head += `${rawHeaders[i]}: ${rawHeaders[i + 1]}\n`;
  return `${head}\n`;
}

function adviceFor(status: number): string {
  return status === 502
    ? ': nothing listens on that port, the app is gone, or it is suspended without auto-resume'
    : '';
}

export async function suspendMicrovm(
  microvmId: string,
  options: CommonOptions & { readonly wait?: boolean },
  env: Environment,
): Promise<void> {
  const { client, terminal } = await openSession(options, env);
  await client.suspendMicrovm({ microvmIdentifier: microvmId });
  const settled = options.wait !== false;
  if (settled) await waitForState(client, microvmId, ['SUSPENDED'], { timeoutMs: WAIT_MS });
  terminal.json({ microvmId, state: settled ? 'SUSPENDED' : 'SUSPENDING' });
  terminal.say(`${microvmId} is ${settled ? 'SUSPENDED' : 'SUSPENDING'}`);
}

export async function resumeMicrovm(
  microvmId: string,
  options: CommonOptions & { readonly wait?: boolean },
  env: Environment,
): Promise<void> {
  const { client, terminal } = await openSession(options, env);
  await client.resumeMicrovm({ microvmIdentifier: microvmId });
  if (options.wait !== false) await waitForState(client, microvmId, ['RUNNING'], { timeoutMs: WAIT_MS });
  const { state } = await client.getMicrovm({ microvmIdentifier: microvmId });
  terminal.json({ microvmId, state });
  terminal.say(`${microvmId} is ${state}`);
}

export async function removeMicrovms(
  microvmIds: readonly string[],
  options: CommonOptions & { readonly all?: boolean; readonly wait?: boolean },
  env: Environment,
): Promise<void> {
  if (microvmIds.length === 0 && options.all !== true) throw new CliError('Name a microVM, or give --all.', EXIT.usage);
  const { client, terminal } = await openSession(options, env);
  const ids = options.all === true ? await liveIds(client) : microvmIds;
  await Promise.all(ids.map((microvmIdentifier) => client.terminateMicrovm({ microvmIdentifier })));
  const settled = options.wait !== false;
  if (settled) await Promise.all(ids.map((id) => waitForState(client, id, ['TERMINATED'], { timeoutMs: WAIT_MS })));
  terminal.json(ids.map((microvmId) => ({ microvmId, state: settled ? 'TERMINATED' : 'TERMINATING' })));
  for (const id of ids) terminal.say(`${id} is ${settled ? 'TERMINATED' : 'TERMINATING'}`);
}

async function liveIds(client: Awaited<ReturnType<typeof openSession>>['client']): Promise<string[]> {
  const ids: string[] = [];
  let nextToken: string | undefined;
  do {
    const page = await client.listMicrovms({ ...(nextToken === undefined ? {} : { nextToken }) });
    for (const { microvmId, state } of page.items ?? []) {
      if (microvmId !== undefined && state !== 'TERMINATED') ids.push(microvmId);
    }
    nextToken = page.nextToken;
  } while (nextToken !== undefined);
  return ids;
}

export async function microvmLogs(
  microvmId: string,
  options: CommonOptions & { readonly follow?: boolean; readonly timestamps?: boolean },
  env: Environment,
): Promise<void> {
  const { target, terminal } = await openSession(options, env);
  const path = `/rekindle/v1/microvms/${encodeURIComponent(microvmId)}/logs`;
  const stream = await getExtension(target, path, options.follow === true ? { follow: 'true' } : {});
  const { createInterface } = await import('node:readline');
  // Lines, one JSON document each: with --json they are passed on as they are.
  let next = 0;
  for await (const line of createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY })) {
    if (terminal.isJson) await terminal.raw(`${line}\n`);
    else {
      const entry: { cursor: number; at: number; text: string } = JSON.parse(line);
      const missing = entry.cursor - next;
      if (missing > 0) await terminal.raw(`[rekindle] ${missing} lines ${next === 0 ? 'not kept' : 'dropped'}\n`);
      next = entry.cursor + 1;
      const time = options.timestamps === true ? `${new Date(entry.at).toISOString()} ` : '';
      await terminal.raw(`${time}${entry.text}\n`);
    }
  }
}

/** @throws CliError usage */
function wholeNumber(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,9}$/.test(text)) throw new CliError(`${flag} takes a whole number, not "${text}".`, EXIT.usage);
  return Number(text);
}

function parseHeaders(lines: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    lines.map((line) => {
      const at = line.indexOf(':');
      if (at < 1) throw new CliError(`-H takes "Name: value", not "${line}".`, EXIT.usage);
      return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    }),
  );
}
