"""The gate as a process, between a criu that plays a script, and this test as runc and agent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fakes import criu as fake_criu
from transship.criu import rpc
from transship.criu.gate.messages import (
    CRIU_VARIABLE,
    PACKET_BYTES,
    SOCKET_VARIABLE,
    Orders,
    Said,
    Word,
)
from transship.criu.gate.process import Gate, inherited_pipes
from transship.criu.rpc import InheritedFile, Kind, Options, Request
from transship.linux.freezer import Freezer

YES = Request(kind=Kind.NOTIFY, notify_success=True).encode()
NO = Request(kind=Kind.NOTIFY, notify_success=False).encode()
STAGES = ("setup-namespaces 7", "post-restore 7", "network-unlock", "pre-resume", "post-resume")
WAIT_SECONDS = 10


class Stand:
    """Folders that look like cgroups, and the two ends that the gate talks to."""

    def __init__(self, folder: Path, *steps: str, unified: bool = False) -> None:
        self.folder = folder
        self.criu = fake_criu.install(folder / "criu", *steps)
        self.images, self.cgroup, self.refuge = (
            folder / name for name in ("images", "cgroup", "cgroup.criu")
        )
        for path in (self.images, self.cgroup, self.refuge):
            path.mkdir()
        (self.images / "descriptors.json").write_text('["pipe:[1]", "/dev/null", "pipe:[3]"]')
        (self.cgroup / "cgroup.procs").touch()
        self.freezer = Freezer(self.cgroup, unified=unified)
        self.freezer.control.touch()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(folder / "agent"))
        self._listener.listen()
        self._listener.settimeout(WAIT_SECONDS)
        self.runc, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.runc.settimeout(WAIT_SECONDS)
        self.gate = self._start()
        self.agent: socket.socket | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        places = {SOCKET_VARIABLE: str(self.folder / "agent"), CRIU_VARIABLE: str(self.criu)}
        with self._theirs as theirs:
            words = ["-m", "transship.criu.gate.process", "swrk", str(theirs.fileno())]
            return subprocess.Popen(
                [sys.executable, *words], pass_fds=[theirs.fileno()], env=os.environ | places
            )

    def ask(self) -> None:
        """Up to the gate's `ready`."""
        options = Options(images_dir_fd=99, root="/criu-root", log_level=4, tcp_established=True)
        self.runc.send(Request(kind=Kind.RESTORE, options=options).encode())
        self.agent, _ = self._listener.accept()
        self.agent.settimeout(WAIT_SECONDS)
        self.agent.send(self._orders().packet())
        assert self.heard().said is Said.READY

    def _orders(self) -> Orders:
        return Orders(
            images=str(self.images),
            work=str(self.folder),
            root="/merged",
            log_level=2,
            cgroup=str(self.cgroup),
            control_file=self.freezer.control.name,
            freeze_word=self.freezer.freeze_word,
            state_file=self.freezer.state_file,
            frozen_line=self.freezer.frozen_line,
            refuge=str(self.refuge),
            refuges=(str(self.refuge),),
        )

    def go(self) -> None:
        self.ask()
        assert self.agent is not None
        self.agent.send(Word(Said.GO).packet())

    def heard(self) -> Word:
        assert self.agent is not None
        return Word.read(self.agent.recv(PACKET_BYTES))

    def told(self) -> list[str]:
        """What criu was answered."""
        path = self.folder / "criu" / "told"
        return path.read_text().splitlines() if path.exists() else []

    def status(self) -> int:
        return self.gate.wait(WAIT_SECONDS)

    def close(self) -> None:
        for end in (self._listener, self.runc, self.agent):
            if end is not None:
                end.close()
        self.gate.kill()
        self.gate.wait()
        self._end_criu()

    def _end_criu(self) -> None:
        """It holds both ends of its channel: where the gate was killed it waits for ever."""
        with suppress(FileNotFoundError, ProcessLookupError):
            pid = int((self.folder / "criu" / "pid").read_text())
            if str(self.folder) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def stands() -> Iterator[list[Stand]]:
    made: list[Stand] = []
    yield made
    for stand in made:
        stand.close()


@pytest.fixture
def stand(stands, tmp_path):
    def make(*steps: str, unified: bool = False) -> Stand:
        stands.append(Stand(tmp_path, *steps, unified=unified))
        return stands[-1]

    return make


def test_a_restore_waits_for_the_agents_go_and_ends_in_a_frozen_cgroup(stand) -> None:
    here = stand(*STAGES, "succeed")
    here.ask()
    assert here.freezer.control.read_text() == ""
    here.agent.send(Word(Said.GO).packet())
    assert rpc.decode(here.runc.recv(PACKET_BYTES)).notice == "post-restore"
    here.runc.send(YES)
    assert here.heard() == Word(Said.HELD, pid=7)
    assert here.freezer.control.read_text() == "FROZEN"
    done = rpc.decode(here.runc.recv(PACKET_BYTES))
    assert (done.kind, done.success) == (Kind.RESTORE, True)
    assert here.status() == 0
    assert here.told() == [f"{stage.split()[0]} True" for stage in STAGES]


def test_criu_is_asked_for_what_the_agent_says(stand) -> None:
    here = stand("succeed")
    here.go()
    assert here.status() == 0
    seen = rpc.parse((here.folder / "criu" / "request").read_bytes())
    options = rpc.parse(seen[2])
    assert seen[1] == Kind.RESTORE
    assert options[13] == b"/merged"
    assert options[1] != 99
    assert (options[5], options[9]) == (1, 2)


