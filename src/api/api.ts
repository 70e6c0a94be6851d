/**
 * The AWS wire of both services: one request handler, the steps of a request in reading order.
 *
 * Find the operation by path, check the signature, read the input by the table, authorise, run, write the answer by the
 * table. Every answer carries a request id; every failure has a wire form; nothing thrown leaves the handler.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { lambdaCore } from '../../spec/lambda-core.ts';
import { lambdaMicrovms } from '../../spec/lambda-microvms.ts';
import type { Identity, Principal } from '../identity/index.ts';
import { type Clock, DomainError, type Ids, type Logger, messageOf, randomIds, systemClock } from '../lib/index.ts';
import type { Logs } from '../logs/index.ts';
import { accessDenied, callerOf, demand } from './access.ts';
import { authorise, resourceOf, resourceTags } from './authorisation.ts';
import { signatureWireError, toWireError } from './errors.ts';
import { answerExtension, EXTENSION_PREFIX, isStreamed } from './extensions/index.ts';
import { isForLogs, LogsWire } from './logs/logs-wire.ts';
import { isLocalProgram } from './loopback.ts';
import type { AnyBehaviour, OperationName, Rooms } from './operation.ts';
import { behaviours } from './operations/index.ts';
import { readBody } from './read-body.ts';
import { readInput } from './read-input.ts';
import { type Match, Router } from './router.ts';
import { SigningKeys } from './signing-keys.ts';
import {
  checkSignature,
  queryPairs,
  readSignature,
  SignatureError,
  type SigningRules,
  sha256,
  splitTarget,
} from './sigv4.ts';
import { type Rates, Throttle } from './throttle.ts';
import { serializationError, WireError } from './wire-error.ts';
import { writeOutput } from './write-output.ts';

/** `off` takes every request from this host as root's, unsigned. For development only. */
export type AuthMode = 'sigv4' | 'off';

export interface ApiOptions extends Rooms {
  readonly identity: Identity;
  readonly logs: Logs;
  readonly region: string;
  readonly auth: AuthMode;
  readonly logger: Logger;
  /** What this server runs on, for `GET /rekindle/v1/host`. */
  readonly host?: () => Readonly<Record<string, unknown>>;
  /** Call rates of each principal; default none. */
  readonly rates?: Rates;
  readonly clock?: Clock;
  readonly ids?: Ids;
}

export type RequestHandler = (request: IncomingMessage, response: ServerResponse) => void;

/** The services allow five minutes between the clocks. */
const MAX_SKEW_MS = 5 * 60_000;

const NO_BODY = Buffer.alloc(0);

export function createApi(options: ApiOptions): RequestHandler {
  const api = new Api(options);
  const { logs, identity, region, auth, logger, clock = systemClock, ids = randomIds } = options;
  const logsWire = new LogsWire({ logs, identity, region, auth, logger, clock, ids });
  return (request, response) => void (isForLogs(request) ? logsWire : api).handle(request, response);
}

class Api {
  readonly #options: ApiOptions;
  readonly #clock: Clock;
  readonly #ids: Ids;
  readonly #rules: SigningRules;
  readonly #throttle: Throttle;
  readonly #router = new Router([lambdaMicrovms, lambdaCore]);

