"""Which files a process can change without a system call."""

from __future__ import annotations

import os

from transship.linux.mappings import lines, shared_writable_files, shared_writable_files_of

MAPS = """\
55d0c0a00000-55d0c0a21000 r--p 00000000 00:2f 1234 /usr/bin/server
7f1000000000-7f1000100000 rw-s 00000000 00:2f 1235 /data/with space/table
7f1000100000-7f1000200000 r--s 00000000 00:2f 1236 /data/read-only
7f1000200000-7f1000300000 rw-p 00000000 00:2f 1237 /data/private
7f1000300000-7f1000400000 rw-s 00000000 00:01 1238 /dev/zero (deleted)
7f1000400000-7f1000500000 rw-s 00000000 00:01 1239 [anon_shmem:x]
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]
"""


def test_only_shared_writable_mappings_of_files_with_a_name_count() -> None:
    assert shared_writable_files(MAPS) == {"/data/with space/table"}


def test_a_process_that_has_ended_maps_nothing() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert shared_writable_files_of([child]) == frozenset()


def test_only_a_newline_ends_a_line() -> None:
    assert lines("a\x0bb\u2028c\nd\n") == ["a\x0bb\u2028c", "d"]
    assert lines("") == []
