"""What AWS's zip sample shows: a page on port 8080 that knows which microVM it runs in, as the run hook on port 9000 told it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

microvm_id = None


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"status": "ok", "microvm_id": microvm_id})

    def answer(self, value):
        data = json.dumps(value).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass


class Hooks(Page):
    def do_POST(self):
        global microvm_id
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = self.path.rsplit("/", 1)[-1]
        if name == "run":
            microvm_id = json.loads(body)["microvmId"]
        print("hook", name, flush=True)
        self.answer({})


if __name__ == "__main__":
    threading.Thread(target=HTTPServer(("0.0.0.0", 9000), Hooks).serve_forever, daemon=True).start()
    HTTPServer(("0.0.0.0", 8080), Page).serve_forever()
