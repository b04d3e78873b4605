"""The census of a real process: this machine's kernel tells, nothing is made up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from transship.criu import census
from transship.criu.census import MappedFile, Mount, Task

SUBJECT = """
import os, socket, sys, tempfile
folder = tempfile.mkdtemp()
gone = open(folder + "/gone", "w"); gone.write("x" * 10000); gone.flush()
kept = open(folder + "/kept", "w"); os.link(folder + "/kept", folder + "/second")
os.unlink(folder + "/gone"); os.unlink(folder + "/kept")
event = os.eventfd(0)
null = open("/dev/null")
listed = socket.socket(); listed.bind(("127.0.0.1", 0)); listed.listen()
unlisted = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
packets = os.pipe2(os.O_DIRECT)
numbers = (gone, kept, null, listed, unlisted)
print(event, packets[1], *(each.fileno() for each in numbers), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def subject() -> Iterator[tuple[Task, list[int]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SUBJECT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    numbers = [int(word) for word in process.stdout.readline().split()]
    [task] = census.take([process.pid], peers={}).tasks
    yield task, numbers
    process.communicate()


def test_open_files_are_told_apart(subject: tuple[Task, list[int]]) -> None:
    task, numbers = subject
    found = {each.number: each for each in task.descriptors}
    event, packets, gone, kept, null, listed, unlisted = (found[number] for number in numbers)
    assert event.target == "anon_inode:[eventfd]"
    assert int(packets.details.split("flags:")[1].split()[0], 8) & os.O_DIRECT
    assert gone.deleted is not None
    assert gone.deleted.links == 0
    assert gone.deleted.bytes >= 10000
    assert kept.deleted is not None
    assert (kept.deleted.links, kept.deleted.bytes) == (1, 0)
    assert kept.deleted.file != gone.deleted.file
    assert null.device == (1, 3)
    assert listed.socket is None
    assert unlisted.socket is not None
    assert unlisted.socket.family == socket.AF_INET
    assert unlisted.socket.kind == socket.SOCK_DGRAM


def test_a_process_is_known_by_name_and_namespaces(subject: tuple[Task, list[int]]) -> None:
    task, _ = subject
    assert task.command.startswith("python")
    assert task.tracer == 0
    assert not task.dead_leader
    assert set(task.namespaces) >= {"ipc", "mnt", "net", "pid", "user", "uts"}


MAPPER = """
import ctypes, mmap, os, sys, tempfile
libc = ctypes.CDLL(None, use_errno=True)
def mapped(fd, size, flags=mmap.MAP_SHARED):
    area = mmap.mmap(fd, size, flags=flags)
    area[:] = bytes([7]) * size
    return area
file = tempfile.TemporaryFile(dir=sys.argv[1]); file.truncate(1 << 20)
memory = os.memfd_create("heap"); os.ftruncate(memory, 3 << 20)
kept = [mapped(file.fileno(), 1 << 20), mapped(memory, 3 << 20), mapped(-1, 2 << 20)]
file.close()
copied = tempfile.TemporaryFile(dir=sys.argv[1]); copied.truncate(70 << 20)
kept.append(mapped(copied.fileno(), 70 << 20, mmap.MAP_PRIVATE))
locked = mapped(-1, 24 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(locked))
if sys.argv[2] == "lock":
    assert libc.mlock2(ctypes.c_void_p(address), ctypes.c_size_t(24 << 20), 0) == 0
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def mapper(folder: Path, word: str) -> Iterator[Task]:
    argv = [sys.executable, "-c", MAPPER, str(folder), word]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        [task] = census.take([process.pid], peers={}).tasks
        yield task
        process.communicate()


def test_files_without_a_name_are_found_by_their_mappings_too(tmp_path: Path) -> None:
    with mapper(tmp_path, "") as task:
        found = {each.target.partition(" ")[0]: each for each in task.mapped_files}
        sizes = {name: each.deleted.bytes >> 20 for name, each in found.items() if each.is_shared}
        assert sizes.pop("/memfd:heap") == 3
        assert sizes.pop("/dev/zero") == 2
        assert list(sizes.values()) == [1]
        memory = next(each for each in task.descriptors if each.target.startswith("/memfd:heap"))
        assert memory.deleted == found["/memfd:heap"].deleted
        [copied] = [each for each in found.values() if not each.is_shared]
        assert isinstance(copied, MappedFile)


@pytest.mark.parametrize(("word", "more"), [("", 0), ("lock", 24)])
def test_private_memory_that_criu_keeps_in_its_images_is_counted(
    tmp_path: Path, word: str, more: int
) -> None:
    with mapper(tmp_path, word) as task:
        assert 70 + more <= task.kept_bytes >> 20 < 70 + more + 20


def test_a_process_that_is_gone_is_left_out() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert census.take([process.pid], peers={}).tasks == ()


def test_mounts_are_known_by_number_kind_place_and_device() -> None:
    line = "282 392 0:115 / /dev/shm rw,nosuid shared:1 - tmpfs tmpfs rw,size=65536k"
    assert census.parse_mounts(line) == {282: Mount("tmpfs", "/dev/shm", (0, 115))}


def test_of_mappings_only_what_may_hinder_is_noted() -> None:
    maps = (
        "7f00-7f01 r-xp 00000000 fe:00 5   /usr/lib/libc.so\n"
        "7f02-7f03 rw-s 00000000 00:05 6   /dev/kvm\n"
        "7f04-7f05 rw-s 00000000 00:06 7   /secretmem (deleted)\n"
        "7f06-7f07 rw-p 00000000 00:00 0\n"
    )
    assert census.mapped_paths(maps) == ["/dev/kvm", "/secretmem (deleted)"]
