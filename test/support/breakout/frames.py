"""Attacks by frames made by hand: nothing of the guest's kernel stands between them and the gateway."""
import errno
import os
import random
import socket
import struct
import time

GUEST_MAC, GATEWAY_MAC = bytes.fromhex("02524b000002"), bytes.fromhex("02524b000001")
BROADCAST = b"\xff" * 6
GUEST = "192.0.0.2"
rng = random.Random(44)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ether(payload, kind=0x0800, source=GUEST_MAC, to=GATEWAY_MAC):
    return to + source + struct.pack("!H", kind) + payload


def ipv4(payload, to, protocol=6, source=GUEST, options=b"", flags=0x4000, total=None, good=True):
    words = (20 + len(options)) // 4
    length = total if total is not None else 20 + len(options) + len(payload)
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x40 | words, 0, length, 1, flags, 64, protocol, 0, socket.inet_aton(source), socket.inet_aton(to)
    ) + options
    value = checksum(head) ^ (0 if good else 0x5555)
    return head[:10] + struct.pack("!H", value) + head[12:] + payload


def tcp(to, port, source=GUEST, from_port=None, flags=2, offset=5):
    from_port = from_port or rng.randrange(20000, 60000)
    head = struct.pack("!HHIIBBHHH", from_port, port, 1, 0, offset << 4, flags, 64000, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(to) + struct.pack("!BBH", 0, 6, len(head))
    return head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:]


def udp(port, data=b"x", length=None):
    return struct.pack("!HHHH", 4711, port, length if length is not None else 8 + len(data), 0) + data


def arp(about, source=GUEST_MAC, sender=GUEST, operation=1):
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + source + socket.inet_aton(sender) + b"\0" * 6 + socket.inet_aton(about)


def wire():
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    link.bind(("eth0", 0))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return link


def put(link, frame):
    """What the guest's own kernel refuses to send never was an attack; what its queue has no room for comes later."""
    for _ in range(200):
        try:
            link.send(frame)
            return None
        except OSError as error:
            if error.errno not in (errno.ENOBUFS, errno.EAGAIN):
                return errno.errorcode.get(error.errno, "?")
            time.sleep(0.01)
    return "ENOBUFS"


def await_frame(link, wanted, patience=30):
    ends = time.monotonic() + patience
    while time.monotonic() < ends:
        link.settimeout(max(0.01, ends - time.monotonic()))
        try:
            frame = link.recv(70000)
        except socket.timeout:
            break
        # What we sent comes back to us too.
        if frame[6:12] == GATEWAY_MAC and wanted(frame):
            return frame
    return None


def syn(to, port="80"):
    """A SYN to addresses that the guest's kernel would keep to itself."""
    with wire() as link:
        from_port = rng.randrange(20000, 60000)

        def wanted(frame):
            return frame[23] in (1, 6) and struct.pack("!H", from_port) in frame[34:]

        problem = put(link, ether(ipv4(tcp(to, int(port), from_port=from_port), to)))
        frame = await_frame(link, wanted)
    if problem:
        return {"outcome": "refused", "errno": problem}
    if frame is None:
        return {"outcome": "silent"}
    if frame[23] == 1:
        return {"outcome": "refused", "errno": "icmp %d/%d" % (frame[34], frame[35])}
    return {"outcome": "refused" if frame[47] & 4 else "connected", "errno": "RST" if frame[47] & 4 else None}


def several(frames_):
    def attack():
        local = {}
        with wire() as link:
            for frame in frames_():
                problem = put(link, frame)
                if problem:
                    local[problem] = local.get(problem, 0) + 1
        return {"outcome": "done", "detail": local}

    return attack


def spoofed_mac():
    for source in (b"\x02\x52\x4b\x00\x00\x03", GATEWAY_MAC, BROADCAST, b"\0" * 6):
        yield ether(ipv4(tcp("93.184.216.34", 80), "93.184.216.34"), source=source)
    # For another than the gateway, on a cable that has only one.
    yield ether(ipv4(tcp("93.184.216.34", 80), "93.184.216.34"), to=b"\x02\x52\x4b\x00\x00\x09")
    yield ether(arp("192.0.0.1", source=b"\x02\x52\x4b\x00\x00\x07"), kind=0x0806, to=BROADCAST)


def spoofed_address():
    for source in ("192.0.0.1", "192.0.0.3", "127.0.0.1", "10.9.0.1", "93.184.216.2", "0.0.0.0", "255.255.255.255"):
        yield ether(ipv4(tcp("93.184.216.34", 80, source=source), "93.184.216.34", source=source))
    yield ether(arp("192.0.0.1", sender="192.0.0.1"), kind=0x0806, to=BROADCAST)
    yield ether(arp("192.0.0.1", sender="192.0.0.1", operation=2), kind=0x0806, to=BROADCAST)


