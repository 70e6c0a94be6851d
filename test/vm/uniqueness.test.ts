/**
 * What twenty microVMs of one snapshot share and what they must not: random numbers as Python, Node and OpenSSL draw them,
 * identity, clocks. Fresh processes and the kernel are asked, since the service promises nothing for numbers a process had
 * prepared before its snapshot.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { ZipFile } from 'yazl';
import { endpointClient } from '../support/endpoint.ts';
import { buildImage, untilState } from '../support/images.ts';
import { startServer, type TestServer } from '../support/server.ts';

const CLONES = 20;
const AT_ONCE = 4;

const APP = `import http.server, json, os, secrets, subprocess, time, uuid

def run(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

def read(path):
    return open(path).read().strip()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        said = {
            "random": {
                "urandom": os.urandom(16).hex(),
                "getrandom": os.getrandom(16).hex(),
                "python secrets": secrets.token_hex(16),
                "python uuid": str(uuid.uuid4()),
                "kernel uuid": read("/proc/sys/kernel/random/uuid"),
                "python": run("python3", "-c", "import random; print(random.random())"),
                "openssl": run("openssl", "rand", "-hex", "16"),
                "node": run("/app/node", "-p", "crypto.randomUUID() + Math.random()"),
            },
            "identity": {
                "hostname": os.uname().nodename,
                "machine id": read("/etc/machine-id"),
            },
            "wallMs": int(time.time() * 1000),
            "monotonicMs": int(time.monotonic() * 1000),
        }
        data = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass

os.urandom(16)
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
`;

interface Said {
  readonly random: Readonly<Record<string, string>>;
  readonly identity: Readonly<Record<string, string>>;
  readonly wallMs: number;
  readonly monotonicMs: number;
}

/** An artifact with this very Node in it: the managed base has none, and a test fetches nothing it can bring. */
async function artifact(): Promise<Buffer> {
  const dockerfile = [
    'FROM public.ecr.aws/lambda/microvms:al2023-minimal',
    'WORKDIR /app',
    'COPY node app.py .',
    'COPY lib /usr/local/lib/',
    'RUN chmod 755 node && ldconfig && ./node --version',
    'CMD ["python3", "-u", "app.py"]',
  ].join('\n');
  const zip = new ZipFile();
  zip.addBuffer(Buffer.from(dockerfile), 'Dockerfile');
  zip.addBuffer(Buffer.from(APP), 'app.py');
  zip.addBuffer(readFileSync(process.execPath), 'node', { compressionLevel: 1 });
  const atomic = /libatomic\.so\.1 => (\S+)/.exec(execFileSync('ldd', [process.execPath], { encoding: 'utf8' }))?.[1];
  zip.addBuffer(atomic === undefined ? Buffer.alloc(0) : readFileSync(atomic), 'lib/libatomic.so.1');
  zip.end();
  const chunks: Buffer[] = [];
  for await (const chunk of zip.outputStream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

/** An image with a Node in it and 23 launches: too long for every run. */
const skip = process.env.REKINDLE_LONG_TESTS === undefined && 'takes five minutes: REKINDLE_LONG_TESTS=1 runs it';

describe('microVMs of one snapshot', { skip }, () => {
  let server: TestServer;
  let imageArn: string;

  before(async () => {
    server = await startServer();
    const image = await buildImage(server, 'unique', await artifact(), { memoryMiB: 1024 });
    assert.equal(image.state, 'CREATED', `${image.stateReason}\n${server.log()}`);
    imageArn = image.imageArn;
  });
  after(() => server[Symbol.asyncDispose]());

  async function ask(): Promise<Said> {
    const { microvmId = '', endpoint = '' } = await server.microvms.runMicrovm({ imageIdentifier: imageArn });
    using client = await endpointClient(server, { microvmId, endpoint });
    try {
      const answer = await client.get('/');
      assert.equal(answer.status, 200, answer.body);
      return JSON.parse(answer.body) as Said;
    } finally {
      await server.microvms.terminateMicrovm({ microvmIdentifier: microvmId });
    }
  }

  test('draw different random numbers, and share the identity the service lets them share', async () => {
    const said: Said[] = [];
    const startedAt = Date.now();
    const workers = Array.from({ length: AT_ONCE }, async (_, i) => {
      for (let clone = i; clone < CLONES; clone += AT_ONCE) said.push(await ask());
    });
    await Promise.all(workers);
    assert.equal(said.length, CLONES);
    for (const how of Object.keys(said[0]?.random ?? {})) {
      assert.equal(new Set(said.map((one) => one.random[how])).size, CLONES, `${how} repeats`);
    }
    for (const what of Object.keys(said[0]?.identity ?? {})) {
      assert.equal(new Set(said.map((one) => one.identity[what])).size, 1, `${what} differs`);
    }
    assert.equal(said[0]?.identity.hostname, 'localhost');
    for (const { wallMs } of said) {
      assert.ok(wallMs >= startedAt - 1000 && wallMs <= Date.now() + 1000, 'the wall clock is that of the host');
    }
  });

  test('draw anew after each resume, with clocks that only go forward', async () => {
    const { microvmId = '', endpoint = '' } = await server.microvms.runMicrovm({
      imageIdentifier: imageArn,
      idlePolicy: { maxIdleDurationSeconds: 900, suspendedDurationSeconds: 900, autoResumeEnabled: true },
    });
    using client = await endpointClient(server, { microvmId, endpoint });
    const said: Said[] = [];
    for (let round = 0; round < 3; round++) {
      said.push(JSON.parse((await client.get('/')).body) as Said);
      await server.microvms.suspendMicrovm({ microvmIdentifier: microvmId });
      await untilState(server, microvmId, 'SUSPENDED');
    }
    for (const how of Object.keys(said[0]?.random ?? {})) {
      assert.equal(new Set(said.map((one) => one.random[how])).size, said.length, `${how} repeats`);
    }
    for (const clock of ['wallMs', 'monotonicMs'] as const) {
      const times = said.map((one) => one[clock]);
      assert.deepEqual(
        times.toSorted((a, b) => a - b),
        times,
        `${clock} goes back`,
      );
    }
    await server.microvms.terminateMicrovm({ microvmIdentifier: microvmId });
  });
});
