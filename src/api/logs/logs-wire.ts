/**
 * CloudWatch Logs over the API port: signature, input by the table, authorisation, behaviour, answer. Official SDKs and
 * `aws logs tail` read with it what builds and apps have printed.
 *
 * Every answer carries a request id; nothing thrown leaves the handler.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { operations, SIGNING_NAME, TARGET_PREFIX } from '../../../spec/cloudwatch-logs.ts';
import type { Identity, Principal } from '../../identity/index.ts';
import { type Clock, DomainError, type DomainErrorCode, type Ids, type Logger } from '../../lib/index.ts';
import type { Logs } from '../../logs/index.ts';
import { callerOf, demand } from '../access.ts';
import { signatureWireError } from '../errors.ts';
import { isLocalProgram } from '../loopback.ts';
import { readBody } from '../read-body.ts';
import { readInput } from '../read-input.ts';
import { SigningKeys } from '../signing-keys.ts';
import { checkSignature, readSignature, SignatureError, type SigningRules, sha256 } from '../sigv4.ts';
import { WireError } from '../wire-error.ts';
import { writeOutput } from '../write-output.ts';
import { behaviours, type LogsCall, type LogsOperation, resourceOf } from './behaviours.ts';
import { sendLiveTail } from './live-tail.ts';

export interface LogsWireOptions {
  readonly logs: Logs;
  readonly identity: Identity;
  readonly region: string;
  /** As for `createApi`. */
  readonly auth: 'sigv4' | 'off';
  readonly logger: Logger;
  readonly clock: Clock;
  readonly ids: Ids;
}

const MAX_SKEW_MS = 5 * 60_000;

/** Whether a request of the API port is one for CloudWatch Logs. */
export function isForLogs(request: IncomingMessage): boolean {
  return String(request.headers['x-amz-target'] ?? '').startsWith(TARGET_PREFIX);
}

export class LogsWire {
  readonly #o: LogsWireOptions;
  readonly #rules: SigningRules;

  constructor(options: LogsWireOptions) {
    this.#o = options;
    this.#rules = {
      service: SIGNING_NAME,
      region: options.region,
      encodesPathTwice: true,
      needsExpires: false,
      maxSkewMs: MAX_SKEW_MS,
      keys: new SigningKeys(),
    };
  }

  /** Never rejects. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const requestId = this.#o.ids.uuid();
    response.setHeader('x-amzn-RequestId', requestId);
    const name = String(request.headers['x-amz-target']).slice(TARGET_PREFIX.length);
    try {
      if (!isOperation(name)) throw new WireError('UnknownOperationException', 400, {});
      const { principal, body } = await this.#authenticate(request);
      await this.#answer(name, { request, response, principal, body });
    } catch (thrown) {
      if (response.headersSent) return void response.destroy();
      const error = toLogsError(thrown);
      if (error.status >= 500) this.#o.logger.error({ operation: name, requestId, err: thrown }, 'request failed');
      send(response, error.status, { __type: error.type, ...error.body });
    }
  }

  async #answer(
    name: LogsOperation,
    call: { request: IncomingMessage; response: ServerResponse; principal: Principal; body: Buffer },
  ): Promise<void> {
    const { identity, region, logs, clock } = this.#o;
    const input = readInput(operations[name], { labels: {}, query: [], body: call.body });
    const caller = callerOf(call.request, call.principal, region);
    const scope = { region, account: identity.account };
    for (const resource of resourceOf(name, input, scope))
      demand(identity, caller, { action: `logs:${name}`, resource });
    const logsCall: LogsCall = { logs, clock, ...scope };
    if (name === 'StartLiveTail') return await sendLiveTail(call.response, input, logsCall);
    const output = behaviours[name](input, logsCall);
    send(call.response, 200, writeOutput(operations[name].output, output, { writesNulls: false }));
  }

  async #authenticate(request: IncomingMessage): Promise<{ principal: Principal; body: Buffer }> {
    const { identity, auth, clock } = this.#o;
    if (auth === 'off') {
      if (!isLocalProgram(request)) {
        const message = 'This server checks no signatures (auth is off) and therefore answers local programs only.';
        throw new WireError('AccessDeniedException', 403, { message });
      }
      return { principal: identity.root, body: await readBody(request) };
    }
    const signed = readSignature(request, { rules: this.#rules, identity, now: clock.now() });
    const body = await readBody(request);
    return { principal: checkSignature(request, signed, { rules: this.#rules, bodyHash: sha256(body) }), body };
  }
}

function isOperation(name: string): name is LogsOperation {
  return Object.hasOwn(operations, name);
}

const NAMES: Readonly<Record<DomainErrorCode, string>> = {
  NOT_FOUND: 'ResourceNotFoundException',
  CONFLICT: 'ResourceAlreadyExistsException',
  INVALID: 'InvalidParameterException',
  DENIED: 'AccessDeniedException',
  QUOTA: 'LimitExceededException',
  CAPACITY: 'ServiceUnavailableException',
  THROTTLED: 'ThrottlingException',
};

function toLogsError(thrown: unknown): WireError {
  if (thrown instanceof SignatureError) {
    const { type, body } = signatureWireError(thrown.refusal);
    return new WireError(type, 400, body);
  }
  // The service's other name for a broken constraint.
  if (thrown instanceof WireError && thrown.type === 'ValidationException') {
    return new WireError('InvalidParameterException', 400, thrown.body);
  }
  if (thrown instanceof WireError) return thrown;
  if (thrown instanceof DomainError) {
    return new WireError(NAMES[thrown.code], 400, { message: thrown.message });
  }
  return new WireError('ServiceUnavailableException', 500, { message: 'The service cannot complete the request.' });
}

function send(response: ServerResponse, status: number, body: Readonly<Record<string, unknown>>): void {
  const text = JSON.stringify(body);
  response
    .writeHead(status, { 'Content-Type': 'application/x-amz-json-1.1', 'Content-Length': Buffer.byteLength(text) })
    .end(text);
}
