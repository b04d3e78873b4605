from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Protocol

import pytest

from transship.linux.processes import start_time
from transship.runtime.runc import Runc, RuncState, Status


class Record(Protocol):
    def __call__(self, *, pid: int, start: int, fifo: bool = False) -> Runc: ...


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Write runc's state of the container `id`."""

    def write(*, pid: int, start: int, fifo: bool = False) -> Runc:
        home = tmp_path / "id"
        home.mkdir()
        state = {"init_process_pid": pid, "init_process_start": start, "more": {}}
        (home / "state.json").write_text(json.dumps(state))
        if fifo:
            (home / "exec.fifo").touch()
        return Runc(tmp_path)

    return write


def test_a_process_of_the_recorded_age_runs(record: Record) -> None:
    runc = record(pid=os.getpid(), start=start_time(os.getpid()))
    assert runc.state("id") == RuncState(Status.RUNNING, os.getpid())


def test_before_its_program_is_started_it_is_created(record: Record) -> None:
    runc = record(pid=os.getpid(), start=start_time(os.getpid()), fifo=True)
    assert runc.state("id").status is Status.CREATED


def test_another_process_of_the_same_pid_does_not_count(record: Record) -> None:
    assert record(pid=os.getpid(), start=1).state("id").status is Status.STOPPED


def test_a_pid_that_is_gone_is_stopped(record: Record) -> None:
    assert record(pid=2**22 + 1, start=1).state("id").status is Status.STOPPED


def test_what_runc_does_not_know_is_absent(tmp_path: Path) -> None:
    assert Runc(tmp_path).state("id") == RuncState(Status.ABSENT)


def test_a_zombie_has_ended(record: Record) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    runc = record(pid=child, start=start_time(child))
    assert runc.state("id").status is Status.STOPPED
    os.waitpid(child, 0)
