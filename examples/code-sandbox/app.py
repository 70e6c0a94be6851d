"""Runs what it is given: POST /execute {"code": "...", "timeoutSeconds": 30} answers with what it printed and its exit code.

Each microVM is one tenant's sandbox; what it may reach is decided outside it, by its network connectors. Bounded here is only
what would take the service itself away from its tenant: time and output. Port 9000 is for hooks: no token for 8080 reaches it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_SECONDS = 30
MAX_OUTPUT = 1 << 20
# Of each file it writes, output included, in blocks of 512 bytes.
LIMITED = 'ulimit -f 2048; exec "$0" -c "$1"'


class Json(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self, status, value):
        data = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass


class App(Json):
    def do_GET(self):
        self.answer(200, {"status": "ready"})

    def do_POST(self):
        body = self.body()
        if self.path == "/execute":
            self.answer(*execute(body))
        else:
            self.answer(404, {"error": "POST /execute"})


class Hooks(Json):
    def do_POST(self):
        self.body()
        print("hook", self.path.rsplit("/", 1)[-1], flush=True)
        self.answer(200, {})


def execute(body):
    try:
        request = json.loads(body)
        code, seconds = request["code"], min(float(request.get("timeoutSeconds", MAX_SECONDS)), MAX_SECONDS)
        if not isinstance(code, str):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        return 400, {"error": 'the body must be {"code": "..."}'}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        argv = ["/bin/sh", "-c", LIMITED, sys.executable, code]
        child = subprocess.Popen(
            argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        try:
            child.wait(seconds)
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
        # What it left behind, too: the session is its own.
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()
        texts = {"stdout": text_of(out), "stderr": text_of(err)}
    return 200, {**texts, "exitCode": child.returncode, "timedOut": timed_out}


def text_of(file):
    file.seek(0)
    return file.read(MAX_OUTPUT).decode(errors="replace")


if __name__ == "__main__":
    threading.Thread(target=ThreadingHTTPServer(("0.0.0.0", 9000), Hooks).serve_forever, daemon=True).start()
    print("code-sandbox listens on 8080", flush=True)
    ThreadingHTTPServer(("0.0.0.0", 8080), App).serve_forever()
