/**
 * What AWS has no operation for, under Rekindle's own versioned path and never inside AWS's shapes. Signed like the rest;
 * the caller (api.ts) has authenticated the request before it comes here.
 *
 *   GET /rekindle/v1/images/{arn}/versions/{version}/build-log[?follow=true]   the build log as it was printed, text
 *   POST /rekindle/v1/images/{arn}/versions/{version}/rebuild                  the image's next version from what this one kept
 *   POST /rekindle/v1/images/{arn}/versions/{version}/reseal[?ifNeeded=true]   the same version's snapshot made anew
 *   GET /rekindle/v1/images/{arn}/versions/{version}/export                    the version as one file
 *   GET /rekindle/v1/images/{arn}/versions/{version}/provenance                how it came to be, an in-toto statement, JSON
 *   GET /rekindle/v1/images/{arn}/versions/{version}/packages                  what is installed in it, an SPDX document, JSON
 *   POST /rekindle/v1/images/import?manifest={sha256}[&name=…&egress=…]        an image's first or next version from such a file
 *   GET /rekindle/v1/disk[?image={arn}], POST /rekindle/v1/images/gc           what takes disk, and what may go (upkeep.ts)
 *   GET /rekindle/v1/microvms/{id}/logs[?follow=true&cursor=N]                 the app's output, one JSON document a line
 *   GET /rekindle/v1/microvms/{id}/flows[?follow=true&refused=true&kind=dns]   what it reached and tried to, one JSON document a line
 *   …   /rekindle/v1/network-connectors/{id}/domains                           a connector's domain list (connectors.ts)
 *   GET /rekindle/v1/host                                                      what this server runs on, JSON
 *   GET, PUT, DELETE /rekindle/v1/drain                                        whether the server is being drained, JSON
 *   POST /rekindle/v1/endpoint-token-key                                       a new key for endpoint tokens, JSON
 *   …   /rekindle/v1/identity/…                                                users, roles, keys, policies (identity.ts)
 *
 * Invariant: a stream ends when the client goes, and one that fails half way is cut, so that it can't pass for whole.
 */

import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Connectors } from '../../connectors/index.ts';
import type { Identity } from '../../identity/index.ts';
import type { CreateImageInput, Images, Upkeep } from '../../images/index.ts';
import { DomainError, type DomainErrorCode, type Logger, messageOf } from '../../lib/index.ts';
import type { FlowRecord, Microvms } from '../../microvms/index.ts';
import { WireError } from '../wire-error.ts';
import { answerDomains, DOMAINS_PATH } from './connectors.ts';
import { answerIdentity, IDENTITY_PATH } from './identity.ts';
import { answerDisk, answerGarbage, answerImport, IMPORT_PATH } from './upkeep.ts';

export const EXTENSION_PREFIX = '/rekindle/';

export interface ExtensionRooms {
  readonly images: Pick<Images, 'buildLog' | 'rebuild'>;
  readonly upkeep: Upkeep;
  readonly microvms: Pick<Microvms, 'get' | 'logs' | 'flows'>;
  readonly drain: Pick<Microvms, 'drain' | 'undrain' | 'drainStatus'>;
  readonly tokens: Pick<Microvms, 'rotateTokenKey'>;
  readonly connectors: Pick<Connectors, 'domains' | 'setDomains'>;
  readonly identity: Identity;
  /** What `/host` answers; made anew for each request. */
  readonly host: () => Readonly<Record<string, unknown>>;
}

/** Who asks, and with what. */
export interface ExtensionRequest {
  readonly body: Buffer;
  /** In place of `body` where `isStreamed`: as it comes, and no part of what was signed. */
  readonly content?: AsyncIterable<Buffer>;
  /** As if the caller sent `input` to an operation of the wire: checked by its table. @throws DomainError DENIED, WireError */
  checkOperation?(name: 'CreateMicrovmImage', input: object): Promise<CreateImageInput>;
  /** Whether policies let the caller; `undefined` for a resource that does not exist. @throws DomainError DENIED */
  demand(action: string, resource: string | undefined): void;
  /** The same, with the resource's tags for policies that ask for them. */
  demandOn(action: string, resource: string | undefined): Promise<void>;
}

