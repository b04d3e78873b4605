import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from transship.common.errors import NotFound, Refused
from transship.lab import daemons
from transship.lab.daemons import (
    daemon_alive,
    daemon_names,
    daemon_pid,
    find_record,
    kill_daemon,
    log_path,
    start_daemon,
    stop_daemon,
)

WAITS = ["sleep", "60"]
IGNORES_TERM = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for name in daemon_names(tmp_path):
        kill_daemon(tmp_path, name)


def await_log(lab: Path, name: str, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in log_path(lab, name).read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_started_daemon_runs_in_a_session_of_its_own_and_is_recorded(lab: Path) -> None:
    pid = start_daemon(lab, "waiter", WAITS)
    record = find_record(lab, "waiter")
    assert record is not None
    assert (record.pid, record.argv) == (pid, tuple(WAITS))
    assert os.getsid(pid) == pid
    assert daemon_alive(lab, "waiter")
    assert daemon_pid(lab, "waiter") == pid


def test_what_a_daemon_prints_is_appended_to_its_log(lab: Path) -> None:
    for word in ("one", "two"):
        start_daemon(lab, "speaker", ["sh", "-c", f"echo {word}; echo {word} >&2"])
        await_log(lab, "speaker", f"{word}\n{word}\n")
        kill_daemon(lab, "speaker")
    assert log_path(lab, "speaker").read_text() == "one\none\ntwo\ntwo\n"


def test_a_daemon_reads_nothing_and_has_only_the_environment_it_is_given(lab: Path) -> None:
    start_daemon(lab, "env", ["sh", "-c", 'cat; echo "$A-$HOME"'], env={"A": "x", "PATH": "/bin"})
    await_log(lab, "env", "x-\n")


def test_a_stopped_daemon_is_gone(lab: Path) -> None:
    pid = start_daemon(lab, "waiter", WAITS)
    stop_daemon(lab, "waiter")
    assert not daemon_alive(lab, "waiter")
    assert not Path(f"/proc/{pid}").exists()


def test_a_daemon_that_ignores_the_request_is_killed_after_its_grace(lab: Path) -> None:
    start_daemon(lab, "stubborn", IGNORES_TERM)
    await_log(lab, "stubborn", "ready")
    stop_daemon(lab, "stubborn", grace_seconds=0.05)
    assert not daemon_alive(lab, "stubborn")


def test_a_stopped_process_is_killed_all_the_same(lab: Path) -> None:
    os.kill(start_daemon(lab, "waiter", WAITS), signal.SIGSTOP)
    kill_daemon(lab, "waiter")
    assert not daemon_alive(lab, "waiter")


def test_stopping_what_never_ran_or_has_ended_does_nothing(lab: Path) -> None:
    stop_daemon(lab, "nobody")
    start_daemon(lab, "waiter", WAITS)
    kill_daemon(lab, "waiter")
    kill_daemon(lab, "waiter")
    stop_daemon(lab, "waiter")


def test_a_daemon_that_runs_is_not_started_twice(lab: Path) -> None:
    start_daemon(lab, "waiter", WAITS)
    with pytest.raises(Refused):
        start_daemon(lab, "waiter", WAITS)


def test_a_daemon_that_has_ended_can_be_started_again(lab: Path) -> None:
    first = start_daemon(lab, "waiter", WAITS)
    kill_daemon(lab, "waiter")
    assert start_daemon(lab, "waiter", WAITS) != first


@pytest.mark.parametrize("other", [{"start_ticks": 1}, {"boot_id": "another"}])
def test_another_process_with_the_recorded_pid_is_left_alone(
    lab: Path, other: dict[str, object]
) -> None:
    pid = start_daemon(lab, "waiter", WAITS)
    record = find_record(lab, "waiter")
    assert record is not None
    daemons._write(lab, record.model_copy(update=other))
    assert not daemon_alive(lab, "waiter")
    kill_daemon(lab, "waiter")
    assert Path(f"/proc/{pid}").exists()
    daemons._write(lab, record)


def test_a_daemon_that_ended_and_was_not_reaped_does_not_run(lab: Path) -> None:
    pid = start_daemon(lab, "short", ["true"])
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not daemon_alive(lab, "short")
    with pytest.raises(NotFound, check=lambda e: e.reason == "DaemonNotRunning"):
        daemon_pid(lab, "short")


def test_when_the_starter_dies_before_the_record_the_program_never_runs(
    lab: Path, tmp_path: Path
) -> None:
    proof = tmp_path / "ran"
    starter = os.fork()
    if starter == 0:
        daemons._record = lambda *_: os._exit(7)
        start_daemon(lab, "orphan", ["touch", proof])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(starter, 0)[1]) == 7
    # the shell at the gate ends with the starter's end of the socket, and closes its log last
    deadline = time.monotonic() + 5
    while any_process_writes_to(log_path(lab, "orphan")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert not proof.exists()
    assert find_record(lab, "orphan") is None


def any_process_writes_to(path: Path) -> bool:
    for link in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            if link.readlink() == path:
                return True
        except OSError:
            continue
    return False


def test_a_program_entered_through_another_is_the_one_that_is_recorded(lab: Path) -> None:
    # sh stands for nsenter: it forks, and stays as the parent
    through = ["/bin/sh", "-c", '"$@"; exit', "through"]
    words = ["sh", "-c", "echo $$; sleep 60"]
    pid = start_daemon(lab, "inner", words, enter=through)
    await_log(lab, "inner", f"{pid}\n")
    kill_daemon(lab, "inner")
    assert not daemon_alive(lab, "inner")


def test_a_program_that_is_not_there_says_so_in_its_log(lab: Path) -> None:
    start_daemon(lab, "missing", ["/no/such/program"])
    await_log(lab, "missing", "not found")
