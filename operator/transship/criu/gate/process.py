"""The gate: stands between runc and CRIU, so that a restore can begin before its images exist.

A program that runc takes for criu. It hands everything but a restore to the real one. Of a restore
it keeps the request, starts CRIU so far that only the request is missing, and waits for the agent's
word: what conmon, runc and CRIU need for their start is over before the blackout begins.

It also keeps the copy from running. At `pre-resume` all tasks are restored and in ptrace's hands;
frozen there, they are let go into a frozen cgroup, and run when that is thawed. Nothing has run
then, no signal was sent, stopped tasks are still stopped. (CRIU's `leave-stopped` sends SIGSTOP and
needs SIGCONT, which shells see, and which wakes what had been stopped before.)

Who dies when:
- the agent, before its go: the gate sees it and ends CRIU and itself; runc and conmon end of that;
- the gate: CRIU waits for an answer for ever (see gate_ends.Criu), so its tasks cannot run; an
  agent ends them all (restore.discard);
- CRIU: before `pre-resume` what it has made is killed, from there on killed while it is frozen;
- runc: before `pre-resume` the restore fails, from there on the copy is complete without it.

A process of its own, started by runc within the container's cgroups; standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path

from transship.common.errors import TransshipError
from transship.criu import rpc
from transship.criu.gate.ends import Criu, Notice, Runc
from transship.criu.gate.messages import (
    CRIU_VARIABLE,
    PACKET_BYTES,
    SOCKET_VARIABLE,
    Orders,
    Said,
    Word,
)
from transship.criu.rpc import InheritedFile, Kind, Options
from transship.linux import cgroups

UNDO_TIMEOUT_SECONDS = 5.0
"""For a CRIU that is refused an answer: it kills what it has made, and unmounts."""


class Gate:
    """One restore, from runc's request to the held copy."""

    def __init__(self, runc: Runc, agent: socket.socket, criu: Criu, orders: Orders) -> None:
        self._runc = runc
        self._agent = agent
        self._criu = criu
        self._orders = orders
        self._stage = ""  # of which CRIU waits for an answer
        self._leaving: threading.Thread | None = None
        self._pid = 0
        self.held = False

    def await_go(self) -> None:
        """Raises TransshipError when anybody has ended instead."""
        self.tell(Word(Said.READY))
        poll = select.poll()
        for end in (self._agent, self._runc, self._criu):
            poll.register(end.fileno(), select.POLLIN)
        if [descriptor for descriptor, _ in poll.poll()] != [self._agent.fileno()]:
            raise TransshipError("runc or CRIU has ended")
        packet = self._agent.recv(PACKET_BYTES)
        if not packet or Word.read(packet).said is not Said.GO:
            raise TransshipError("the agent has ended")

    def restore(self, request: bytes) -> None:
        """Restore up to a held copy. Raises TransshipError, OSError or ValueError."""
        self._criu.send(rpc.with_options(request, self._options()))
        while (notice := self._criu.receive()).response.kind == Kind.NOTIFY:
            self._stage = notice.response.notice
            self._act(notice)
            self._stage = ""
            self._criu.answer(yes=True)
        if not notice.response.success:
            raise TransshipError(notice.response.error or "CRIU failed")

    def _options(self) -> Options:
        """What runc could not know: its own root directory is empty, and so are its images."""
        images, work = (
            os.open(path, os.O_DIRECTORY | os.O_RDONLY)
            for path in (self._orders.images, self._orders.work)
        )
        names = (Path(self._orders.images) / "descriptors.json").read_text()
        return Options(
            images_dir_fd=images,
            work_dir_fd=work,
            root=self._orders.root,
            log_level=self._orders.log_level,
            inherited=inherited_pipes(names),
        )

    def _act(self, notice: Notice) -> None:
        match notice.response.notice:
            case "setup-namespaces":
                # process 1 is in the cgroup where all others will be born: CRIU may leave it. In v1
                # that waits up to 20 ms for the kernel
                self._leaving = threading.Thread(target=self._move_criu, daemon=True)
                self._leaving.start()
            case "orphan-pts-master":
                self._runc.forward(notice)
                self._runc.settle()
            case "post-restore":
                # runc writes its record of the container meanwhile
                self._pid = notice.response.pid
                self._runc.forward(notice)
            case "pre-resume":
                self._hold()  # first: the tasks would run if CRIU was killed here
                self._runc.settle()
            case "post-resume":
                self._runc.require_alive()
                self.held = True
                self.tell(Word(Said.HELD, pid=self._pid))
            case _:
                pass

    def _move_criu(self) -> None:
        with contextlib.suppress(OSError):  # found out before it matters
            (Path(self._orders.refuge) / "cgroup.procs").write_text(str(self._criu.pid))

    def _hold(self) -> None:
        if self._leaving is not None:
            self._leaving.join()
        if self._criu.pid in self._members():
            raise TransshipError("CRIU could not leave the container's cgroup")
        self._freeze()
        state = (Path(self._orders.cgroup) / self._orders.state_file).read_text()
        if self._orders.frozen_line not in state.splitlines():
            raise TransshipError("the restored tasks could not be frozen")

    def _freeze(self) -> None:
        (Path(self._orders.cgroup) / self._orders.control_file).write_text(self._orders.freeze_word)

    def _members(self) -> tuple[int, ...]:
        return cgroups.pids((Path(self._orders.cgroup) / "cgroup.procs").read_text())

    def end(self) -> None:
        """Leave nothing that could run. CRIU is to undo what it has done, as long as it can."""
        if self._stage and self._stage != "pre-resume":
            with contextlib.suppress(OSError):
                self._criu.answer(yes=False)
            self._criu.ends(seconds=UNDO_TIMEOUT_SECONDS)
        with contextlib.suppress(OSError):
            members = self._members()
            if self._criu.pid not in members:
                self._freeze()  # a task that its tracer leaves alone would run until it is killed
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._criu.kill()

    def finish(self) -> None:
        """The copy is held, whatever becomes of the others: runc shall keep its record of it."""
        with contextlib.suppress(OSError):
            self._runc.confirm()
        self._criu.ends(seconds=UNDO_TIMEOUT_SECONDS)

    def tell(self, word: Word) -> None:
        with contextlib.suppress(OSError):  # an agent that died: the next one discards the copy
            self._agent.sendall(word.packet())