interface Call {
  readonly asked: ExtensionRequest;
  readonly method: string;
  readonly response: ServerResponse;
  readonly rooms: ExtensionRooms;
  readonly labels: readonly string[];
  readonly query: URLSearchParams;
  /** Aborts when the client goes. */
  readonly signal: AbortSignal;
}

const routes: readonly {
  readonly path: RegExp;
  /** Default: GET. */
  readonly method?: 'POST' | 'any';
  run(call: Call): Promise<void>;
}[] = [
  { path: /^\/rekindle\/v1\/images\/([^/]+)\/versions\/([^/]+)\/build-log$/, run: buildLog },
  { path: /^\/rekindle\/v1\/images\/([^/]+)\/versions\/([^/]+)\/rebuild$/, method: 'POST', run: rebuild },
  { path: /^\/rekindle\/v1\/images\/([^/]+)\/versions\/([^/]+)\/export$/, run: exportVersion },
  { path: /^\/rekindle\/v1\/images\/([^/]+)\/versions\/([^/]+)\/reseal$/, method: 'POST', run: reseal },
  { path: /^\/rekindle\/v1\/images\/([^/]+)\/versions\/([^/]+)\/(provenance|packages)$/, run: provenance },
  { path: IMPORT_PATH, method: 'POST', run: importVersion },
  { path: /^\/rekindle\/v1\/images\/gc$/, method: 'POST', run: garbage },
  { path: /^\/rekindle\/v1\/disk$/, run: disk },
  { path: /^\/rekindle\/v1\/microvms\/([^/]+)\/logs$/, run: microvmLogs },
  { path: /^\/rekindle\/v1\/microvms\/([^/]+)\/flows$/, run: microvmFlows },
  { path: DOMAINS_PATH, method: 'any', run: domains },
  { path: /^\/rekindle\/v1\/host$/, run: host },
  { path: /^\/rekindle\/v1\/drain$/, method: 'any', run: drain },
  { path: /^\/rekindle\/v1\/endpoint-token-key$/, method: 'POST', run: rotateTokenKey },
  { path: IDENTITY_PATH, method: 'any', run: identity },
];

const statuses: Readonly<Record<DomainErrorCode, number>> = {
  INVALID: 400,
  DENIED: 403,
  NOT_FOUND: 404,
  CONFLICT: 409,
  QUOTA: 402,
  CAPACITY: 503,
  THROTTLED: 429,
};

/** Whether a request's body is too large to be read before it is answered. */
export function isStreamed(url: string): boolean {
  return IMPORT_PATH.test(url.split('?')[0] ?? '');
}

/** Answers an authenticated request below EXTENSION_PREFIX. Never rejects. */
export async function answerExtension(
  request: IncomingMessage,
  response: ServerResponse,
  rooms: ExtensionRooms,
  asked: ExtensionRequest,
  log: Logger,
): Promise<void> {
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  try {
    const url = new URL(request.url ?? '/', 'http://server');
    const route = routes.find(({ path }) => path.test(url.pathname));
    if (route === undefined) throw new DomainError('NOT_FOUND', `Nothing is at ${url.pathname.slice(0, 200)}.`);
    const { method = '' } = request;
    const allowed = route.method ?? 'GET';
    if (allowed !== 'any' && method !== allowed)
      return answer(response, 405, { message: `Only ${allowed} is allowed here.` });
    const labels = (route.path.exec(url.pathname) ?? []).slice(1).map((label) => decoded(label ?? ''));
    await route.run({ asked, method, response, rooms, labels, query: url.searchParams, signal: gone.signal });
  } catch (error) {
    if (gone.signal.aborted) return;
    if (response.headersSent) return void response.destroy();
    await drained(asked.content);
    if (error instanceof WireError) return answer(response, error.status, { message: messageIn(error) });
    if (error instanceof DomainError) return answer(response, statuses[error.code], { message: error.message });
    log.error({ error: messageOf(error) }, 'extension request failed');
    answer(response, 500, { message: 'Internal error.' });
  }
}

