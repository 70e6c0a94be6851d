"""The app of the break-out suite: root with every capability, and what an attacker would do with it.

GET /attack?name=<attack>&… runs one attack and answers {"outcome", "errno", "detail", "ms"}; GET / says that it lives.
Outcomes: "refused" (told so, by an error), "reset" (a connection that was cut once it showed what it was), "silent" (nobody
answered), "connected" or "answered" (it got through), "done" (whatever the attack was, it ran to its end).
"""
import errno
import http.server
import json
import time
import traceback
import urllib.parse

import devices
import frames
import names
import sockets
import talk

ATTACKS = {}
for module in (devices, frames, names, sockets, talk):
    ATTACKS.update(module.ATTACKS)


def attack(query):
    began = time.monotonic()
    try:
        result = ATTACKS[query.pop("name")](**query)
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, str(error))
        result = {"outcome": "silent" if isinstance(error, TimeoutError) or code == "ETIMEDOUT" else "refused", "errno": code}
    except Exception:
        result = {"outcome": "broken", "detail": traceback.format_exc()[-1000:]}
    return {"errno": None, "detail": None, **result, "ms": int((time.monotonic() - began) * 1000)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        answer = attack(dict(urllib.parse.parse_qsl(url.query))) if url.path == "/attack" else {"outcome": "lives"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64


Server(("127.0.0.1", 8080), Handler).serve_forever()
