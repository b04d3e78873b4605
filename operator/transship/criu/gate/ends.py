"""What the gate (criu_gate) stands between: CRIU, its child, and runc, its parent."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from dataclasses import dataclass

from transship.common.errors import TransshipError
from transship.criu import rpc
from transship.criu.gate.messages import PACKET_BYTES
from transship.criu.rpc import Answer, Kind, Request, Response

KILL_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Notice:
    """A message of CRIU: as it came, and what it says."""

    message: bytes
    descriptors: tuple[int, ...]
    response: Response


class Criu:
    """The real criu, started so far that it waits for its request."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self._handle = os.pidfd_open(process.pid)

    @classmethod
    def start(cls, program: str, *, inherited: tuple[int, ...]) -> Criu:
        """It gets this process's streams and cgroups, which runc has made for it.

        And it gets the gate's end of their channel too. When the gate dies CRIU must not see a
        hangup: it takes that for a mere failure of a script, and at `pre-resume` it lets the tasks
        run all the same.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [program, "swrk", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), ours.fileno(), *inherited),
            )
        return cls(process, ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Readable when it has ended."""
        return self._handle

    def send(self, message: bytes) -> None:
        self._channel.sendall(message)

    def answer(self, *, yes: bool) -> None:
        self.send(Request(kind=Kind.NOTIFY, notify_success=yes).encode())

    def receive(self) -> Notice:
        """Raises TransshipError when it has ended instead."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._handle, select.POLLIN)
        spoken = self._channel.fileno() in {descriptor for descriptor, _ in poll.poll()}
        message, descriptors = b"", list[int]()
        if spoken:
            message, descriptors, _, _ = socket.recv_fds(self._channel, PACKET_BYTES, 1)
        if not message:
            raise TransshipError("CRIU ended without an answer")
        return Notice(message, tuple(descriptors), rpc.decode(message))

    def ends(self, *, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def kill(self) -> None:
        """In a frozen cgroup it ends when that is thawed: nobody waits for ever."""
        self._process.kill()
        self.ends(seconds=KILL_TIMEOUT_SECONDS)


class Runc:
    """runc, at the other end of the channel that it has made for criu."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._owed = 0

    def fileno(self) -> int:
        """Readable when it has ended, as long as nothing is asked of it."""
        return self._channel.fileno()

    def forward(self, notice: Notice) -> None:
        """Its answers come in the order of the notices."""
        socket.send_fds(self._channel, [notice.message], notice.descriptors)
        for descriptor in notice.descriptors:
            os.close(descriptor)
        self._owed += 1

    def settle(self) -> None:
        """Wait for all answers that are owed. Raises TransshipError when it does not agree."""
        while self._owed:
            answer = self._channel.recv(PACKET_BYTES)
            if not answer or not rpc.agrees(answer):
                raise TransshipError("runc did not take the restored container over")
            self._owed -= 1

    def require_alive(self) -> None:
        """Raises TransshipError when it has ended."""
        poll = select.poll()
        poll.register(self._channel, 0)  # a hangup is always reported
        if poll.poll(0):
            raise TransshipError("runc has ended")

    def confirm(self) -> None:
        """Say that CRIU has restored the container."""
        self._channel.sendall(Answer(kind=Kind.RESTORE, success=True).encode())
