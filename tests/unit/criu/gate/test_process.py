"""The gate as a process, between a fake criu and this test, which stands for runc and agent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pytest

from fakes import criu as fake_criu
from transship.criu import rpc
from transship.criu.gate.messages import (
    CRIU_VARIABLE,
    PACKET_BYTES,
    SOCKET_VARIABLE,
    Message,
    MessageKind,
    RestoreSetup,
)
from transship.criu.gate.peers import Criu, Runc
from transship.criu.gate.process import Gate, inherited_pipes
from transship.criu.rpc import InheritedFile, Kind, Options, Request
from transship.linux.freezer import Freezer

YES = Request(kind=Kind.NOTIFY, notify_success=True).encode()
NO = Request(kind=Kind.NOTIFY, notify_success=False).encode()
STAGES = ("setup-namespaces 7", "post-restore 7", "network-unlock", "pre-resume", "post-resume")
WAIT_SECONDS = 10


class Stand:
    """A gate with folders for cgroups, and the channels of runc and the agent."""

    def __init__(self, folder: Path, *steps: str, unified: bool = False) -> None:
        self.folder = folder
        self.criu = fake_criu.install(folder / "criu", *steps)
        self.images, self.cgroup, self.criu_cgroup = (
            folder / name for name in ("images", "cgroup", "cgroup.criu")
        )
        for path in (self.images, self.cgroup, self.criu_cgroup):
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
        self._agent: socket.socket | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        places = {SOCKET_VARIABLE: str(self.folder / "agent"), CRIU_VARIABLE: str(self.criu)}
        with self._theirs as theirs:
            words = ["-m", "transship.criu.gate.process", "swrk", str(theirs.fileno())]
            return subprocess.Popen(
                [sys.executable, *words], pass_fds=[theirs.fileno()], env=os.environ | places
            )

    @property
    def agent(self) -> socket.socket:
        """The agent's connection to the gate."""
        assert self._agent is not None
        return self._agent

    def request_restore(self) -> None:
        """Send runc's request; returns when the gate is ready."""
        options = Options(images_dir_fd=99, root="/criu-root", log_level=4, tcp_established=True)
        self.runc.send(Request(kind=Kind.RESTORE, options=options).encode())
        self._agent, _ = self._listener.accept()
        self.agent.settimeout(WAIT_SECONDS)
        self.agent.send(self._setup().packet())
        assert self.received().kind is MessageKind.READY

    def _setup(self) -> RestoreSetup:
        return RestoreSetup(
            images=str(self.images),
            work=str(self.folder),
            root="/merged",
            log_level=2,
            cgroup=str(self.cgroup),
            control_file=self.freezer.control.name,
            freeze_word=self.freezer.freeze_word,
            state_file=self.freezer.state_file,
            frozen_line=self.freezer.frozen_line,
            criu_cgroup=str(self.criu_cgroup),
            gate_cgroups=(str(self.criu_cgroup),),
        )

    def send_go(self) -> None:
        self.agent.send(Message(MessageKind.GO).packet())

    def start_restore(self) -> None:
        self.request_restore()
        self.send_go()

    def received(self) -> Message:
        return Message.parse(self.agent.recv(PACKET_BYTES))

    def replies(self) -> list[str]:
        """The replies that CRIU got to its notifications."""
        path = self.folder / "criu" / "replies"
        return path.read_text().splitlines() if path.exists() else []

    def status(self) -> int:
        return self.gate.wait(WAIT_SECONDS)

    def close(self) -> None:
        for end in (self._listener, self.runc, self._agent):
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


class MakeStand(Protocol):
    def __call__(self, *steps: str, unified: bool = False) -> Stand: ...


@pytest.fixture
def stand(stands: list[Stand], tmp_path: Path) -> MakeStand:
    def make(*steps: str, unified: bool = False) -> Stand:
        stands.append(Stand(tmp_path, *steps, unified=unified))
        return stands[-1]

    return make


def test_a_restore_waits_for_the_agents_go_and_ends_in_a_frozen_cgroup(stand: MakeStand) -> None:
    here = stand(*STAGES, "succeed")
    here.request_restore()
    assert here.freezer.control.read_text() == ""
    here.send_go()
    assert rpc.decode(here.runc.recv(PACKET_BYTES)).script == "post-restore"
    here.runc.send(YES)
    assert here.received() == Message(MessageKind.HELD, pid=7)
    assert here.freezer.control.read_text() == "FROZEN"
    done = rpc.decode(here.runc.recv(PACKET_BYTES))
    assert (done.kind, done.success) == (Kind.RESTORE, True)
    assert here.status() == 0
    assert here.replies() == [f"{stage.split()[0]} True" for stage in STAGES]


def test_criu_is_asked_for_what_the_agent_says(stand: MakeStand) -> None:
    here = stand("succeed")
    here.start_restore()
    assert here.status() == 0
    request = rpc.parse((here.folder / "criu" / "request").read_bytes())
    assert request[1] == Kind.RESTORE
    assert isinstance(request[2], bytes)
    options = rpc.parse(request[2])
    assert options[13] == b"/merged"
    assert options[1] != 99
    assert (options[5], options[9]) == (1, 2)


def test_criu_and_the_gate_leave_the_containers_cgroup(stand: MakeStand) -> None:
    here = stand("setup-namespaces 7", "pre-resume", "post-resume", "succeed")
    here.start_restore()
    assert here.received().kind is MessageKind.HELD
    assert here.status() == 0
    pid = (here.folder / "criu" / "pid").read_text()
    assert (here.criu_cgroup / "cgroup.procs").read_text() == pid


