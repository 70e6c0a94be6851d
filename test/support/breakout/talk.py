"""Attacks on what is shown inside a connection: TLS server names, HTTP hosts."""
import os
import socket
import ssl
import struct
import time

from names import ask
from sockets import PATIENCE, place

OPEN = {}


def exchange(conn, text):
    conn.sendall(text)
    data = b""
    while b"\r\n\r\n" not in data:
        piece = conn.recv(65536)
        if not piece:
            break
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            while len(body) < int(line.split(b":")[1]):
                body += conn.recv(65536)
    return (head.split(b"\r\n")[0] + b" " + body).decode(errors="replace")


def told(conn, text):
    try:
        answer = exchange(conn, text)
    except (ConnectionResetError, BrokenPipeError) as error:
        return {"outcome": "reset", "errno": "ECONNRESET", "detail": str(error)}
    if answer.strip() == "":
        return {"outcome": "reset", "errno": "EOF"}
    return {"outcome": "answered", "detail": answer[:200]}


REQUESTS = {
    "good": "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "absolute": "GET http://{other}/ HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "two-hosts": "GET / HTTP/1.1\r\nHost: {host}\r\nHost: {other}\r\n\r\n",
    "no-host": "GET / HTTP/1.0\r\n\r\n",
    "connect": "CONNECT {other}:80 HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "smuggled": "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: {other}\r\n\r\n",
    "folded": "GET / HTTP/1.1\r\nX: y\r\n Host: {other}\r\nHost: {host}\r\n\r\n",
    "not-http": "\x00\x01\x02 any bytes there are\r\n\r\n",
    "http2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


def http(to, host, other="evil.test", shape="good", resolve=None):
    if resolve:
        ask(resolve)
    with socket.create_connection(place(to), timeout=PATIENCE) as conn:
        return told(conn, REQUESTS[shape].format(host=host, other=other).encode("latin1"))


def keep_alive(to, host, other, resolve=None):
    """A good request, then one for another host on the same connection."""
    if resolve:
        ask(resolve)
    with socket.create_connection(place(to), timeout=PATIENCE) as conn:
        first = told(conn, REQUESTS["good"].format(host=host).encode())
        if first["outcome"] != "answered":
            return {"outcome": "broken", "detail": first}
        return told(conn, REQUESTS["good"].format(host=other).encode())


def hold(to, host, resolve):
    """Opens a connection that `say` goes on with."""
    for name in resolve.split(","):
        ask(name)
    conn = socket.create_connection(place(to), timeout=PATIENCE)
    OPEN["held"] = conn
    return told(conn, REQUESTS["good"].format(host=host).encode())


def say(host):
    return told(OPEN["held"], REQUESTS["good"].format(host=host).encode())


def hello(server_name):
    """A client hello as OpenSSL makes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def extended(record, extension):
    """The hello with one more extension."""
    body = bytearray(record[9:])
    at = 2 + 32
    at += 1 + body[at]
    at += 2 + struct.unpack_from("!H", body, at)[0]
    at += 1 + body[at]
    length = struct.unpack_from("!H", body, at)[0]
    struct.pack_into("!H", body, at, length + len(extension))
    body += extension
    message = b"\x01" + struct.pack("!I", len(body))[1:] + bytes(body)
    return record[:3] + struct.pack("!H", len(message)) + message


def tls(to, sni="", resolve=None, ech="no", split="no", second=None):
    if resolve:
        ask(resolve)
    data = hello(sni or None)
    if ech == "yes":
        inner = b"\x00\x00\x01\x00\x01\x07" + struct.pack("!H", 32) + os.urandom(32) + struct.pack("!H", 64) + os.urandom(64)
        data = extended(data, struct.pack("!HH", 0xFE0D, len(inner)) + inner)
    if second:
        data += hello(second)
    with socket.create_connection(place(to), timeout=PATIENCE) as conn:
        try:
            if split == "yes":
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for at in range(0, len(data), 7):
                    conn.sendall(data[at : at + 7])
            else:
                conn.sendall(data)
            answer = conn.recv(4096)
        except (ConnectionResetError, BrokenPipeError) as error:
            return {"outcome": "reset", "errno": "ECONNRESET", "detail": str(error)}
    # 22 is a server's handshake, 21 its alert: either way somebody out there has read the hello.
    return {"outcome": "answered" if answer else "reset", "detail": answer[:1].hex()}


def expired(of, to, most="120"):
    """Connects while the answer lives, then again and again, until it is refused; the name is not asked again."""
    ask(of)
    began = time.monotonic()
    socket.create_connection(place(to), timeout=PATIENCE).close()
    while time.monotonic() - began < float(most):
        try:
            socket.create_connection(place(to), timeout=PATIENCE).close()
        except ConnectionRefusedError:
            return {"outcome": "refused", "errno": "ECONNREFUSED", "detail": int(time.monotonic() - began)}
        time.sleep(0.5)
    return {"outcome": "connected"}


ATTACKS = {"http": http, "keep-alive": keep_alive, "hold": hold, "say": say, "tls": tls, "expired": expired}