async function buildLog(call: Call): Promise<void> {
  const [arn = '', version = ''] = call.labels;
  call.asked.demand('rekindle:GetBuildLog', arn);
  const chunks = call.rooms.images.buildLog(arn, version, { follow: wantsFollow(call), signal: call.signal });
  await stream(call, 'text/plain; charset=utf-8', chunks);
}

async function rebuild({ asked, rooms, labels, response }: Call): Promise<void> {
  const [arn = '', version = ''] = labels;
  asked.demand('rekindle:RebuildMicrovmImageVersion', arn);
  const { imageArn, imageVersion, state } = await rooms.images.rebuild(arn, version);
  answer(response, 200, { imageArn, imageVersion, state });
}

async function reseal(call: Call): Promise<void> {
  const [arn = '', version = ''] = call.labels;
  call.asked.demand('rekindle:ResealMicrovmImageVersion', arn);
  answer(call.response, 200, await call.rooms.upkeep.reseal(arn, version, { ifNeeded: flag(call, 'ifNeeded') }));
}

async function exportVersion(call: Call): Promise<void> {
  const [arn = '', version = ''] = call.labels;
  call.asked.demand('rekindle:ExportMicrovmImageVersion', arn);
  const pieces = call.rooms.upkeep.exportVersion(arn, version, { signal: call.signal });
  await stream(call, 'application/octet-stream', pieces);
}

async function provenance({ asked, rooms, labels, response }: Call): Promise<void> {
  const [arn = '', version = '', what = ''] = labels;
  asked.demand('rekindle:GetMicrovmImageVersionProvenance', arn);
  const { statement, packages } = await rooms.upkeep.provenance(arn, version);
  answer(response, 200, what === 'packages' ? packages : statement);
}

async function importVersion({ asked, rooms, query, response, signal }: Call): Promise<void> {
  const { imageArn, imageVersion, state } = await answerImport({ asked, upkeep: rooms.upkeep, signal }, query);
  answer(response, 200, { imageArn, imageVersion, state });
}

async function garbage({ asked, rooms, response, signal }: Call): Promise<void> {
  answer(response, 200, await answerGarbage({ asked, upkeep: rooms.upkeep, signal }));
}

async function disk({ asked, rooms, query, response, signal }: Call): Promise<void> {
  answer(response, 200, await answerDisk({ asked, upkeep: rooms.upkeep, signal }, query.get('image') ?? undefined));
}

async function microvmLogs(call: Call): Promise<void> {
  const [id = ''] = call.labels;
  call.asked.demand('rekindle:GetMicrovmLogs', await imageOf(call, id));
  const cursor = call.query.get('cursor');
  if (cursor !== null && !/^\d{1,15}$/.test(cursor)) throw new DomainError('INVALID', 'cursor must be a whole number.');
  const lines = call.rooms.microvms.logs(id, {
    ...(cursor === null ? {} : { cursor: Number(cursor) }),
    follow: wantsFollow(call),
    signal: call.signal,
  });
  await stream(call, 'application/x-ndjson', documents(lines));
}

async function microvmFlows(call: Call): Promise<void> {
  const [id = ''] = call.labels;
  await call.asked.demandOn('lambda:GetMicrovm', await imageOf(call, id));
  const isRefused = flag(call, 'refused');
  const kind = call.query.get('kind');
  if (kind !== null && kind !== 'flow' && kind !== 'dns') throw new DomainError('INVALID', 'kind must be flow or dns.');
  const wanted = (record: FlowRecord) => {
    // That records are missing is always told.
    if (record.kind === 'suppressed') return true;
    if (kind !== null && record.kind !== kind) return false;
    return !isRefused || record.kind === 'drop' || record.verdict === 'refused';
  };
  const flows = call.rooms.microvms.flows(id, { follow: wantsFollow(call), signal: call.signal });
  await stream(call, 'application/x-ndjson', documents(filtered(flows, wanted)));
}

