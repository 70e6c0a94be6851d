/** A small STS for tests: answers AssumeRole over real HTTP, in the query protocol, and notes what it was asked. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';

export interface TestSts extends AsyncDisposable {
  readonly endpoint: string;
  /** Parameters of each request, and the access key that signed it. */
  readonly asked: readonly { readonly parameters: Readonly<Record<string, string>>; readonly signedBy: string }[];
  /** Instead of credentials, until the result is disposed. */
  answer(how: (response: ServerResponse) => void): Disposable;
}

/** Credentials number n: `ASIASTSn`, `sts-secret-n`, `sts-token-n`, the last two with the `nonce` before the number if there is one. */
export async function serveTestSts(options: { now?: () => number; nonce?: string } = {}): Promise<TestSts> {
  const asked: TestSts['asked'][number][] = [];
  let special: ((response: ServerResponse) => void) | undefined;
  const now = options.now ?? (() => Date.now());
  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    const parameters = Object.fromEntries(new URLSearchParams(await text(request)));
    const signedBy =
      /Credential=([^/]+)\/\d{8}\/[^/]+\/sts\//.exec(request.headers.authorization ?? '')?.[1] ?? 'nobody';
    asked.push({ parameters, signedBy });
    if (special !== undefined) return special(response);
    const expiration = new Date(now() + Number(parameters.DurationSeconds) * 1000).toISOString();
    const n = asked.length;
    const name = options.nonce === undefined ? n : `${options.nonce}-${n}`;
    response.setHeader('content-type', 'text/xml');
    response.end(
      `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>` +
        `<AccessKeyId>ASIASTS${n}</AccessKeyId><SecretAccessKey>sts-secret-${name}</SecretAccessKey>` +
        `<SessionToken>sts-token-${name}</SessionToken><Expiration>${expiration}</Expiration></Credentials>` +
        `<AssumedRoleUser><AssumedRoleId>AROA:x</AssumedRoleId><Arn>arn:aws:sts::000000000000:assumed-role/x/x</Arn></AssumedRoleUser>` +
        `</AssumeRoleResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></AssumeRoleResponse>`,
    );
  };
  const server = createServer((request, response) => void handle(request, response).catch(() => response.destroy()));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    answer: (how) => {
      special = how;
      return {
        [Symbol.dispose]: () => {
          special = undefined;
        },
      };
    },
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** An error as an STS words it. */
export function refuseWith(code: string, status: number): (response: ServerResponse) => void {
  return (response) => {
    response.statusCode = status;
    response.setHeader('content-type', 'text/xml');
    response.end(
      `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>${code}</Code>` +
        `<Message>User: arn:aws:iam::1:user/very-private is not authorized</Message></Error><RequestId>r</RequestId></ErrorResponse>`,
    );
  };
}
