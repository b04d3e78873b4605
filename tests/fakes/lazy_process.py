"""A process that gets its pages lazily, as one that CRIU restores.

Its memory is an empty mapping with a userfaultfd, which it sends to the page server as CRIU does.
It evaluates the Python expressions that are sent to it.
"""

from __future__ import annotations

import select
import struct
import subprocess
import sys
from pathlib import Path

PAGE = 4096
PID = 7
"""Its pid in the images."""

_PROGRAM = """
import ctypes, fcntl, mmap, os, socket, struct, sys

PAGE = 4096
pages, path, pid, features = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
libc = ctypes.CDLL(None, use_errno=True)
for name in ("mmap", "mremap"):
    getattr(libc, name).restype = ctypes.c_void_p
memory = libc.mmap(None, ctypes.c_size_t(pages * PAGE), 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                   -1, ctypes.c_long(0))
uffd = libc.syscall(323, os.O_CLOEXEC | os.O_NONBLOCK | (0 if features & 2 else 1))
fcntl.ioctl(uffd, 0xC018AA3F, bytearray(struct.pack("=3Q", 0xAA, features, 0)))
fcntl.ioctl(uffd, 0xC020AA00, bytearray(struct.pack("=4Q", memory, pages * PAGE, 1, 0)))
link = socket.socket(socket.AF_UNIX)
link.connect(path)
link.sendall(struct.pack("=i", pid))
socket.send_fds(link, [b"x"], [uffd])
os.close(uffd)

def finish():
    link.sendall(struct.pack("=I", 0x52535446))
    link.close()

def page(number, base=None):
    return ctypes.string_at((base or memory) + number * PAGE, PAGE)

def words(first, end, base=None):
    return [int.from_bytes(page(number, base)[:8], "little") for number in range(first, end)]

def put(number, value):
    ctypes.memmove(memory + number * PAGE, value.to_bytes(8, "little"), 8)

def drop(first, end):
    return libc.madvise(ctypes.c_void_p(memory + first * PAGE),
                        ctypes.c_size_t((end - first) * PAGE), 4)

def move(first, end):
    size = ctypes.c_size_t((end - first) * PAGE)
    larger = ctypes.c_size_t(size.value * 4)
    return libc.mremap(ctypes.c_void_p(memory + first * PAGE), size, larger, 1)

def in_child(work):
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, repr(work()).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        return eval(answer.read())

print(memory, flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""

# UFFD_FEATURE_EVENT_REMAP, _REMOVE, _UNMAP; FORK besides needs CAP_SYS_PTRACE
FEATURES = 1 << 2 | 1 << 3 | 1 << 6
FORKS = 1 << 1


class LazyProcess:
    def __init__(self, socket_path: Path, *, pages: int, features: int = FEATURES) -> None:
        words = [str(pages), str(socket_path), str(PID), str(features)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self.address = int(self._answer())

    def send(self, expression: str) -> None:
        """Have an expression evaluated, without waiting for the result."""
        self._input.write(expression.encode() + b"\n")
        self._input.flush()

    def ask(self, expression: str) -> object:
        """Return the result of an expression."""
        self.send(expression)
        return self.answer()

    def answer(self) -> object:
        """Wait for the result of the oldest expression that was sent."""
        return eval(self._answer())

    @property
    def is_waiting(self) -> bool:
        """It has no result yet."""
        return not select.select([self._output], [], [], 0)[0]

    def _answer(self) -> str:
        line = self._output.readline()
        assert line, "the process has died"
        return line.decode()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()


def pagemap_image(*runs: tuple[int, int]) -> bytes:
    """Encode a pagemap image as CRIU does, with these lazy runs: addresses and numbers of pages."""
    image = bytearray(struct.pack("<II", 0x54564319, 0x56084025))
    for entry in (b"\x08\x01", *(_entry(*run) for run in runs)):
        image += struct.pack("<I", len(entry)) + entry
    return bytes(image)


def _entry(address: int, pages: int) -> bytes:
    return b"\x08" + _varint(address) + b"\x20\x02\x28" + _varint(pages)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
