/**
 * The Dockerfile contract, as docs/IMAGES.md tells it: what the builder machine makes of the features that Dockerfiles use,
 * and where bases come from. One large build has most of it; a row that does not hold fails its step, which names it. The
 * network and its registry are the test's own.
 */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { loadConfig } from '../../src/config.ts';
import type { Egress } from '../../src/engine/index.ts';
import { findRuntime } from '../../src/engine/load-runtime.ts';
import { ADDRESSES, createTestNetwork, networkSkip, type TestNetwork } from '../support/network.ts';
import { PASSWORD, REGISTRY_PORT, startRegistry, type TestRegistry, TOKEN, tarOf, USER } from '../support/registry.ts';
import { type Built, openRemoteEngine, type RemoteEngine } from '../support/remote-engine.ts';

const { cacheDir } = loadConfig({}, process.env);
const skip = findRuntime(cacheDir)?.gateway === undefined ? 'set-up has not run: no gateway' : networkSkip();

const labels = { principal: 'arn:aws:iam::000000000000:user/test', imageArn: 'arn:test', imageVersion: '1.0' };
const INTERNET: Egress = {
  policy: { rules: [{ id: 'inet', kind: 'internet', protocols: ['tcp'], ports: [[1, 65_535]] }], dns: 'open' },
  labels,
};
const REGISTRY = `registry.example.com:${REGISTRY_PORT}`;
const TOKENS = `token.example.com:${REGISTRY_PORT}`;
const CLOSED = `closed.example.com:${REGISTRY_PORT}`;

const matrix = (digest: string) => `# syntax=docker/dockerfile:1
# check=skip=all
ARG BASE=debian:trixie-slim
FROM ${REGISTRY}/open/small:1 AS by-tag
FROM ${REGISTRY}/open/small@${digest} AS by-digest
FROM ${REGISTRY}/basic/small:1 AS by-password
FROM ${TOKENS}/bearer/small:1 AS by-token
FROM hello:1 AS by-mirror
FROM our-base AS by-alias

FROM --platform=$BUILDPLATFORM \${BASE} AS tools
ARG GREETING=hello
ENV WHOM=world UNSET=
WORKDIR /made
WORKDIR here
RUN <<EOF
set -e
echo "$GREETING $WHOM from $(pwd)" > said
EOF
COPY <<"LITERAL" /literal.txt
$NOT_EXPANDED
LITERAL
ONBUILD ENV TRIGGERED=yes

FROM tools AS final
ARG TARGETARCH
COPY --from=tools /made/here/said /from/stage
COPY --from=by-tag /small.txt /from/tag
COPY --from=by-digest /small.txt /from/digest
COPY --from=by-password /small.txt /from/password
COPY --from=by-token /small.txt /from/token
COPY --from=by-mirror /small.txt /from/mirror
COPY --from=by-alias /small.txt /from/alias
COPY --from=${REGISTRY}/open/other:1 /small.txt /from/image
COPY --chown=1234:2345 --chmod=640 owned.txt /owned.txt
COPY --link linked.txt /link/
COPY --exclude=*.md docs/ /docs/
ADD packed.tar.gz /unpacked/
ADD --chmod=600 http://www.example.com/page /page
COPY . /context/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch --mount=type=bind,source=linked.txt,target=/bound \\
    --mount=type=secret,id=optional <<EOF
set -eu
row() { name=$1; shift; if "$@"; then echo "row ok: $name"; else echo "row failed: $name: $*"; exit 1; fi; }
row multi-stage grep -qx 'hello world from /made/here' /from/stage
for from in tag digest password token mirror alias image; do row "FROM by $from" grep -qx 'small for amd64' /from/$from; done
row heredoc grep -qxF '$NOT_EXPANDED' /literal.txt
row COPY-chown test "$(stat -c '%u:%g %a' /owned.txt)" = '1234:2345 640'
row COPY-link grep -qx linked /link/linked.txt
row COPY-exclude test "$(ls /docs)" = kept.txt
row ADD-tar grep -qx packed /unpacked/inside.txt
row ADD-url grep -q '^internet www.example.com' /page
row ADD-chmod test "$(stat -c %a /page)" = 600
row dockerignore test "$(cd /context; find . -type f | sort | tr '\\n' ' ')" = './docs/kept.txt ./docs/left.md ./kept.log ./linked.txt ./owned.txt ./packed.tar.gz '
row ENV test "$WHOM$UNSET" = world
row ARG test "$GREETING" = hello
row TARGETARCH test "$TARGETARCH" = amd64
row ONBUILD test "$TRIGGERED" = yes
row SHELL test -n "$BASH_VERSION"
row tmpfs test "$(stat -f -c %T /scratch)" = tmpfs
row bind grep -qx linked /bound
row no-secret test ! -e /run/secrets/optional
row certificates grep -qx TUlJ "$SSL_CERT_FILE"
echo kept > /cache/between-builds
EOF
USER 1234:2345
RUN ["/bin/sh", "-c", "test \\"$(id -u):$(id -g)\\" = 1234:2345 && echo row ok: USER, exec form"]
EXPOSE 8080 9090/tcp 5353/udp
LABEL a=b
HEALTHCHECK CMD true
STOPSIGNAL SIGINT
VOLUME /data
WORKDIR /work
ENTRYPOINT ["python3", "-c"]
CMD ["print(1)"]
`;

