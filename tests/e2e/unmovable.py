"""Containers that have something that CRIU cannot dump, each with the reason that has to be given.

Every one of these was moved once without any check: CRIU refused it.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent
from typing import Any

from transship.api.reasons import Reason

# System calls by number (x86-64): Python has no functions for most of these things.
PROGRAM = """
import ctypes, fcntl, mmap, os, select, signal, socket, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def child():
    return subprocess.Popen(["sleep", "1000000"])
try:
{code}
except OSError as e:
    print("cannot be had here:", e, flush=True)
    sys.exit(1)
print("ready", flush=True)
while True:
    time.sleep(1)
"""
ATTRIBUTES = 'struct.pack("8q", 0, 10, 64, 0, 0, 0, 0, 0)'
QUEUE = f'queue = call(240, b"jobs", os.O_CREAT | os.O_RDWR, 0o600, {ATTRIBUTES})'


@dataclass(frozen=True)
class Unmovable:
    """`message` is what the culprit has to be called."""

    name: str
    code: str
    reason: Reason
    message: str
    privileged: bool = False

    def container(self, image: str) -> dict[str, Any]:
        found = python(image, self.code)
        if self.privileged:
            found["securityContext"] = {"capabilities": {"add": ["SYS_ADMIN", "NET_ADMIN"]}}
        return found


def python(image: str, code: str) -> dict[str, Any]:
    program = PROGRAM.replace("{code}", indent(code.strip(), "    "))
    return {
        "image": image,
        "command": ["python3", "-c", program],
        "terminationGracePeriodSeconds": 0,
        "restartPolicy": "Never",
    }


UNMOVABLE = (
    Unmovable("queue-open", QUEUE, Reason.MESSAGE_QUEUE, "/jobs"),
    Unmovable("queue-closed", f"{QUEUE}; os.close(queue)", Reason.MESSAGE_QUEUE, "/jobs"),
    Unmovable(
        "traced",
        "traced = child(); time.sleep(0.3); assert libc.ptrace(16, traced.pid, 0, 0) == 0",
        Reason.TRACED,
        "(sleep) is traced by process 1 (python3)",
    ),
    Unmovable(
        "leaderless",
        """
if os.fork() == 0:
    threading.Thread(target=time.sleep, args=(1000000,)).start()
    libc.syscall(60, 0)
