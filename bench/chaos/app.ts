/** The guest's side: counts in memory and in a file, and says both, and how often its disk refused. */
import { type ArtifactFiles, counterApp } from '../../test/support/images.ts';

export const chaosApp: ArtifactFiles = {
  ...counterApp,
  'app.py': `import http.server, json, os, threading

memory = 0
refused = 0
lock = threading.Lock()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global memory, refused
        status = 200
        with lock:
            if self.path == "/inc":
                memory += 1
                try:
                    with open("/app/count", "a") as file:
                        file.write("x")
                        file.flush()
                        os.fsync(file.fileno())
                except OSError:
                    refused += 1
                    status = 507
            file = os.path.getsize("/app/count") if os.path.exists("/app/count") else 0
            data = json.dumps({"memory": memory, "file": file, "refused": refused}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
`,
};