  constructor(options: ApiOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#ids = options.ids ?? randomIds;
    this.#throttle = new Throttle(options.rates ?? {}, this.#clock);
    this.#rules = {
      service: lambdaMicrovms.signingName,
      region: options.region,
      encodesPathTwice: true,
      needsExpires: false,
      maxSkewMs: MAX_SKEW_MS,
      keys: new SigningKeys(),
    };
    if (options.auth === 'off') {
      options.logger.warn({}, 'SIGNATURES ARE NOT CHECKED: whoever reaches this host may do everything (auth is off)');
    }
  }

  /** Never rejects. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const requestId = this.#ids.uuid();
    response.setHeader('x-amzn-RequestId', requestId);
    const logger = this.#options.logger.child({ requestId });
    let match: Match | undefined;
    try {
      if (request.url?.startsWith(EXTENSION_PREFIX)) return await this.#answerExtension(request, response, logger);
      match = this.#route(request);
      const answer = await this.#answer(request, match);
      if (match.operation.status === 204) response.writeHead(204).end();
      else send(response, match.operation.status, writeOutput(match.operation.output, answer, match.service));
      logger.debug({ operation: match.name, status: match.operation.status }, 'request answered');
    } catch (thrown) {
      const { error, isBug } = this.#toError(thrown, match, requestId);
      const fields = { operation: match?.name, status: error.status, type: error.type };
      if (isBug) logger.error({ ...fields, err: thrown }, 'request failed');
      else logger.debug({ ...fields, answer: error.body }, 'request refused');
      if (response.headersSent) response.destroy();
      else send(response, error.status, error.body, { ...error.headers, 'X-Amzn-Errortype': error.type });
    }
  }

  /** Rekindle's own resources: authenticated and authorised like the rest. */
  async #answerExtension(request: IncomingMessage, response: ServerResponse, logger: Logger): Promise<void> {
    const { identity, region, host = () => ({}) } = this.#options;
    const isStream = isStreamed(request.url ?? '');
    const { principal, body } = await this.#authenticate(request, { isStream });
    const caller = callerOf(request, principal, region);
    const checkOperation = async (name: 'CreateMicrovmImage', input: object) => {
      const raw = { labels: {}, query: [], body: Buffer.from(JSON.stringify(input)) };
      const checked = readInput(lambdaMicrovms.operations[name], raw);
      await authorise({ name, behaviour: behaviours[name], input: checked }, caller, this.#options);
      return { ...checked, principal: principal.arn };
    };
    const ask = (action: string, resource: string | undefined) => demand(identity, caller, { action, resource });
    const askOn = async (action: string, resource: string | undefined) => {
      const context = resource === undefined ? {} : await resourceTags(resource, this.#options);
      demand(identity, caller, { action, resource, context });
    };
    await answerExtension(
      request,
      response,
      {
        ...this.#options,
        upkeep: this.#options.images.upkeep,
        drain: this.#options.microvms,
        tokens: this.#options.microvms,
        host,
      },
      { body, ...(isStream && { content: request }), checkOperation, demand: ask, demandOn: askOn },
      logger,
    );
  }

  #route(request: IncomingMessage): Match {
    const { path } = splitTarget(request.url ?? '/');
    const match = this.#router.find(request.method ?? '', path);
    if (match !== undefined) return match;
    // GUESS: unknown-path
    const message = `No operation is bound to ${request.method} ${path.slice(0, 200)}`;
    throw new WireError('UnknownOperationException', 404, { message });
  }

  async #answer(request: IncomingMessage, match: Match): Promise<Readonly<Record<string, unknown>>> {
    const { principal, body } = await this.#authenticate(request);
    checkContentType(request, body);
    this.#throttle.take(principal.arn, match.name as OperationName);
    const raw = { labels: match.labels, query: readQuery(request), body };
    const input: unknown = readInput(match.operation, raw);
    const behaviour: AnyBehaviour = behaviours[match.name as OperationName];
    const operation = { name: match.name, behaviour, input };
    await authorise(operation, callerOf(request, principal, this.#options.region), this.#options);
    try {
      return await behaviour.run(input, this.#options, principal);
    } catch (thrown) {
      // Foreign accounts and the slash form of ARNs: the domain refuses, the service words it as IAM does (recorded).
      if (!(thrown instanceof DomainError) || thrown.code !== 'DENIED') throw thrown;
      const resource = await resourceOf(operation, this.#options);
      throw accessDenied(principal, `lambda:${match.name}`, resource, undefined, { cause: thrown });
    }
  }

  /** Unknown keys and stale requests are refused before their body is read. */
  async #authenticate(
    request: IncomingMessage,
    { isStream }: { isStream: boolean } = { isStream: false },
  ): Promise<{ principal: Principal; body: Buffer }> {
    const { identity, auth } = this.#options;
    if (auth === 'off') {
      checkLocal(request);
      return { principal: identity.root, body: isStream ? NO_BODY : await readBody(request) };
    }
    const signed = readSignature(request, { rules: this.#rules, identity, now: this.#clock.now() });
    if (isStream) {
      // What comes is held against the digest in the query, which is signed.
      const rules = { rules: this.#rules, bodyHash: 'UNSIGNED-PAYLOAD' };
      return { principal: checkSignature(request, signed, rules), body: NO_BODY };
    }
    const body = await readBody(request);
    // What the body hashes to is computed, never believed: botocore does not even send x-amz-content-sha256.
    return { principal: checkSignature(request, signed, { rules: this.#rules, bodyHash: sha256(body) }), body };
  }

  #toError(thrown: unknown, match: Match | undefined, requestId: string): { error: WireError; isBug: boolean } {
    if (thrown instanceof SignatureError) return { error: signatureWireError(thrown.refusal), isBug: false };
    if (match !== undefined) return toWireError(thrown, { ...match, requestId });
    if (thrown instanceof WireError) return { error: thrown, isBug: false };
    return { error: new WireError('InternalServerException', 500, { message: messageOf(thrown) }), isBug: true };
  }
}

/** Without signatures only this host may ask. */
function checkLocal(request: IncomingMessage): void {
  if (isLocalProgram(request)) return;
  const message = 'This server checks no signatures (auth is off) and therefore answers local programs only.';
  throw new WireError('AccessDeniedException', 403, { message });
}

/** Clients leave it out where there is no body, and botocore also otherwise. GUESS: content-type */
function checkContentType(request: IncomingMessage, body: Buffer): void {
  const type = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase();
  if (body.length === 0 || type === undefined || /^application\/([\w.-]+\+)?(json|x-amz-json-1\.[01])$/.test(type))
    return;
  throw new WireError('UnsupportedMediaTypeException', 415, {
    message: `The request body must be application/json, not ${type}.`,
  });
}

function readQuery(request: IncomingMessage): [string, string][] {
  const { query } = splitTarget(request.url ?? '/');
  // Recorded for a cursor with its padding as it is: the body says nothing. GUESS: unparsed-query
  if (/=[^&]*=/.test(query)) throw new WireError('SerializationException', 400, { message: null });
  try {
    return queryPairs(query);
  } catch {
    throw serializationError('The query is not properly percent-encoded.');
  }
}

function send(
  response: ServerResponse,
  status: number,
  body: Readonly<Record<string, unknown>>,
  headers: Readonly<Record<string, string>> = {},
): void {
  const text = JSON.stringify(body);
  response
    .writeHead(status, { ...headers, 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) })
    .end(text);
}