async function domains({ asked, method, rooms, labels, response }: Call): Promise<void> {
  const [identifier = ''] = labels;
  const { body } = asked;
  const demandOn = asked.demandOn.bind(asked);
  const list = await answerDomains({ method, identifier, body, connectors: rooms.connectors, demandOn });
  answer(response, 200, { ...list });
}

/** Like the service's operations on microVMs: authorised on the image. */
async function imageOf({ rooms }: Call, microvmId: string): Promise<string | undefined> {
  try {
    return (await rooms.microvms.get(microvmId)).imageArn;
  } catch (error) {
    if (error instanceof DomainError && error.code === 'NOT_FOUND') return undefined;
    throw error;
  }
}

async function identity({ asked, method, rooms, labels, response }: Call): Promise<void> {
  const segments = labels.filter((label) => label !== '');
  const { status, body } = await answerIdentity({ ...asked, method, segments, identity: rooms.identity });
  answer(response, status, body);
}

async function host(call: Call): Promise<void> {
  call.asked.demand('rekindle:GetHost', '*');
  answer(call.response, 200, call.rooms.host());
}

/** PUT may be said again: it also catches what was on its way when it was said first. */
async function drain({ asked, method, rooms, response }: Call): Promise<void> {
  const { drain: microvms } = rooms;
  asked.demand(method === 'GET' ? 'rekindle:GetDrain' : 'rekindle:Drain', '*');
  if (method === 'PUT') return answer(response, 200, { ...(await microvms.drain()) });
  if (method !== 'GET' && method !== 'DELETE') {
    return answer(response, 405, { message: 'Only GET, PUT and DELETE are allowed here.' });
  }
  if (method === 'DELETE') microvms.undrain();
  answer(response, 200, { ...(await microvms.drainStatus()) });
}

async function rotateTokenKey({ asked, rooms, response }: Call): Promise<void> {
  asked.demand('rekindle:RotateEndpointTokenKey', '*');
  answer(response, 200, { kid: await rooms.tokens.rotateTokenKey() });
}

function wantsFollow(call: Call): boolean {
  return flag(call, 'follow');
}

function flag({ query }: Call, name: string): boolean {
  const value = query.get(name) ?? 'false';
  if (value !== 'true' && value !== 'false') throw new DomainError('INVALID', `${name} must be true or false.`);
  return value === 'true';
}

/** The head goes out with the first piece, so that a refusal found on the way there still gets its status. */
async function stream(call: Call, contentType: string, pieces: AsyncIterable<Buffer | string>): Promise<void> {
  const { response, signal } = call;
  const begin = () => {
    if (!response.headersSent) response.writeHead(200, { 'content-type': contentType, 'cache-control': 'no-store' });
  };
  for await (const piece of pieces) {
    begin();
    if (!response.write(piece)) await once(response, 'drain', { signal });
    signal.throwIfAborted();
  }
  begin();
  response.end();
}

async function* filtered<T>(items: AsyncIterable<T>, wanted: (item: T) => boolean): AsyncIterable<T> {
  for await (const item of items) if (wanted(item)) yield item;
}

async function* documents(items: AsyncIterable<unknown>): AsyncIterable<string> {
  for await (const item of items) yield `${JSON.stringify(item)}\n`;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new DomainError('INVALID', 'The path is not properly percent-encoded.');
  }
}

/** A client that is still sending does not read an answer. The server's request timeout bounds the wait. */
async function drained(content: AsyncIterable<Buffer> = none()): Promise<void> {
  try {
    for await (const _ of content);
  } catch {}
}

async function* none(): AsyncGenerator<Buffer> {}

function messageIn({ body, type }: WireError): string {
  return typeof body.message === 'string' ? body.message : type;
}

function answer(response: ServerResponse, status: number, body: object): void {
  const text = JSON.stringify(body);
  response
    .writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
    .end(text);
}
