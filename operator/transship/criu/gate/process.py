"""The gate: a program between runc and CRIU, so that a restore can start before its images exist.

runc runs it as `criu`. It passes everything but a restore on to the real criu. Of a restore it
keeps the request, starts CRIU so that only the request is missing, and waits for the agent's GO:
conmon, runc and CRIU have all started before the blackout begins.

It also keeps the restored container from running. At `pre-resume` all tasks are restored and
stopped by ptrace. The gate freezes their cgroup there; CRIU detaches from frozen tasks, which run
when the cgroup is thawed. Until then no task has run, none got a signal, and stopped tasks are
still stopped. (CRIU's `leave-stopped` sends SIGSTOP and needs SIGCONT, which shells notice and
which also wakes tasks that had been stopped before.)

Who dies when:
- the agent, before its GO: the gate sees the hangup and ends CRIU and itself; runc and conmon
  follow;
- the gate: CRIU waits for a reply for ever (see peers.Criu), so its tasks cannot run; an agent ends
  all of them (discard.py);
- CRIU: before `pre-resume` the gate kills what CRIU has restored, later too, while it is frozen;
- runc: before `pre-resume` the restore fails; after it the copy is complete without runc.

runc starts this process within the container's cgroups. Standard library only.
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
from transship.criu.gate.messages import (
    CRIU_VARIABLE,
    PACKET_BYTES,
    SOCKET_VARIABLE,
    Message,
    MessageKind,
    RestoreSetup,
)
from transship.criu.gate.peers import Criu, CriuMessage, Runc
from transship.criu.rpc import InheritedFile, Kind, Options
from transship.linux import cgroups

UNDO_TIMEOUT_SECONDS = 5.0
"""For CRIU after a reply without success: it kills the tasks that it has restored, and unmounts."""


class Gate:
    """One restore, from runc's request to the held copy: complete, and frozen."""

    def __init__(self, runc: Runc, agent: socket.socket, criu: Criu, setup: RestoreSetup) -> None:
        self._runc = runc
        self._agent = agent
        self._criu = criu
        self._setup = setup
        self._pending_script = ""
        """The notification that CRIU waits for a reply to."""
        self._moving_criu: threading.Thread | None = None
        self._init_pid = 0
        self.held = False

    def await_go(self) -> None:
        """Wait for the agent's GO. Raises TransshipError when agent, runc or CRIU ends instead."""
        self.send(Message(MessageKind.READY))
        poll = select.poll()
        for peer in (self._agent, self._runc, self._criu):
            poll.register(peer.fileno(), select.POLLIN)
        if [descriptor for descriptor, _ in poll.poll()] != [self._agent.fileno()]:
            raise TransshipError("runc or CRIU has ended")
        packet = self._agent.recv(PACKET_BYTES)
        if not packet or Message.parse(packet).kind is not MessageKind.GO:
            raise TransshipError("the agent has ended")

    def restore(self, request: bytes) -> None:
        """Restore up to a held copy. Raises TransshipError, OSError or ValueError."""
        self._criu.send(rpc.with_options(request, self._options()))
        while (message := self._criu.receive()).response.kind == Kind.NOTIFY:
            self._pending_script = message.response.script
            self._handle(message)
            self._pending_script = ""
            self._criu.reply(success=True)
        if not message.response.success:
            raise TransshipError(message.response.error or "CRIU failed")

    def _options(self) -> Options:
        """The options that runc cannot know: its own root and images are empty directories."""
        images, work = (
            os.open(path, os.O_DIRECTORY | os.O_RDONLY)
            for path in (self._setup.images, self._setup.work)
        )
        descriptors = (Path(self._setup.images) / "descriptors.json").read_text()
        return Options(
            images_dir_fd=images,
            work_dir_fd=work,
            root=self._setup.root,
            log_level=self._setup.log_level,
            inherited=inherited_pipes(descriptors),
        )

    def _handle(self, notification: CriuMessage) -> None:
        match notification.response.script:
            case "setup-namespaces":
                # process 1 is in the container's cgroup by now, and its children start there: CRIU
                # may leave it. In v1 the move takes up to 20 ms in the kernel
                self._moving_criu = threading.Thread(target=self._move_criu, daemon=True)
                self._moving_criu.start()
            case "orphan-pts-master":
                self._runc.forward(notification)
                self._runc.await_replies()
            case "post-restore":
                # runc writes its state of the container meanwhile
                self._init_pid = notification.response.pid
                self._runc.forward(notification)
            case "pre-resume":
                # before anything else: the tasks would run if CRIU was killed here
                self._hold()
                self._runc.await_replies()
            case "post-resume":
                self._runc.require_alive()
                self.held = True
                self.send(Message(MessageKind.HELD, pid=self._init_pid))
            case _:
                pass

    def _move_criu(self) -> None:
        # `_hold` checks whether it was moved
        with contextlib.suppress(OSError):
            (Path(self._setup.criu_cgroup) / "cgroup.procs").write_text(str(self._criu.pid))

    def _hold(self) -> None:
        """Freeze the restored tasks, without CRIU."""
        if self._moving_criu is not None:
            self._moving_criu.join()
        if self._criu.pid in self._members():
            raise TransshipError("CRIU could not leave the container's cgroup")
        self._freeze()
        state = (Path(self._setup.cgroup) / self._setup.state_file).read_text()
        if self._setup.frozen_line not in state.splitlines():
            raise TransshipError("the restored tasks could not be frozen")

    def _freeze(self) -> None:
        (Path(self._setup.cgroup) / self._setup.control_file).write_text(self._setup.freeze_word)

    def _members(self) -> tuple[int, ...]:
        return cgroups.pids((Path(self._setup.cgroup) / "cgroup.procs").read_text())

    def abort(self) -> None:
        """Leave no restored task. CRIU undoes what it has done, as long as it still can."""
        if self._pending_script and self._pending_script != "pre-resume":
            with contextlib.suppress(OSError):
                self._criu.reply(success=False)
            self._criu.wait(seconds=UNDO_TIMEOUT_SECONDS)
        with contextlib.suppress(OSError):
            members = self._members()
            if self._criu.pid not in members:
                # a task that loses its tracer would run until it is killed
                self._freeze()
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._criu.kill()

    def complete(self) -> None:
        """Report the restore to runc, which keeps its state then. The copy is held either way."""
        with contextlib.suppress(OSError):
            self._runc.report_restored()
        self._criu.wait(seconds=UNDO_TIMEOUT_SECONDS)

    def send(self, message: Message) -> None:
        """Send a message to the agent. If the agent has died, the next one discards the copy."""
        with contextlib.suppress(OSError):
            self._agent.sendall(message.packet())


