"""The daemon's life, by a shell program in CRIU's place."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.runtime import lazy_daemon
from transship.runtime.failures import CheckpointFailed
from transship.runtime.layout import Layout
from transship.runtime.lazy_daemon import LazyDaemon

READY = """for word; do
    case $word in --status-fd=*) echo >"/proc/self/fd/${word#*=}" ;; esac
done
"""


@pytest.fixture
async def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LazyDaemon]:
    """One that is ready; what it is to do is to be written by `does`."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(lazy_daemon, "leave_agent", lambda _layout, *, pid: None)
    daemon = await LazyDaemon.ready(Layout(runtime_dir=tmp_path), "c")
    yield daemon
    await daemon.close()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return Layout(runtime_dir=tmp_path).images("c") / "work"


def does(directory: Path, words: str) -> None:
    program = directory / "criu"
    program.write_text(f"#!/bin/sh\n{words}")
    program.chmod(0o755)


async def test_it_is_started_and_ends_well(daemon: LazyDaemon, tmp_path: Path) -> None:
    does(tmp_path, READY)
    await daemon.start()
    await daemon.finish(timeout_seconds=5)
    with pytest.raises(ProcessLookupError):
        os.kill(daemon.pid, 0)


async def test_a_failed_end_is_a_loss_of_pages(daemon: LazyDaemon, tmp_path: Path) -> None:
    does(tmp_path, f"{READY}exit 1")
    await daemon.start()
    with pytest.raises(CheckpointFailed) as caught:
        await daemon.finish(timeout_seconds=5)
    assert caught.value.reason == Reason.PAGES_LOST


async def test_one_that_does_not_become_ready_has_failed(
    daemon: LazyDaemon, tmp_path: Path
) -> None:
    does(tmp_path, "exit 1")
    with pytest.raises(CheckpointFailed) as caught:
        await daemon.start()
    assert caught.value.reason == Reason.PAGE_SERVER_FAILED


async def test_it_is_not_started_twice(daemon: LazyDaemon, tmp_path: Path) -> None:
    does(tmp_path, READY)
    await daemon.start()
    with pytest.raises(TransshipError, match="started before"):
        await daemon.start()


async def test_one_that_is_not_done_goes_on(daemon: LazyDaemon, tmp_path: Path) -> None:
    does(tmp_path, f"{READY}exec sleep 60")
    await daemon.start()
    with pytest.raises(DeadlineExceeded):
        await daemon.finish(timeout_seconds=0.01)
    os.kill(daemon.pid, 0)


async def test_it_does_not_see_its_page_server_leave(daemon: LazyDaemon, tmp_path: Path) -> None:
    does(tmp_path, f"{READY}exec sleep 60")
    await daemon.start()
    ours = os.fstat(daemon.pages.fileno())
    assert os.path.samestat(Path(f"/proc/{daemon.pid}/fd/{daemon.pages.fileno()}").stat(), ours)


async def test_one_left_behind_is_ended(daemon: LazyDaemon, tmp_path: Path, work: Path) -> None:
    does(tmp_path, f"{READY}exec sleep 60")
    await daemon.start()
    lazy_daemon.end_left(work)
    with pytest.raises(CheckpointFailed):
        await daemon.finish(timeout_seconds=5)
    lazy_daemon.end_left(work)


async def test_another_process_of_its_number_is_left_alone(work: Path) -> None:
    work.mkdir(parents=True)
    (work / lazy_daemon.PIDFILE).write_text(f"{os.getpid()} 1")
    lazy_daemon.end_left(work)
    assert not (work / lazy_daemon.PIDFILE).exists()


def test_a_process_with_all_of_its_memory_is_whole() -> None:
    lazy_daemon.require_whole([os.getpid()])


def test_a_mapping_that_waits_for_pages_is_known_by_its_mark() -> None:
    waiting = b"Locked: 0 kB\nVmFlags: rd wr mr mw me ac um sd \n7f00 rw-p\nVmFlags: rd \n"
    tracked = waiting.replace(b" um ", b" uw ")
    assert lazy_daemon._MISSING_PAGES.search(waiting)
    assert not lazy_daemon._MISSING_PAGES.search(tracked)