def test_a_v2_cgroup_is_frozen(stand: MakeStand) -> None:
    here = stand("pre-resume", "post-resume", "succeed", unified=True)
    (here.cgroup / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    here.start_restore()
    assert here.received().kind is MessageKind.HELD
    assert here.freezer.control.read_text() == "1"


def test_what_does_not_freeze_is_killed(stand: MakeStand) -> None:
    here = stand("pre-resume", "post-resume", "succeed", unified=True)
    (here.cgroup / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    with subprocess.Popen(["sleep", "60"]) as victim:
        (here.cgroup / "cgroup.procs").write_text(f"{victim.pid}\n")
        here.start_restore()
        assert here.received().kind is MessageKind.FAILED
        assert victim.wait(WAIT_SECONDS) == -signal.SIGKILL
    assert here.status() != 0
    assert here.replies() == []


def test_a_criu_that_cannot_leave_the_cgroup_is_killed_with_what_it_made(stand: MakeStand) -> None:
    here = stand("orphan-pts-master", "pre-resume", "post-resume", "succeed")
    here.start_restore()
    # CRIU goes on when runc has replied, and finds itself in the cgroup
    here.runc.recv(PACKET_BYTES)
    (here.cgroup / "cgroup.procs").write_text((here.folder / "criu" / "pid").read_text())
    here.runc.send(YES)
    assert here.received().kind is MessageKind.FAILED
    assert here.replies() == ["orphan-pts-master True"]


@pytest.mark.parametrize("answer", [NO, None])
def test_a_restore_that_runc_does_not_take_over_fails(
    stand: MakeStand, answer: bytes | None
) -> None:
    here = stand(*STAGES, "succeed")
    here.start_restore()
    here.runc.recv(PACKET_BYTES)
    if answer is None:
        here.runc.close()
    else:
        here.runc.send(answer)
    assert here.received().kind is MessageKind.FAILED
    assert here.status() != 0
    assert "pre-resume True" not in here.replies()


def test_a_runc_that_ends_after_the_copy_is_held_does_not_undo_it(stand: MakeStand) -> None:
    here = stand("pre-resume", "post-resume", "succeed")
    here.request_restore()
    with subprocess.Popen(["sleep", "60"]) as member:
        (here.cgroup / "cgroup.procs").write_text(f"{member.pid}\n")
        here.send_go()
        assert here.received().kind is MessageKind.HELD
        here.runc.close()
        assert here.status() == 0
        assert member.poll() is None
        member.kill()


@pytest.mark.parametrize("steps", [("die",), ("fail",), ("pre-resume", "die")])
def test_a_criu_that_fails_leaves_nothing_that_could_run(
    stand: MakeStand, steps: tuple[str, ...]
) -> None:
    here = stand(*steps)
    here.request_restore()
    with subprocess.Popen(["sleep", "60"]) as member:
        (here.cgroup / "cgroup.procs").write_text(f"{member.pid}\n")
        here.send_go()
        assert here.received().kind is MessageKind.FAILED
        assert member.wait(WAIT_SECONDS) == -signal.SIGKILL
    assert here.freezer.control.read_text() == "FROZEN"
    assert here.status() != 0


@pytest.mark.parametrize("peer", ["agent", "runc"])
def test_a_gate_that_nobody_waits_for_ends_criu_and_itself(stand: MakeStand, peer: str) -> None:
    here = stand("succeed")
    here.request_restore()
    pid = int(_content(here.folder / "criu" / "pid"))
    getattr(here, peer).close()
    assert here.status() != 0
    assert not Path(f"/proc/{pid}").exists()


def test_a_criu_whose_gate_was_killed_waits_for_ever(stand: MakeStand) -> None:
    here = stand("post-restore 7", "pre-resume", "post-resume", "succeed")
    here.start_restore()
    here.runc.recv(PACKET_BYTES)  # at pre-resume the gate waits for the answer
    pid = int(_content(here.folder / "criu" / "pid"))
    _until(lambda: here.replies() == ["post-restore True"])
    here.gate.kill()
    here.gate.wait()
    _until(lambda: b"wait_for_more_packets" in _waits_in(pid))
    assert here.replies() == ["post-restore True"]
    os.kill(pid, signal.SIGKILL)


def test_what_is_no_restore_goes_to_the_real_criu(stand: MakeStand) -> None:
    here = stand("succeed")
    here.runc.send(Request(kind=Kind.VERSION).encode())
    assert rpc.decode(here.runc.recv(PACKET_BYTES)).success


def test_the_gate_does_not_take_a_process_of_another_pid_namespace_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    (tmp_path / "cgroup.procs").write_text("0\n4711\n")
    setup = RestoreSetup(
        images="", work="", root="", log_level=2, cgroup=str(tmp_path), control_file="control",
        freeze_word="1", state_file="", frozen_line="", criu_cgroup="", gate_cgroups=(),
    )  # fmt: skip
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        Gate(Runc(ours), theirs, DeadCriu(), setup).abort()
    assert killed == [4711]


class DeadCriu(Criu):
    def __init__(self) -> None:
        """There is no process."""

    @property
    def pid(self) -> int:
        return 1

    def kill(self) -> None:
        """Nothing is left to kill."""


def test_only_pipes_are_inherited() -> None:
    assert inherited_pipes('["/dev/pts/0", "pipe:[5]"]') == (InheritedFile("pipe:[5]", 1),)
    assert inherited_pipes("null") == ()


def _content(path: Path) -> str:
    _until(lambda: path.exists() and path.read_text())
    return path.read_text()


def _waits_in(pid: int) -> bytes:
    return Path(f"/proc/{pid}/wchan").read_bytes()


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