def ip_options():
    for option in (b"\x83\x07\x04\x0a\x09\x00\x02\x00", b"\x89\x07\x04\x7f\x00\x00\x01\x00", b"\x94\x04\x00\x00", b"\x07\x07\x04\x00\x00\x00\x00\x00"):
        yield ether(ipv4(tcp("93.184.216.34", 80), "93.184.216.34", options=option))


def fragments():
    segment = tcp("93.184.216.34", 80)
    # The TCP header over two fragments, one that overlaps, the last of many, the reserved bit.
    yield ether(ipv4(segment[:8], "93.184.216.34", flags=0x2000))
    yield ether(ipv4(segment[8:], "93.184.216.34", flags=0x0001))
    yield ether(ipv4(segment, "93.184.216.34", flags=0x0001))
    yield ether(ipv4(b"x" * 1000, "93.184.216.34", protocol=17, flags=0x1FFF))
    yield ether(ipv4(segment, "93.184.216.34", flags=0x8000))


def malformed():
    good = ipv4(tcp("93.184.216.34", 80), "93.184.216.34")
    yield ether(ipv4(tcp("93.184.216.34", 80), "93.184.216.34", good=False))
    for total in (0, 19, 41, 1500, 65535):
        yield ether(ipv4(tcp("93.184.216.34", 80), "93.184.216.34", total=total))
    for words in (0, 4, 15):
        yield ether(bytes([0x40 | words]) + good[1:])
    for offset in (0, 4, 15):
        yield ether(ipv4(tcp("93.184.216.34", 80, offset=offset), "93.184.216.34"))
    for length in (0, 7, 10, 65535):
        yield ether(ipv4(udp(53, length=length), "169.254.53.53", protocol=17))
    for length in range(14, 34):
        yield ether(good)[:length]
    yield ether(ipv4(b"\x08", "93.184.216.34", protocol=1))
    yield ether(arp("192.0.0.1")[:20], kind=0x0806, to=BROADCAST)
    # Other protocols below: LLDP, a VLAN tag around a packet, 802.3 lengths, QinQ.
    for kind in (0x88CC, 0x8100, 0x0010, 0x88A8, 0x8863, 0xFFFF):
        yield ether(b"\x00\x05\x08\x00" + good, kind=kind)


def giants():
    for size in (65507, 65520, 65535):
        yield ether(ipv4(b"x" * (size - 20), "93.184.216.34", protocol=17, total=min(size, 65535)))
    yield ether(os.urandom(65520))
    yield ether(os.urandom(69000))


def ipv6():
    header = struct.pack("!IHBB", 0x60000000, 16, 58, 255) + socket.inet_pton(socket.AF_INET6, "fe80::1") + socket.inet_pton(socket.AF_INET6, "ff02::1")
    advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    yield ether(header + advertisement, kind=0x86DD, to=bytes.fromhex("333300000001"))
    yield ether(header + advertisement, kind=0x86DD)
    yield ether(header[:20], kind=0x86DD)


def protocols():
    for protocol in (2, 4, 41, 47, 50, 89, 132, 255):
        yield ether(ipv4(b"\x45" + b"\0" * 63, "93.184.216.34", protocol=protocol))


def arp_flood():
    for _ in range(2000):
        yield ether(arp("192.0.0.1"), kind=0x0806, to=BROADCAST)


def random_frames():
    for _ in range(3000):
        frame = bytearray(ether(ipv4(tcp("93.184.216.34", 80), "93.184.216.34")))
        for _ in range(rng.randrange(1, 6)):
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        yield bytes(frame[: rng.randrange(14, len(frame) + 1)])


def arp_others():
    """Who has any of the other addresses? Nobody answers."""
    with wire() as link:
        for about in ("192.0.0.3", "192.0.0.6", "10.9.0.1", "93.184.216.2", "127.0.0.1"):
            put(link, ether(arp(about), kind=0x0806, to=BROADCAST))
        put(link, ether(arp("192.0.0.1"), kind=0x0806, to=BROADCAST))
        answered = []

        def wanted(frame):
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02":
                answered.append(socket.inet_ntoa(frame[28:32]))
            # The gateway's own answer comes last.
            return "192.0.0.1" in answered

        await_frame(link, wanted)
    return {"outcome": "done", "detail": answered}


def syn_flood(to, port="80", count="5000"):
    """Half-open connections from all ports; answers are never read."""
    local = {}
    with wire() as link:
        for number in range(int(count)):
            problem = put(link, ether(ipv4(tcp(to, int(port), from_port=1024 + number % 60000), to)))
            if problem:
                local[problem] = local.get(problem, 0) + 1
    return {"outcome": "done", "detail": local}


ATTACKS = {
    "syn": syn,
    "spoofed-mac": several(spoofed_mac),
    "spoofed-address": several(spoofed_address),
    "ip-options": several(ip_options),
    "fragment": several(fragments),
    "malformed": several(malformed),
    "giants": several(giants),
    "ipv6": several(ipv6),
    "protocol": several(protocols),
    "arp-flood": several(arp_flood),
    "random-frames": several(random_frames),
    "arp-others": arp_others,
    "syn-flood": syn_flood,
}