def inherited_pipes(descriptors: str) -> tuple[InheritedFile, ...]:
    """Map the container's standard streams that are pipes to the new conmon's, which CRIU inherits.

    `descriptors` is the dump's descriptors.json. CRIU restores a terminal itself.
    """
    return tuple(
        InheritedFile(key=name, fd=number)
        for number, name in enumerate(json.loads(descriptors) or ())
        if name.startswith("pipe:")
    )


def _inheritable_descriptors() -> tuple[int, ...]:
    """The descriptors that runc has given to criu besides the standard streams."""
    descriptors = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        # the listing's own descriptor is closed by now
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                descriptors.append(int(name))
    return tuple(descriptors)


def _close_standard_streams() -> None:
    """Point the standard streams at /dev/null: conmon waits until nobody but CRIU has them open."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def _run(channel: socket.socket, request: bytes, inherited: tuple[int, ...]) -> int:
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    agent.connect(os.environ[SOCKET_VARIABLE])
    setup = RestoreSetup.parse(agent.recv(PACKET_BYTES))
    criu = Criu.start(os.environ[CRIU_VARIABLE], inherited=inherited)
    _close_standard_streams()
    for cgroup in setup.gate_cgroups:
        (Path(cgroup) / "cgroup.procs").write_text("0")
    gate = Gate(Runc(channel), agent, criu, setup)
    try:
        gate.await_go()
        gate.restore(request)
    except Exception as e:
        if not gate.held:
            gate.abort()
            gate.send(Message(MessageKind.FAILED, error=str(e)))
            return 1
    gate.complete()
    return 0


def main(arguments: list[str]) -> int:
    """Be criu for runc."""
    real = os.environ[CRIU_VARIABLE]
    if arguments[:1] != ["swrk"]:
        os.execv(real, ["criu", *arguments])  # noqa: S606
    channel = socket.socket(fileno=int(arguments[1]))
    if rpc.kind_of(channel.recv(PACKET_BYTES, socket.MSG_PEEK)) != Kind.RESTORE:
        os.execv(real, ["criu", *arguments])  # noqa: S606
    inherited = tuple(fd for fd in _inheritable_descriptors() if fd != channel.fileno())
    return _run(channel, channel.recv(PACKET_BYTES), inherited)


def _without_traceback() -> int:
    """Run main; a traceback on stderr would become output of the container."""
    try:
        return main(sys.argv[1:])
    except Exception:
        return 1


if __name__ == "__main__":
    sys.exit(_without_traceback())
