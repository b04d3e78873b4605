"""Memory of every kind, rewritten page by page by a rule, and verified before each write.

Before a page is written, it must have the content of the last write. So a page that a move loses,
or restores with an older content, is found in any case. After each round the writer prints
`KIND/WRITER whole ROUND other ROUND`. The second round is that of the other writer, which shows
that memory is still shared. Instead it prints `KIND/WRITER broken ...`, once.

Usage: python3 memories.py DISK TMPFS [KIND...] (two folders; by default all usual kinds).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

PAGE = 4096
PAGES = 512  # one huge page
SIZE = PAGES * PAGE
STAMP = 16
ROUND_SECONDS = 0.05
NOISE = random.Random(1).randbytes(1 << 18)
WRITERS = 2
MAP_HUGETLB = 0x40000  # mmap(2); Python has no name for it


class Memory(Protocol):
    def read(self, page: int) -> bytes: ...

    def write(self, page: int, content: bytes) -> None: ...


class Mapped:
    def __init__(self, view: memoryview) -> None:
        self._view = view

    def read(self, page: int) -> bytes:
        return bytes(self._view[page * PAGE : (page + 1) * PAGE])

    def write(self, page: int, content: bytes) -> None:
        self._view[page * PAGE : (page + 1) * PAGE] = content


class Opened:
    """Read and written by its descriptor, never mapped."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, page: int) -> bytes:
        return os.pread(self._fd, PAGE, page * PAGE)

    def write(self, page: int, content: bytes) -> None:
        os.pwrite(self._fd, content, page * PAGE)


def content(page: int, turn: int) -> bytes:
    start = (page * 31 + turn * 4099) % (len(NOISE) - PAGE)
    return page.to_bytes(8, "big") + turn.to_bytes(8, "big") + NOISE[start : start + PAGE - STAMP]


def turn_of(page: bytes) -> int:
    return int.from_bytes(page[8:STAMP], "big")


def rewrite(name: str, memory: Memory, *, writer: int) -> None:
    """Rewrite every page of one writer without end. The pages of the writers alternate."""
    turn = 0
    while True:
        for page in range(writer, PAGES, WRITERS):
            present = memory.read(page)
            if present != content(page, turn):
                say(f"{name}/{writer} broken page {page} round {turn_of(present)} not {turn}")
                return
            memory.write(page, content(page, turn + 1))
        turn += 1
        other = turn_of(memory.read(1 - writer))
        say(f"{name}/{writer} whole {turn} other {other}")
        time.sleep(ROUND_SECONDS)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one write, so that lines of several processes do not mix


def fill(memory: Memory) -> Memory:
    for page in range(PAGES):
        memory.write(page, content(page, 0))
    return memory


def mapped(fd: int, flags: int, *, advice: int | None = None) -> Memory:
    if fd >= 0:
        os.ftruncate(fd, SIZE)
    made = mmap.mmap(fd, SIZE, flags=flags)
    if advice is not None:
        made.madvise(advice)
    return Mapped(memoryview(made))


def file_of(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def unnamed(path: str) -> int:
    fd = file_of(path)
    Path(path).unlink()
    return fd


def of_a_file(path: str) -> Memory:
    """Map a private copy: writes never reach the file."""
    Path(path).write_bytes(bytes(SIZE))
    return mapped(file_of(path), mmap.MAP_PRIVATE)


def only_opened(fd: int) -> Memory:
    os.ftruncate(fd, SIZE)
    return Opened(fd)


def system_v() -> Memory:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(libc.shmget(0, SIZE, 0o1600), None, 0)
    return Mapped(memoryview((ctypes.c_char * SIZE).from_address(address)).cast("B"))


def kinds(disk: str, tmpfs: str) -> dict[str, Callable[[], Memory]]:
    """In shared kinds and "threads", the writers have the same memory; others are forked copies."""
    anonymous = mmap.MAP_ANONYMOUS
    return {
        "private": lambda: mapped(-1, mmap.MAP_PRIVATE | anonymous),
        "huge": lambda: mapped(-1, mmap.MAP_PRIVATE | anonymous, advice=mmap.MADV_HUGEPAGE),
        "threads": lambda: mapped(-1, mmap.MAP_PRIVATE | anonymous),
        "copied file": lambda: of_a_file(f"{disk}/copied"),
        "shared": lambda: mapped(-1, mmap.MAP_SHARED | anonymous),
        "memfd": lambda: mapped(os.memfd_create("mapped"), mmap.MAP_SHARED),
        "memfd unmapped": lambda: only_opened(os.memfd_create("opened")),
        "System V": system_v,
        "/dev/shm": lambda: mapped(file_of("/dev/shm/file"), mmap.MAP_SHARED),
        "/dev/shm unnamed": lambda: mapped(unnamed("/dev/shm/gone"), mmap.MAP_SHARED),
        "tmpfs": lambda: mapped(file_of(f"{tmpfs}/file"), mmap.MAP_SHARED),
        "file": lambda: mapped(file_of(f"{disk}/file"), mmap.MAP_SHARED),
        "file unnamed": lambda: mapped(unnamed(f"{disk}/gone"), mmap.MAP_SHARED),
    }


def of_huge_pages() -> dict[str, Callable[[], Memory]]:
    """For nodes that have reserved huge pages (vm.nr_hugepages): they need four."""
    anonymous = mmap.MAP_ANONYMOUS | MAP_HUGETLB
    return {
        "hugetlb": lambda: mapped(-1, mmap.MAP_PRIVATE | anonymous),
        "hugetlb shared": lambda: mapped(-1, mmap.MAP_SHARED | anonymous),
    }


def main(disk: str, tmpfs: str, *chosen: str) -> None:
    usual = kinds(disk, tmpfs)
    makers = usual | of_huge_pages()
    memories = {name: fill(makers[name]()) for name in chosen or usual}
    for name, memory in memories.items():
        if os.fork() == 0:
            if name == "threads":
                second = threading.Thread(target=rewrite, args=(name, memory), kwargs={"writer": 1})
                second.start()
                rewrite(name, memory, writer=0)
            rewrite(name, memory, writer=int(os.fork() == 0))
    for _ in memories:
        os.wait()  # a writer ends only when its memory is broken


if __name__ == "__main__":
    main(*sys.argv[1:])
