/**
 * An app that holds on to everything a suspend could lose, and who remembers beside it what it must still have: memory,
 * files, open files with their positions, a file that has no name any more, a child process behind a pipe, timers, clocks.
 */
import { createHash } from 'node:crypto';
import type { EndpointClient } from './endpoint.ts';
import { type ArtifactFiles, counterApp } from './images.ts';

const BUFFER_KIB = 1024;
const TIMEOUT_MS = 90_000;
/** At once: an emulated guest is slow. */
const WEIGH_MIB = 64;
/** One of so many is not held up by anything. */
const QUICK_ASKS = 8;
/** Timers of an earlier cycle have fired by then. */
const TIMER_MS = 300;

/** Answers JSON to /begin?count=N, /weigh?leave=MiB&most=MiB, /touch?cycle=N, /look?share=N and /time. */
export const longLifeApp: ArtifactFiles = {
  ...counterApp,
  'app.py': `import hashlib, http.server, json, os, subprocess, threading, time
from urllib.parse import parse_qs, urlparse

BUFFER = ${BUFFER_KIB} * 1024
lock = threading.Lock()
os.makedirs("/app/files", exist_ok=True)
with open("/app/long", "w") as long:
    for i in range(100000):
        long.write("line %d\\n" % i)
reader = open("/app/long")
journal = open("/app/journal", "a+")
unnamed = open("/app/unnamed", "w+")
os.unlink("/app/unnamed")
child = subprocess.Popen(["python3", "-u", "-c", """
import os, sys
n = 0
for line in sys.stdin:
    n += 1
    print(os.getpid(), n, flush=True)
"""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
buffers = []
ballast = []
fired = []
ticks = 0

def tick():
    global ticks
    while True:
        time.sleep(0.05)
        ticks += 1

threading.Thread(target=tick, daemon=True).start()

def pattern(index, cycle):
    return hashlib.shake_128(b"%d.%d" % (index, cycle)).digest(4096) * (BUFFER // 4096)

def begin(count):
    buffers[:] = [bytearray(pattern(i, 0)) for i in range(count)]
    return {"child": child.pid}

def weigh(leave, most):
    end = len(ballast) + most
    while free() > leave and len(ballast) < end:
        ballast.append(bytearray(pattern(len(ballast), -1)))
    return {"done": free() <= leave}

def free():
    return int(next(l for l in open("/proc/meminfo") if l.startswith("MemAvailable")).split()[1]) // 1024

def touch(cycle):
    index = cycle % len(buffers)
    buffers[index][:] = pattern(index, cycle)
    with open("/app/files/%d" % (cycle % 16), "wb") as file:
        file.write(pattern(16, cycle)[:65536])
        os.fsync(file.fileno())
    for file in (journal, unnamed):
        file.write("cycle %d\\n" % cycle)
        file.flush()
    line = reader.readline()
    child.stdin.write("x\\n")
    child.stdin.flush()
    pid, answered = child.stdout.readline().split()
    threading.Timer(${TIMER_MS / 1000}, fired.append, [cycle]).start()
    return {"line": line.strip(), "child": int(pid), "answered": int(answered)}

def contents(file):
    file.flush()
    return os.pread(file.fileno(), 1 << 20, 0).decode()

def look(share):
    return {
        "memory": [hashlib.sha1(buffer).hexdigest() for buffer in buffers],
        "files": {name: hashlib.sha1(open("/app/files/" + name, "rb").read()).hexdigest() for name in os.listdir("/app/files")},
        "journal": contents(journal),
        "unnamed": contents(unnamed),
        "position": reader.tell(),
        "fired": fired,
        "ticks": ticks,
        "ballast": sum(ballast[i] != pattern(i, -1) for i in range(share, len(ballast), 16)),
        "free": free(),
    }

def clocks():
    return {"wallMs": time.time() * 1000, "monotonicMs": time.monotonic() * 1000, "ticks": ticks, "fired": len(fired)}

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlparse(self.path)
        asked = {name: int(values[0]) for name, values in parse_qs(url.query).items()}
        # The clock is read without waiting for anybody.
        if url.path == "/time":
            said = clocks()
        else:
            with lock:
                said = {"/begin": begin, "/weigh": weigh, "/touch": touch, "/look": look}[url.path](**asked)
        data = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
`,
};

interface Clocks {
  readonly wallMs: number;
  readonly monotonicMs: number;
  readonly ticks: number;
  readonly fired: number;
}

interface Seen {
  readonly memory: readonly string[];
  readonly files: Readonly<Record<string, string>>;
  readonly journal: string;
  readonly unnamed: string;
  readonly position: number;
  readonly fired: readonly number[];
  readonly ticks: number;
  readonly ballast: number;
  readonly free: number;
}