def test_criu_and_the_gate_leave_the_containers_cgroup(stand) -> None:
    here = stand("setup-namespaces 7", "pre-resume", "post-resume", "succeed")
    here.go()
    assert here.heard().said is Said.HELD
    assert here.status() == 0
    pid = (here.folder / "criu" / "pid").read_text()
    assert (here.refuge / "cgroup.procs").read_text() == pid


def test_a_v2_cgroup_is_frozen(stand) -> None:
    here = stand("pre-resume", "post-resume", "succeed", unified=True)
    (here.cgroup / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    here.go()
    assert here.heard().said is Said.HELD
    assert here.freezer.control.read_text() == "1"


def test_what_does_not_freeze_is_killed(stand) -> None:
    here = stand("pre-resume", "post-resume", "succeed", unified=True)
    (here.cgroup / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    with subprocess.Popen(["sleep", "60"]) as victim:
        (here.cgroup / "cgroup.procs").write_text(f"{victim.pid}\n")
        here.go()
        assert here.heard().said is Said.FAILED
        assert victim.wait(WAIT_SECONDS) == -signal.SIGKILL
    assert here.status() != 0
    assert here.told() == []


def test_a_criu_that_cannot_leave_the_cgroup_is_killed_with_what_it_made(stand) -> None:
    here = stand("orphan-pts-master", "pre-resume", "post-resume", "succeed")
    here.go()
    # CRIU goes on when runc has replied, and finds itself in the cgroup
    here.runc.recv(PACKET_BYTES)
    (here.cgroup / "cgroup.procs").write_text((here.folder / "criu" / "pid").read_text())
    here.runc.send(YES)
    assert here.heard().said is Said.FAILED
    assert here.told() == ["orphan-pts-master True"]


@pytest.mark.parametrize("answer", [NO, None])
def test_a_restore_that_runc_does_not_take_over_fails(stand, answer) -> None:
    here = stand(*STAGES, "succeed")
    here.go()
    here.runc.recv(PACKET_BYTES)
    if answer is None:
        here.runc.close()
    else:
        here.runc.send(answer)
    assert here.heard().said is Said.FAILED
    assert here.status() != 0
    assert "pre-resume True" not in here.told()


def test_a_runc_that_ends_after_the_copy_is_held_does_not_undo_it(stand) -> None:
    here = stand("pre-resume", "post-resume", "succeed")
    here.ask()
    with subprocess.Popen(["sleep", "60"]) as member:
        (here.cgroup / "cgroup.procs").write_text(f"{member.pid}\n")
        here.agent.send(Word(Said.GO).packet())
        assert here.heard().said is Said.HELD
        here.runc.close()
        assert here.status() == 0
        assert member.poll() is None
        member.kill()


@pytest.mark.parametrize("steps", [("die",), ("fail",), ("pre-resume", "die")])
def test_a_criu_that_fails_leaves_nothing_that_could_run(stand, steps) -> None:
    here = stand(*steps)
    here.ask()
    with subprocess.Popen(["sleep", "60"]) as member:
        (here.cgroup / "cgroup.procs").write_text(f"{member.pid}\n")
        here.agent.send(Word(Said.GO).packet())
        assert here.heard().said is Said.FAILED
        assert member.wait(WAIT_SECONDS) == -signal.SIGKILL
    assert here.freezer.control.read_text() == "FROZEN"
    assert here.status() != 0


@pytest.mark.parametrize("who", ["agent", "runc"])
def test_a_gate_that_nobody_waits_for_ends_criu_and_itself(stand, who) -> None:
    here = stand("succeed")
    here.ask()
    pid = int(_content(here.folder / "criu" / "pid"))
    getattr(here, who).close()
    assert here.status() != 0
    assert not Path(f"/proc/{pid}").exists()


def test_a_criu_whose_gate_was_killed_waits_for_ever(stand) -> None:
    here = stand("post-restore 7", "pre-resume", "post-resume", "succeed")
    here.go()
    here.runc.recv(PACKET_BYTES)  # at pre-resume the gate waits for the answer
    pid = int(_content(here.folder / "criu" / "pid"))
    _until(lambda: here.told() == ["post-restore True"])
    here.gate.kill()
    here.gate.wait()
    _until(lambda: b"wait_for_more_packets" in _waits_in(pid))
    assert here.told() == ["post-restore True"]
    os.kill(pid, signal.SIGKILL)


def test_what_is_no_restore_goes_to_the_real_criu(stand) -> None:
    here = stand("succeed")
    here.runc.send(Request(kind=Kind.VERSION).encode())
    assert rpc.decode(here.runc.recv(PACKET_BYTES)).success


def test_the_gate_does_not_take_a_process_of_another_pid_namespace_for_itself(
    tmp_path, monkeypatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    (tmp_path / "cgroup.procs").write_text("0\n4711\n")
    orders = Orders(
        images="", work="", root="", log_level=2, cgroup=str(tmp_path), control_file="control",
        freeze_word="1", state_file="", frozen_line="", refuge="", refuges=(),
    )  # fmt: skip
    Gate(runc=None, agent=None, criu=DeadCriu(), orders=orders).end()
    assert killed == [4711]


class DeadCriu:
    pid = 1

    def kill(self) -> None:
        pass


def test_only_pipes_are_inherited() -> None:
    assert inherited_pipes('["/dev/pts/0", "pipe:[5]"]') == (InheritedFile("pipe:[5]", 1),)
    assert inherited_pipes("null") == ()


def _content(path: Path) -> str:
    _until(lambda: path.exists() and path.read_text())
    return path.read_text()


def _waits_in(pid: int) -> bytes:
    return Path(f"/proc/{pid}/wchan").read_bytes()


def _until(condition) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
