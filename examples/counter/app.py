"""A small web app whose counter lives in memory only: it shows what survives when its microVM is suspended."""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

STARTED = time.time()
lock = Lock()
count = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global count
        with lock:
            if self.path == "/count":
                count += 1
            now = count
        body = {"count": now, "pid": os.getpid(), "started": round(STARTED, 3), "now": round(time.time(), 3)}
        self.answer(200 if self.path in ("/", "/count") else 404, body)

    def answer(self, status, body):
        data = (json.dumps(body) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        print("%s %s" % (self.command, format % args), flush=True)


if __name__ == "__main__":
    print("counter listens on port 8080", flush=True)
    ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
