"""Runs what it is given: POST /execute {"code": "..."} answers with output and exit code. Hooks only say that they were called.

Each microVM is one tenant's sandbox; what it may reach is decided outside it, by its network connectors.
"""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TIMEOUT_SECONDS = 30
MAX_OUTPUT = 1 << 20
HOOKS = "/aws/lambda-microvms/runtime/v1/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, {"status": "ready"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.startswith(HOOKS):
            print("hook", self.path[len(HOOKS) :], flush=True)
            self.answer(200, {})
        elif self.path == "/execute":
            self.answer(*execute(body))
        else:
            self.answer(404, {"error": "POST /execute"})

    def answer(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass


def execute(body):
    try:
        code = json.loads(body)["code"]
    except (ValueError, KeyError, TypeError):
        return 400, {"error": 'the body must be {"code": "..."}'}
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return 200, {"timedOut": True}
    text = lambda part: part[:MAX_OUTPUT].decode(errors="replace")
    return 200, {"stdout": text(done.stdout), "stderr": text(done.stderr), "exitCode": done.returncode}


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