describe('the Dockerfile contract', { skip }, () => {
  const stack = new AsyncDisposableStack();
  let network: TestNetwork;
  let registry: TestRegistry;
  let engine: RemoteEngine;
  let root: string;

  before(async () => {
    root = await mkdtemp(path.join(tmpdir(), 'rk-dockerfile-'));
    stack.defer(() => rm(root, { recursive: true, force: true }));
    const at = [ADDRESSES.internet];
    const names = { 'registry.example.com': at, 'token.example.com': at, 'closed.example.com': at };
    network = stack.use(await createTestNetwork({ names }));
    registry = await startRegistry(stack, network.internet);
    const registriesFile = path.join(root, 'registries.json');
    const registries = {
      'docker.io': { mirrors: [`${REGISTRY}/hub`] },
      [REGISTRY]: { http: true, username: USER, password: PASSWORD },
      [TOKENS]: { http: true, token: TOKEN },
      [CLOSED]: { http: true },
    };
    const aliases = { 'our-base': `${REGISTRY}/open/ours:1`, 'python:3.12': 'python:3.13' };
    const certificate = '-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n';
    await writeFile(path.join(root, 'ca.pem'), certificate);
    await writeFile(registriesFile, JSON.stringify({ registries, aliases, certificates: 'ca.pem' }), { mode: 0o600 });
    const stateDir = path.join(root, 'state');
    const settings = { upstreams: [`${ADDRESSES.internet}:53`] };
    engine = stack.use(await openRemoteEngine(network.host, { stateDir, network: settings, registriesFile }));
  });
  after(() => stack.disposeAsync());

  function build(files: Readonly<Record<string, string | Buffer>>, egress: Egress | null = INTERNET): Promise<Built> {
    const encoded = Object.entries(files).map(([name, text]) => [name, Buffer.from(text).toString('base64')]);
    return engine.buildContext(Object.fromEntries(encoded), egress);
  }

  test('every feature does what the documentation says, and bases come from registries in every way', async () => {
    const { log, config } = await build({
      Dockerfile: matrix(registry.digest),
      '.dockerignore': 'Dockerfile\n.dockerignore\n*.log\n!kept.log\nsecret/\n',
      'ignored.log': 'x',
      'kept.log': 'x',
      'secret/key': 'x',
      'owned.txt': 'owned\n',
      'linked.txt': 'linked\n',
      'docs/kept.txt': 'x',
      'docs/left.md': 'x',
      'packed.tar.gz': gzipSync(tarOf('inside.txt', 'packed\n')),
    });
    assert.ok(config !== null, log);
    const rows = new Set([...log.matchAll(/^#\d+ [\d.]+ row ok: (.+)$/gm)].map(([, row]) => row));
    assert.equal(rows.size, 26, log);
    assert.deepEqual(config, {
      entrypoint: ['python3', '-c'],
      cmd: ['print(1)'],
      env: [
        'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        'WHOM=world',
        'UNSET=',
        'TRIGGERED=yes',
      ],
      workingDir: '/work',
      user: '1234:2345',
      exposedPorts: [8080, 9090],
    });
    const { requests } = registry;
    assert.ok(
      requests.some((line) => line.includes(' /v2/hub/library/hello/')),
      requests.join('\n'),
    );
    for (const secret of [PASSWORD, TOKEN, Buffer.from(`${USER}:${PASSWORD}`).toString('base64')]) {
      assert.ok(!log.includes(secret) && !engine.log().includes(secret), 'no credential is in a log');
    }
  });

  test('commands in shell form use SHELL, cache mounts are kept, managed bases and dnf need no network', async () => {
    const dockerfile = [
      'FROM python:3.12',
      'RUN --mount=type=cache,target=/cache cat /cache/between-builds && python -V && pip --version',
      'RUN dnf install -y python3 python3-pip && dnf clean all',
      'SHELL ["/bin/bash", "-ec"]',
      'ENTRYPOINT exec python3 app.py',
      'CMD ignored by docker',
    ];
    const { log, config } = await build({ Dockerfile: dockerfile.join('\n') }, null);
    assert.ok(config !== null, log);
    for (const said of [/ kept\n/, / Python 3\.13/, / Package python3-pip is already installed\./]) {
      assert.match(log, said);
    }
    assert.deepEqual(config.entrypoint, ['/bin/bash', '-ec', 'exec python3 app.py']);
    assert.deepEqual(config.cmd, ['/bin/bash', '-ec', 'ignored by docker']);
  });

  test('a file that changed is noticed by its content: its size and time may be what they were', async () => {
    for (const version of ['1.2.3', '1.2.4']) {
      const dockerfile = 'FROM python:3.12\nCOPY version .\nRUN cat version\n';
      const { log } = await build({ Dockerfile: dockerfile, version: `row ok: ${version}\n` }, null);
      assert.match(log, new RegExp(`row ok: ${version}`));
    }
  });

  const refused: { name: string; dockerfile: string; says: RegExp; egress?: null }[] = [
    { name: 'a name nobody has', dockerfile: `FROM ${REGISTRY}/open/none:1`, says: /open\/none:1 does not exist/ },
    {
      name: 'missing credentials',
      dockerfile: `FROM ${CLOSED}/basic/small:1`,
      says: /refuses it: it wants credentials/,
    },
    {
      name: 'another processor',
      dockerfile: `FROM ${REGISTRY}/open/arm:1`,
      says: /has nothing for linux\/amd64/,
    },
    {
      name: 'no egress',
      dockerfile: `FROM ${REGISTRY}/open/away:1`,
      says: /cannot be reached from this build/,
      egress: null,
    },
    {
      name: 'a secret that is required',
      dockerfile: 'FROM debian:13\nRUN --mount=type=secret,id=token,required=true true',
      says: /builds have no secrets/,
      egress: null,
    },
  ];
  for (const [index, { name, dockerfile, says, egress = INTERNET }] of refused.entries()) {
    // A build takes 20 s; how each is worded is tested in agent/cmd/build.
    const isLeftOut = index > 0 && process.env.REKINDLE_LONG_TESTS !== '1' && 'REKINDLE_LONG_TESTS=1 runs it';
    test(`${name} is refused with what to do`, { skip: isLeftOut }, async () => {
      const { log, config } = await build({ Dockerfile: dockerfile }, egress);
      assert.equal(config, null);
      assert.match(log, new RegExp(`^\\[builder\\] .*${says.source}`, 'm'));
    });
  }

  test('the documentation names every row', async () => {
    const text = await readFile(path.join(import.meta.dirname, '../../docs/IMAGES.md'), 'utf8');
    for (const [, row = ''] of matrix('').matchAll(/^row (\S+)/gm)) {
      assert.ok(text.includes(`row \`${row}\``), `docs/IMAGES.md says nothing of ${row}`);
    }
  });
});
