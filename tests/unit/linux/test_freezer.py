from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, NotFound
from transship.linux.freezer import Freezer, FreezerState


@pytest.fixture
def v1(tmp_path: Path) -> Freezer:
    (tmp_path / "freezer.state").write_text("THAWED\n")
    (tmp_path / "cgroup.procs").write_text("")
    return Freezer(tmp_path, unified=False)


@pytest.fixture
def v2(tmp_path: Path) -> Freezer:
    (tmp_path / "cgroup.freeze").write_text("0\n")
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    (tmp_path / "cgroup.procs").write_text("")
    return Freezer(tmp_path, unified=True)


def test_a_cgroup_that_is_gone_has_no_processes(tmp_path: Path) -> None:
    assert Freezer(tmp_path / "gone", unified=True).processes() == ()


def test_a_shortage_is_no_empty_cgroup(v1: Freezer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise OSError(errno.EMFILE, "descriptors are short")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(OSError, match="short"):
        v1.processes()


async def test_freezing_v1_writes_its_word(v1: Freezer) -> None:
    await v1.freeze()
    assert v1.control.read_text() == "FROZEN"
    assert v1.state() is FreezerState.FROZEN


def test_thawing_writes_the_word_of_each_version(v1: Freezer) -> None:
    v1.thaw()
    assert v1.state() is FreezerState.THAWED


def test_thawing_v2(v2: Freezer) -> None:
    v2.thaw()
    assert v2.control.read_text() == "0"


def test_v2_is_freezing_until_its_events_say_frozen(v2: Freezer) -> None:
    v2.control.write_text("1")
    assert v2.state() is FreezerState.FREEZING
    (v2.path / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert v2.state() is FreezerState.FROZEN


async def test_a_freeze_that_is_not_done_in_time_is_taken_back(v2: Freezer) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await v2.freeze(timeout_seconds=0.02)
    assert caught.value.reason == Reason.FREEZE_TIMED_OUT
    assert v2.control.read_text() == "0"


async def test_a_freeze_that_is_cancelled_is_taken_back(v2: Freezer) -> None:
    freezing = asyncio.create_task(v2.freeze())
    await asyncio.sleep(0)
    freezing.cancel()
    await asyncio.wait([freezing])
    assert v2.control.read_text() == "0"


def test_a_cgroup_that_is_gone_is_not_found(tmp_path: Path) -> None:
    gone = Freezer(tmp_path / "gone", unified=False)
    with pytest.raises(NotFound):
        gone.state()
    with pytest.raises(NotFound):
        gone.thaw()
    assert gone.processes() == ()
    assert gone.stopped_tasks() == ()


def test_a_process_of_another_pid_namespace_is_none_that_could_be_killed(v2: Freezer) -> None:
    (v2.path / "cgroup.procs").write_text("0\n4711\n")
    assert v2.processes() == (4711,)
