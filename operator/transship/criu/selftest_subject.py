"""The program of the self test: process 1 of the namespaces that selftest.py creates.

It is started by its path, not imported: standard library only.
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
USE_CONNECTION = signal.SIGUSR1
ANSWER_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.005
COMMON = ("--network-lock", "skip", "--tcp-established", "--manage-cgroups=ignore", "-v4")


def main(directory: str) -> None:
    """Fork the process that is moved, dump it, restore it, and have it use its connection."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {USE_CONNECTION})
    bring_loopback_up()
    subject = fork_subject()
    criu("dump", directory, "--tree", str(subject))
    # CRIU has killed it; its pid has to be free for the restore
    os.waitpid(subject, 0)
    criu("restore", directory, "--restore-detached")
    os.kill(subject, USE_CONNECTION)
    if exit_status_of(subject) != 0:
        raise SystemExit("the restored process could not use its connection")


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def fork_subject() -> int:
    """Fork the process that is moved; returns its pid when it has its connection."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        use_connection_on_signal(sending)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        if pipe.read() != b"ready":
            raise SystemExit("the process to move did not start")
    return child


def use_connection_on_signal(ready: int) -> None:
    """Be the process that is moved: open both ends of a connection, and use it after a signal."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.close(null)
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        served, _ = server.accept()
        os.write(ready, b"ready")
        os.close(ready)
        signal.sigwait({USE_CONNECTION})
        client.sendall(b"moved")
        served.settimeout(ANSWER_TIMEOUT_SECONDS)
        os._exit(0 if served.recv(5) == b"moved" else 1)
    finally:
        os._exit(2)


def criu(command: str, directory: str, *options: str) -> None:
    words = ["criu", command, "--images-dir", directory, "--log-file", f"{command}.log"]
    done = subprocess.run([*words, *COMMON, *options], check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(f"criu {command} failed")


def exit_status_of(subject: int) -> int:
    deadline = time.monotonic() + ANSWER_TIMEOUT_SECONDS + 1
    while time.monotonic() < deadline:
        pid, status = os.waitpid(subject, os.WNOHANG)
        if pid:
            return status
        time.sleep(POLL_SECONDS)
    return -1


if __name__ == "__main__":
    main(sys.argv[1])