time.sleep(0.3)
""",
        Reason.MAIN_THREAD_ENDED,
        "main thread",
    ),
    Unmovable(
        "watch-proc",
        'fd = libc.inotify_init(); libc.inotify_add_watch(fd, b"/proc/self/status", 2)',
        Reason.FILE_WATCH,
        "/proc",
    ),
    Unmovable(
        "watch-sys",
        'fd = libc.inotify_init(); libc.inotify_add_watch(fd, b"/sys/class", 0x100)',
        Reason.FILE_WATCH,
        "/sys",
    ),
    Unmovable(
        "process-directory",
        'fd = os.open("/proc/self", os.O_RDONLY)',
        Reason.UNSUPPORTED_FILE,
        "/proc/1",
    ),
    Unmovable(
        "thread-handle",
        "handle = call(434, os.getpid(), os.O_EXCL)",
        Reason.UNSUPPORTED_FILE,
        "a thread",
    ),
    Unmovable(
        "packet-pipe", "pipe = os.pipe2(os.O_DIRECT)", Reason.UNSUPPORTED_FILE, "packet mode"
    ),
    Unmovable(
        "renamed",
        'f = open("/tmp/a", "w"); os.link("/tmp/a", "/tmp/b"); os.unlink("/tmp/a")',
        Reason.LINK_LOST,
        "/tmp/a",
    ),
    Unmovable(
        "large-deleted",
        'f = open("/tmp/a", "wb"); [f.write(bytes(1 << 20)) for _ in range(260)]; f.flush(); '
        'os.unlink("/tmp/a")',
        Reason.DELETED_FILE_TOO_LARGE,
        "/tmp/a",
    ),
    Unmovable(
        "tunnel",
        'os.makedirs("/dev/net", exist_ok=True); '
        'os.mknod("/dev/net/tun", 0o20600, os.makedev(10, 200)); '
        'fd = os.open("/dev/net/tun", os.O_RDWR)',
        Reason.UNSUPPORTED_FILE,
        "/dev/net/tun (10:200)",
    ),
    Unmovable(
        "nested",
        "libc.unshare(0x20000000); inner = child()",
        Reason.NESTED_NAMESPACE,
        "a pid namespace of its own",
        privileged=True,
    ),
    Unmovable(
        "perf",
        'fd = call(298, struct.pack("IIQQQQQ", 1, 128, 0, 0, 0, 0, 0) + bytes(80), 0, -1, -1, 0)',
        Reason.UNSUPPORTED_FILE,
        "perf_event",
        privileged=True,
    ),
    Unmovable(
        "bpf",
        'fd = call(321, 0, struct.pack("IIIII", 2, 4, 4, 10, 0) + bytes(100), 72)',
        Reason.UNSUPPORTED_FILE,
        "bpf-map",
        privileged=True,
    ),
    Unmovable(
        "overlay",
        'for each in "luwm": os.makedirs(f"/dev/shm/{each}")\n'
        'assert libc.mount(b"x", b"/dev/shm/m", b"overlay", 0, '
        'b"lowerdir=/etc,upperdir=/dev/shm/u,workdir=/dev/shm/w") == 0',
        Reason.UNSUPPORTED_MOUNT,
        "/dev/shm/m",
        privileged=True,
    ),
    Unmovable(
        "detached",
        'tree = call(428, -100, b"/etc", 1); f = os.open("passwd", os.O_RDONLY, dir_fd=tree)',
        Reason.FOREIGN_FILE,
        "which lies on none of the container's mounts",
        privileged=True,
    ),
)

# All of it in one container: what a check could take for something that does not move.
MOVABLE = """
kept = [
    os.eventfd(3), call(283, 1, 0), call(282, -1, struct.pack("Q", 1 << 9), 8),
    os.memfd_create("memory"), os.pidfd_open(1), os.pipe(), os.open("/proc", os.O_RDONLY),
    os.open("/proc/self/status", os.O_RDONLY), os.open("/proc/self/ns/net", os.O_RDONLY),
    os.open("/sys/class", os.O_RDONLY), os.open("/etc/hosts", os.O_PATH), os.openpty(),
    open("/dev/zero"), open("/dev/urandom", "rb"), open("/dev/shm/shared", "w"),
    subprocess.Popen(["true"]), child(),
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136),
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1),
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 132),
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)),
    socket.socket(socket.AF_INET6), socket.socketpair(),
]
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); netlink.bind((0, 1))
watch = libc.inotify_init()
for each in (b"/usr/bin", b"/etc/hosts", b"/dev/shm", b"/dev"):
    assert libc.inotify_add_watch(watch, each, 0xFFF) >= 0
listener = socket.socket(socket.AF_UNIX); listener.bind("/tmp/listener"); listener.listen()
waiting = socket.socket(socket.AF_UNIX); waiting.connect("/tmp/listener")
deleted = open("/tmp/deleted", "w+"); deleted.write("kept"); deleted.flush()
os.unlink("/tmp/deleted")
mapped = mmap.mmap(-1, 1 << 20)
locked = open("/tmp/locked", "w"); fcntl.lockf(locked, fcntl.LOCK_EX)
segment = call(29, 0x1234, 1 << 20, 0o1600)
def answer_landlock(*_):
    result = libc.syscall(444, struct.pack("QQQ", 1, 0, 0), 8, 0)
    print("landlock:", result, os.strerror(ctypes.get_errno()), flush=True)
signal.signal(signal.SIGUSR1, answer_landlock)
queue = call(68, 0x77, 0o1600); semaphores = call(64, 0x88, 3, 0o1600)
stopped = child(); os.kill(stopped.pid, signal.SIGSTOP)
escaped, other = os.pipe(); copy = os.dup(escaped)
poll = select.epoll(); poll.register(escaped, 1); os.close(escaped)
context = ctypes.c_ulong(0); call(206, 100, ctypes.byref(context))
"""
