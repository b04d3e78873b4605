"""The census of a real process: this machine's kernel tells, nothing is made up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from transship.runtime import census
from transship.runtime.census import Deleted, Mount, Task

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
    assert kept.deleted == Deleted(links=1, bytes=0)
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
