/** Requests to a microVM's own HTTPS endpoint, with a token and the local authority trusted. */
import { lookup } from 'node:dns';
import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';
import { isIP, type LookupFunction } from 'node:net';
import { getCACertificates } from 'node:tls';
import type { LambdaMicrovms } from '@aws-sdk/client-lambda-microvms';
import { CliError } from './exit.ts';

export interface EndpointRequest {
  readonly url: string;
  readonly method?: string | undefined;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Buffer | undefined;
  readonly ca?: string | undefined;
  readonly agent?: Agent;
  readonly signal?: AbortSignal | undefined;
}

/** The header map that opens `ports` of a microVM; all ports when none is named. */
export async function tokenHeaders(
  client: LambdaMicrovms,
  microvmId: string,
  options: { port?: number | undefined; minutes: number },
): Promise<Record<string, string>> {
  const { authToken } = await client.createMicrovmAuthToken({
    microvmIdentifier: microvmId,
    expirationInMinutes: options.minutes,
    allowedPorts: [options.port === undefined ? { allPorts: {} } : { port: options.port }],
  });
  if (authToken === undefined) throw new CliError('The server gave no token.');
  const headers = { ...authToken };
  if (options.port !== undefined) headers['X-aws-proxy-port'] = String(options.port);
  return headers;
}

/** Resolves with the answer's head; the body is the caller's to read. */
export function send(options: EndpointRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const sent = request(options.url, {
      method: options.method ?? 'GET',
      headers: { ...options.headers },
      ...(options.agent === undefined ? reach(options.ca) : { agent: options.agent }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    sent.once('response', resolve).once('error', reject);
    sent.end(options.body);
  });
}

/** A keep-alive client for one authority. */
export function endpointAgent(ca: string | undefined): Agent {
  return new Agent({ keepAlive: true, ...reach(ca) });
}

/** How connections to endpoints are made: the local authority is trusted beside the usual ones, names are looked up. */
export function reach(ca: string | undefined): { ca: string[]; lookup: LookupFunction } {
  const trusted = getCACertificates('default');
  return { ca: ca === undefined ? trusted : [...trusted, ca], lookup: lookupEndpoint };
}

/** Names below `localhost` are this host's (RFC 6761), which not every system's resolver knows. */
const lookupEndpoint: LookupFunction = (name, options, callback) => {
  if (isIP(name) !== 0 || !name.endsWith('.localhost')) return void lookup(name, options, callback);
  if (options.all === true) callback(null, [{ address: '127.0.0.1', family: 4 }]);
  else callback(null, '127.0.0.1', 4);
};
