from __future__ import annotations

import asyncio
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from transship.criu.hidden_memory import preload
from transship.criu.hidden_memory.preload import FOLDER_VARIABLE, HiddenMemory, NothingHidden
from transship.linux import page_scan

SOURCE = Path(preload.__file__).parent / "library" / "hidden_memory.c"
PAGE = page_scan.PAGE_BYTES

# Asks as CRIU does: for smaps by openat64 in the folder of the process, for pages by an ioctl.
READER = """
import ctypes, json, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
pid, room = int(sys.argv[1]), int(sys.argv[2])
ranges = json.loads(sys.argv[3])
folder = os.open(f"/proc/{pid}", os.O_RDONLY)
smaps = libc.openat64(folder, b"smaps", os.O_RDONLY, 0)
status = libc.openat64(folder, b"statm", os.O_RDONLY, 0)
pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
found = []
for start, end in ranges:
    while start < end:
        vec = ctypes.create_string_buffer(24 * room)
        asked = ctypes.create_string_buffer(struct.pack(
            "=12Q", 96, 0, start, end, 0, ctypes.addressof(vec), room, 0, 36, 36, 24, 24))
        count = libc.ioctl(pagemap, ctypes.c_ulong(0xC0606610), asked)
        assert count >= 0, os.strerror(ctypes.get_errno())
        start = struct.unpack("=12Q", asked.raw[:96])[4]
        for first, last, _ in struct.iter_unpack("=3Q", vec.raw[:24 * count]):
            found += range(first, min(last, start), 4096)
print(json.dumps([os.read(smaps, 1 << 20).decode(), os.read(status, 100).decode(), found]))
"""

SUBJECT = """
import ctypes, mmap, sys
made = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
made.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(0, 4096, 2):
    made[page * 4096] = 1
print(ctypes.addressof(ctypes.c_char.from_buffer(made)), flush=True)
sys.stdin.read()
"""

pytestmark = [
    pytest.mark.skipif(not page_scan.supported(), reason="needs Linux 6.16"),
    pytest.mark.timeout(20),
]


class Subject:
    """A process with 2,048 separate pages in one mapping."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SUBJECT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.start = int(self._process.stdout.readline())
        self.pid = self._process.pid

    @property
    def pages(self) -> list[int]:
        return [self.start + page * PAGE for page in range(0, 4096, 2)]

    def end(self) -> None:
        self._process.communicate()


@pytest.fixture
def subject() -> Iterator[Subject]:
    made = Subject()
    yield made
    made.end()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("library") / "hidden-memory.so"
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", path, SOURCE], check=True
    )
    return path


def what_criu_sees(
    subject: Subject, environment: Mapping[str, str], *, ranges: object, room: int = 4096
) -> tuple[str, str, list[int]]:
    argv = [sys.executable, "-c", READER, str(subject.pid), str(room), json.dumps(ranges)]
    done = subprocess.run(
        argv, env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    smaps, status, pages = json.loads(done.stdout)
    return smaps, status, pages


def hide(folder: Path, subject: Subject, *ranges: tuple[int, int]) -> None:
    packed = b"".join(struct.pack("=QQ", *one) for one in ranges)
    (folder / f"{subject.pid}.hidden").write_bytes(packed)


@pytest.mark.parametrize("room", [1, 7, 4096])
def test_pages_outside_of_the_hidden_ranges_are_found_and_no_others(
    library: Path, subject: Subject, tmp_path: Path, room: int
) -> None:
    start, end = subject.start, subject.start + 4096 * PAGE
    middle = (start + 100 * PAGE, start + 300 * PAGE)
    hide(tmp_path, subject, (start, start + 10 * PAGE), middle, (end - 50 * PAGE, end + PAGE))
    environment = {"LD_PRELOAD": str(library), FOLDER_VARIABLE: str(tmp_path)}
    asked = [(start, end)] if room > 1 else [(start, start + 400 * PAGE)]
    _, _, found = what_criu_sees(subject, environment, ranges=asked, room=room)
    shown = [*range(10, 100, 2), *range(300, 4096 - 50 if room > 1 else 400, 2)]
    assert found == [start + page * PAGE for page in shown]


def test_a_process_of_which_nothing_is_hidden_is_seen_as_it_is(
    library: Path, subject: Subject, tmp_path: Path
) -> None:
    environment = {"LD_PRELOAD": str(library), FOLDER_VARIABLE: str(tmp_path)}
    smaps, _, found = what_criu_sees(
        subject, environment, ranges=[(subject.start, subject.start + 4096 * PAGE)]
    )
    assert found == subject.pages
    assert "VmFlags:" in smaps


def test_smaps_and_nothing_else_comes_from_the_folder(
    library: Path, subject: Subject, tmp_path: Path
) -> None:
    (tmp_path / f"{subject.pid}.smaps").write_text("less")
    environment = {"LD_PRELOAD": str(library), FOLDER_VARIABLE: str(tmp_path)}
    smaps, status, _ = what_criu_sees(subject, environment, ranges=[])
    assert smaps == "less"
    assert status == Path(f"/proc/{subject.pid}/statm").read_text()


async def test_all_hidden_pages_are_found_by_the_scan(
    library: Path, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preload, "LIBRARY", library)
    memory = preload.hidden_memory(tmp_path, lambda: [subject.pid])
    assert isinstance(memory, HiddenMemory)
    await memory.start_survey()
    memory.hide()
    whole = [(subject.start, subject.start + 4096 * PAGE)]
    smaps, _, found = await asyncio.to_thread(
        what_criu_sees, subject, memory.environment, ranges=whole
    )
    assert found == []
    assert f"{subject.start:x}-{subject.start + PAGE:x} rw-p" in smaps
    ranges = memory.scan()[subject.pid].present
    pages = {page for start, end in ranges for page in range(start, end, PAGE)}
    assert pages >= {*subject.pages}


async def test_a_small_process_is_left_alone(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec("/bin/sleep", "100")
    try:
        memory = HiddenMemory(tmp_path, lambda: [child.pid])
        await memory.start_survey()
        memory.hide()
        assert list(tmp_path.iterdir()) == []
    finally:
        child.kill()
        await child.wait()


def test_without_the_library_criu_sees_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preload, "LIBRARY", tmp_path / "missing")
    memory = preload.hidden_memory(tmp_path, tuple)
    assert type(memory) is NothingHidden
    assert not memory.environment