def inherited_pipes(descriptors: str) -> tuple[InheritedFile, ...]:
    """The container's standard streams where they are pipes: now the new conmon's, which CRIU has.

    `descriptors` is descriptors.json of the dump. A terminal is not among them: CRIU makes it.
    """
    return tuple(
        InheritedFile(key=name, fd=number)
        for number, name in enumerate(json.loads(descriptors) or ())
        if name.startswith("pipe:")
    )


def _inherited() -> tuple[int, ...]:
    """What runc has given to criu besides the standard streams."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        with contextlib.suppress(OSError):  # the descriptor of this directory
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return tuple(found)


def _mute() -> None:
    """CRIU has the container's streams now; here they would keep conmon waiting for their end."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def _open(channel: socket.socket, request: bytes, inherited: tuple[int, ...]) -> int:
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    agent.connect(os.environ[SOCKET_VARIABLE])
    orders = Orders.read(agent.recv(PACKET_BYTES))
    criu = Criu.start(os.environ[CRIU_VARIABLE], inherited=inherited)
    _mute()
    for refuge in orders.refuges:
        (Path(refuge) / "cgroup.procs").write_text("0")
    gate = Gate(Runc(channel), agent, criu, orders)
    try:
        gate.await_go()
        gate.restore(request)
    except Exception as e:
        if not gate.held:
            gate.end()
            gate.tell(Word(Said.FAILED, message=str(e)))
            return 1
    gate.finish()
    return 0


def main(arguments: list[str]) -> int:
    real = os.environ[CRIU_VARIABLE]
    if arguments[:1] != ["swrk"]:
        os.execv(real, ["criu", *arguments])  # noqa: S606
    channel = socket.socket(fileno=int(arguments[1]))
    if rpc.kind_of(channel.recv(PACKET_BYTES, socket.MSG_PEEK)) != Kind.RESTORE:
        os.execv(real, ["criu", *arguments])  # noqa: S606
    inherited = tuple(one for one in _inherited() if one != channel.fileno())
    return _open(channel, channel.recv(PACKET_BYTES), inherited)


def _quietly() -> int:
    """Until the streams are muted, what a traceback says would be the container's output."""
    try:
        return main(sys.argv[1:])
    except Exception:
        return 1


if __name__ == "__main__":
    sys.exit(_quietly())
