/** Images made the way a user makes them: zip, PutObject, CreateMicrovmImage, poll. */
import { setTimeout as delay } from 'node:timers/promises';
import { ZipFile } from 'yazl';
import type { TestServer } from './server.ts';

const POLL_MS = 200;
const BUILD_TIMEOUT_MS = 600_000;

/** Files of an artifact by path. */
export type ArtifactFiles = Readonly<Record<string, string>>;

/** A web app that counts in memory: /count adds one, /random gives 16 bytes of the OS, /time its wall clock in ms. */
export const counterApp: ArtifactFiles = {
  Dockerfile: [
    'FROM public.ecr.aws/lambda/microvms:al2023-minimal',
    'WORKDIR /app',
    'COPY app.py .',
    'EXPOSE 8080',
    'CMD ["python3", "-u", "app.py"]',
    '',
  ].join('\n'),
  'app.py': `import http.server, os, time

count = 0

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global count
        if self.path == "/count":
            count += 1
            body = str(count)
        elif self.path == "/random":
            body = os.urandom(16).hex()
        elif self.path == "/time":
            body = str(int(time.time() * 1000))
        elif self.path == "/memory":
            body = next(l for l in open("/proc/meminfo") if l.startswith("MemTotal")).split()[1]
        elif self.path == "/exit":
            os._exit(7)
        else:
            body = "hello"
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        print(format % args, flush=True)

print("counter app listens", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
`,
};

export async function zipped(files: ArtifactFiles): Promise<Buffer> {
  const zip = new ZipFile();
  for (const [path, text] of Object.entries(files)) zip.addBuffer(Buffer.from(text), path);
  zip.end();
  const chunks: Buffer[] = [];
  for await (const chunk of zip.outputStream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

export interface BuiltImage {
  readonly imageArn: string;
  readonly state: string;
  /** Reason on the first build, null when there is none. */
  readonly stateReason: string | null;
  readonly tookMs: number;
}

export interface BuildOptions {
  readonly memoryMiB?: number;
  readonly additionalOsCapabilities?: 'ALL'[];
}

/** Uploads, creates and waits until the image settled, whichever way. */
export async function buildImage(
  server: TestServer,
  name: string,
  files: ArtifactFiles | Buffer,
  options: BuildOptions = {},
): Promise<BuiltImage> {
  const bucket = server.env.REKINDLE_ARTIFACT_BUCKET ?? '';
  const body = Buffer.isBuffer(files) ? files : await zipped(files);
  await server.s3.putObject({ Bucket: bucket, Key: `${name}.zip`, Body: body });
  return buildStored(server, name, options);
}

/** The same of what was uploaded as `<name>.zip`. */
export async function buildStored(server: TestServer, name: string, options: BuildOptions = {}): Promise<BuiltImage> {
  const bucket = server.env.REKINDLE_ARTIFACT_BUCKET ?? '';
  const startedAt = performance.now();
  const created = await server.microvms.createMicrovmImage({
    name,
    baseImageArn: server.env.REKINDLE_BASE_IMAGE_ARN ?? '',
    buildRoleArn: server.env.REKINDLE_BUILD_ROLE_ARN ?? '',
    codeArtifact: { uri: `s3://${bucket}/${name}.zip` },
    resources: [{ minimumMemoryInMiB: options.memoryMiB ?? 512 }],
    ...(options.additionalOsCapabilities && { additionalOsCapabilities: options.additionalOsCapabilities }),
  });
  const imageArn = created.imageArn ?? '';
  for (;;) {
    const { state = '' } = await server.microvms.getMicrovmImage({ imageIdentifier: imageArn });
    const tookMs = performance.now() - startedAt;
    if (state !== 'CREATING') return { imageArn, state, stateReason: await reasonOf(server, imageArn), tookMs };
    if (tookMs > BUILD_TIMEOUT_MS) throw new Error(`${name} is still ${state} after ${BUILD_TIMEOUT_MS} ms`);
    await delay(POLL_MS);
  }
}

async function reasonOf(server: TestServer, imageArn: string): Promise<string | null> {
  const { items } = await server.microvms.listMicrovmImageBuilds({ imageIdentifier: imageArn, imageVersion: '1.0' });
  return items?.[0]?.stateReason ?? null;
}

/** Polls until the microVM is in `state`; fails when it ends instead. */
export async function untilState(server: TestServer, microvmId: string, state: string, pollMs = 5): Promise<void> {
  const deadline = performance.now() + 60_000;
  for (;;) {
    const seen = await server.microvms.getMicrovm({ microvmIdentifier: microvmId });
    if (seen.state === state) return;
    if (seen.state === 'TERMINATED' || performance.now() > deadline) {
      throw new Error(`${microvmId} is ${seen.state} (${seen.stateReason}), not ${state}`);
    }
    await delay(pollMs);
  }
}
