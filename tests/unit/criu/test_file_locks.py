import fcntl
import struct
from pathlib import Path

import pytest

from transship.common.errors import TransshipError
from transship.criu import file_locks
from transship.criu.file_locks import FileLock
from transship.criu.rpc import varint

FDINFO = """\
pos:\t0
flags:\t02100002
mnt_id:\t41
ino:\t917546
lock:\t1: POSIX  ADVISORY  READ 10349 00:28:917546 128 128
lock:\t2: OFDLCK ADVISORY  WRITE -1 00:28:917546 0 EOF
lock:\t3: POSIX  ADVISORY  WRITE 10349 00:28:917546 200 EOF
"""


def image(*entries: tuple[int, ...]) -> bytes:
    """As CRIU writes it: fields 1 to 6 of each file_lock_entry."""
    parts = [struct.pack("<II", 0x54564319, 0x54323616)]
    for entry in entries:
        body = b"".join(varint(field << 3) + varint(value) for field, value in enumerate(entry, 1))
        parts += [struct.pack("<I", len(body)), body]
    return b"".join(parts)


def test_the_posix_locks_of_a_dump_are_read(tmp_path: Path) -> None:
    (tmp_path / "filelocks.img").write_bytes(
        image((1, 1, 7, 4, 128, 1), (2, 2, 7, 5, 0, 0), (1, 0, 9, 3, 1 << 30, 0))
    )
    assert file_locks.read(tmp_path) == (
        FileLock(process=7, descriptor=4, kind=1, start=128, size=1),
        FileLock(process=9, descriptor=3, kind=0, start=1 << 30, size=0),
    )


def test_a_dump_without_locks_has_none(tmp_path: Path) -> None:
    assert file_locks.read(tmp_path) == ()
    (tmp_path / "filelocks.img").write_bytes(image())
    assert file_locks.read(tmp_path) == ()


def test_an_image_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "filelocks.img").write_bytes(struct.pack("<II", 0x54564319, 1))
    with pytest.raises(TransshipError, match="malformed"):
        file_locks.read(tmp_path)


def test_what_the_kernel_tells_of_locks_is_understood() -> None:
    held = file_locks.held(FDINFO)
    assert FileLock(7, 4, kind=0, start=128, size=1).described in held
    assert FileLock(7, 4, kind=1, start=200, size=0).described in held
    assert FileLock(7, 4, kind=1, start=0, size=0).described not in held


def test_a_lock_is_described_as_the_kernel_does_and_set_by_its_own_words(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        for lock in (
            FileLock(1, file.fileno(), kind=1, start=10, size=5),
            FileLock(1, file.fileno(), kind=1, start=100, size=0),
        ):
            fcntl.fcntl(file, fcntl.F_SETLK, lock.flock)
            fdinfo = Path(f"/proc/self/fdinfo/{file.fileno()}").read_text()
            assert lock.described in file_locks.held(fdinfo)
