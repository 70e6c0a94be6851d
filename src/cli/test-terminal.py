"""Runs a command on a terminal of its own, for tests: plays what a person does and says what the terminal was like.

Reads {"argv": [...], "steps": [{"until": text} | {"type": text} | {"resize": [cols, rows]} | {"signal": number}]} from standard input;
prints {"exitCode", "shown", "wasRaw", "isRestored"}. The last step is followed by waiting for the command's end.
"""
import fcntl
import json
import os
import select
import struct
import sys
import termios
import time

LIMIT_SECONDS = 60


def main():
    task = json.load(sys.stdin)
    deadline = time.monotonic() + LIMIT_SECONDS
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 17, 91, 0, 0))
    before = termios.tcgetattr(slave)
    pid = os.fork()
    if pid == 0:
        os.close(master)
        os.login_tty(slave) if hasattr(os, "login_tty") else login(slave)
        os.execv(task["argv"][0], task["argv"])
    shown = b""
    unread = b""
    was_raw = False

    def read():
        nonlocal shown, unread
        ready, _, _ = select.select([master], [], [], 0.05)
        if ready:
            part = os.read(master, 65536)
            shown += part
            unread += part

    for step in task["steps"]:
        if "until" in step:
            text = step["until"].encode()
            while text not in unread:
                if time.monotonic() > deadline:
                    sys.exit("never shown: %r but %r" % (text, shown))
                read()
            unread = unread.split(text, 1)[1]
            was_raw = was_raw or not termios.tcgetattr(slave)[3] & termios.ICANON
        elif "type" in step:
            os.write(master, step["type"].encode())
        elif "resize" in step:
            cols, rows = step["resize"]
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        else:
            os.kill(pid, step["signal"])
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        read()
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            sys.exit("the command does not end: %r" % shown)
    after = termios.tcgetattr(slave)
    print(json.dumps({
        "exitCode": os.waitstatus_to_exitcode(status),
        "shown": shown.decode(errors="replace"),
        "wasRaw": was_raw,
        "isRestored": after == before,
    }))


def login(slave):
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)


main()
