"""The inner half of the self test: runs as process 1 of the namespaces that selftest.py makes.

Stands alone, on the standard library: it is started by its path, not imported.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time

SIOCSIFFLAGS = 0x8914
IFF_UP = 1
SPEAK = signal.SIGUSR1
ANSWER_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.005
COMMON = ("--network-lock", "skip", "--tcp-established", "--manage-cgroups=ignore", "-v4")


def main(directory: str) -> None:
    """Fork the process that is moved, dump it, restore it, and have it use its connection."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {SPEAK})
    bring_loopback_up()
    subject = fork_subject()
    criu("dump", directory, "--tree", str(subject))
    os.waitpid(subject, 0)  # CRIU has killed it; its process id has to be free
    criu("restore", directory, "--restore-detached")
    os.kill(subject, SPEAK)
    if answer_of(subject) != 0:
        raise SystemExit("the restored process could not use its connection")


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def fork_subject() -> int:
    """Return when the child has its connection."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        speak_when_told(sending)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        if pipe.read() != b"ready":
            raise SystemExit("the process to move did not start")
    return child


def speak_when_told(ready: int) -> None:
    """Be the process that is moved: both ends of a connection, and a signal that says `now`."""
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.close(nowhere)
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        served, _ = server.accept()
        os.write(ready, b"ready")
        os.close(ready)
        signal.sigwait({SPEAK})
        client.sendall(b"moved")
        served.settimeout(ANSWER_TIMEOUT_SECONDS)
        os._exit(0 if served.recv(5) == b"moved" else 1)
    finally:
        os._exit(2)


def criu(what: str, directory: str, *options: str) -> None:
    words = ["criu", what, "--images-dir", directory, "--log-file", f"{what}.log"]
    done = subprocess.run([*words, *COMMON, *options], check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(f"criu {what} failed")


def answer_of(subject: int) -> int:
    deadline = time.monotonic() + ANSWER_TIMEOUT_SECONDS + 1
    while time.monotonic() < deadline:
        pid, status = os.waitpid(subject, os.WNOHANG)
        if pid:
            return status
        time.sleep(POLL_SECONDS)
    return -1


if __name__ == "__main__":
    main(sys.argv[1])