/** What the app must still have. Each method throws when it has something else. */
export class LongLife {
  readonly #client: EndpointClient;
  readonly #memory: string[];
  readonly #files = new Map<string, string>();
  readonly #child: number;
  #journal = '';
  #position = 0;
  #cycles: number[] = [];
  #clocks: Clocks | undefined;
  #looks = 0;
  /** Memory the guest still had free when it was looked at last. */
  freeMiB = 0;

  private constructor(client: EndpointClient, buffers: number, child: number) {
    this.#client = client;
    this.#child = child;
    this.#memory = Array.from({ length: buffers }, (_, index) => digest(pattern(index, 0)));
  }

  static async begin(client: EndpointClient, buffers: number): Promise<LongLife> {
    const { child } = await ask<{ child: number }>(client, `/begin?count=${buffers}`);
    return new LongLife(client, buffers, child);
  }

  /** Fills the guest's memory but for so much. */
  async weigh(leaveMiB: number): Promise<void> {
    const { done } = await ask<{ done: boolean }>(this.#client, `/weigh?leave=${leaveMiB}&most=${WEIGH_MIB}`);
    if (!done) await this.weigh(leaveMiB);
  }

  /** Changes a little of everything. */
  async touch(cycle: number): Promise<void> {
    const { line, child, answered } = await ask<{ line: string; child: number; answered: number }>(
      this.#client,
      `/touch?cycle=${cycle}`,
    );
    const read = `line ${this.#cycles.length}`;
    this.#cycles.push(cycle);
    expect(line, read, 'the next line of a file that is open');
    expect(child, this.#child, 'the child process');
    expect(answered, this.#cycles.length, 'what the child process counted');
    this.#position += read.length + 1;
    this.#journal += `cycle ${cycle}\n`;
    const index = cycle % this.#memory.length;
    this.#memory[index] = digest(pattern(index, cycle));
    this.#files.set(String(cycle % 16), digest(pattern(16, cycle).subarray(0, 65_536)));
  }

  /** Everything is as it was left; of what only fills the guest another sixteenth each time. */
  async look(): Promise<void> {
    const seen = await ask<Seen>(this.#client, `/look?share=${this.#looks++ % 16}`);
    expect(seen.memory.join(), this.#memory.join(), 'memory');
    expect(seen.ballast, 0, 'damaged parts of the memory that fills the guest');
    for (const [name, sum] of this.#files) expect(seen.files[name], sum, `file ${name}`);
    expect(Object.keys(seen.files).length, this.#files.size, 'the number of files');
    expect(seen.journal, this.#journal, 'a file written through an open descriptor');
    expect(seen.unnamed, this.#journal, 'a file without a name');
    expect(seen.position, this.#position, 'the position in an open file');
    this.freeMiB = seen.free;
  }

  /**
   * Clocks only go forward, threads tick, timers fire.
   * @returns by how much the guest's wall clock is off for sure, and at most: what the time for asking may hide, in ms
   */
  async clocks(): Promise<{ surely: number; atMost: number }> {
    const deadline = performance.now() + TIMEOUT_MS;
    let [surely, atMost] = [0, Number.POSITIVE_INFINITY];
    for (let asked = 1; ; asked++) {
      const before = Date.now();
      const seen = await ask<Clocks>(this.#client, '/time');
      const after = Date.now() + 1;
      surely = Math.max(surely, before - seen.wallMs, seen.wallMs - after);
      atMost = Math.min(atMost, Math.max(Math.abs(seen.wallMs - before), Math.abs(seen.wallMs - after)));
      const last = this.#clocks ?? { ...seen, ticks: -1 };
      if (seen.monotonicMs < last.monotonicMs) throw new Error('the monotonic clock goes back');
      // The first may have waited for the resume.
      if (asked > QUICK_ASKS && seen.ticks > last.ticks && seen.fired === this.#cycles.length) {
        this.#clocks = seen;
        return { surely, atMost };
      }
      if (performance.now() > deadline) throw new Error(`timers stand still: ${JSON.stringify(seen)}`);
    }
  }
}

async function ask<T>(client: EndpointClient, path: string): Promise<T> {
  const { status, body } = await client.get(path, { timeoutMs: TIMEOUT_MS });
  if (status !== 200) throw new Error(`${path} answers ${status}: ${body.slice(0, 300)}`);
  return JSON.parse(body) as T;
}

function expect(seen: unknown, wanted: unknown, what: string): void {
  if (seen !== wanted) throw new Error(`${what}: ${String(seen).slice(-200)}, not ${String(wanted).slice(-200)}`);
}

/** As the app makes it. */
function pattern(index: number, cycle: number): Buffer {
  const part = createHash('shake128', { outputLength: 4096 }).update(`${index}.${cycle}`).digest();
  return Buffer.concat(Array.from({ length: (BUFFER_KIB * 1024) / 4096 }, () => part));
}

function digest(data: Buffer): string {
  return createHash('sha1').update(data).digest('hex');
}
