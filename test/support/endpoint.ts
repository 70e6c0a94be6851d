/** Requests to a microVM's own HTTPS endpoint, as its user would make them: CA trusted, token in the header. */
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';
import type { TestServer } from './server.ts';

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
  /** From sending to the first byte of the body or the end of the headers. */
  readonly firstByteMs: number;
}

export interface EndpointClient extends Disposable {
  get(path: string, options?: { port?: number; token?: string; timeoutMs?: number }): Promise<Answer>;
}

/** A client for one microVM with a token for `ports`. */
export async function endpointClient(
  server: TestServer,
  microvm: { readonly microvmId: string; readonly endpoint: string },
  ports: readonly number[] = [8080],
): Promise<EndpointClient> {
  const { authToken } = await server.microvms.createMicrovmAuthToken({
    microvmIdentifier: microvm.microvmId,
    expirationInMinutes: 60,
    allowedPorts: ports.map((port) => ({ port })),
  });
  const ca = readFileSync(server.env.NODE_EXTRA_CA_CERTS ?? '');
  const agent = server.relay?.https(ca) ?? new Agent({ ca, keepAlive: true });
  return {
    get: (path, options = {}) =>
      new Promise((resolve, reject) => {
        const startedAt = performance.now();
        const headers: Record<string, string> = { ...authToken };
        if (options.token !== undefined) headers['X-aws-proxy-auth'] = options.token;
        if (options.port !== undefined) headers['X-aws-proxy-port'] = String(options.port);
        const call = request(`https://${microvm.endpoint}${path}`, {
          agent,
          headers,
          timeout: options.timeoutMs ?? 60_000,
        });
        call.on('timeout', () => call.destroy(new Error(`no answer from ${microvm.endpoint}${path}`)));
        call.on('error', reject);
        call.on('response', (response) => {
          const firstByteMs = performance.now() - startedAt;
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('error', reject);
          response.on('end', () =>
            resolve({
              status: response.statusCode ?? 0,
              headers: response.headers,
              body: Buffer.concat(chunks).toString(),
              firstByteMs,
            }),
          );
        });
        call.end();
      }),
    [Symbol.dispose]: () => agent.destroy(),
  };
}
