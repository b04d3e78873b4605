from __future__ import annotations

import json
import os

import pytest

from transship.runtime.runc import Runc, RuncState, Status, start_ticks


@pytest.fixture
def record(tmp_path):
    def write(*, pid: int, start: int | None, fifo: bool = False) -> Runc:
        home = tmp_path / "id"
        home.mkdir()
        state = {"init_process_pid": pid, "init_process_start": start, "more": {}}
        (home / "state.json").write_text(json.dumps(state))
        if fifo:
            (home / "exec.fifo").touch()
        return Runc(tmp_path)

    return write


def test_a_process_of_the_recorded_age_runs(record):
    runc = record(pid=os.getpid(), start=start_ticks(os.getpid()))
    assert runc.state("id") == RuncState(Status.RUNNING, os.getpid())


def test_before_its_program_is_started_it_is_created(record):
    runc = record(pid=os.getpid(), start=start_ticks(os.getpid()), fifo=True)
    assert runc.state("id").status is Status.CREATED


def test_another_process_of_the_same_pid_does_not_count(record):
    assert record(pid=os.getpid(), start=1).state("id").status is Status.STOPPED


def test_a_pid_that_is_gone_is_stopped(record):
    assert record(pid=2**22 + 1, start=1).state("id").status is Status.STOPPED


def test_what_runc_does_not_know_is_absent(tmp_path):
    assert Runc(tmp_path).state("id") == RuncState(Status.ABSENT)


def test_a_zombie_has_ended():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert start_ticks(child) is None
    os.waitpid(child, 0)
