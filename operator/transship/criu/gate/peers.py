"""The two processes on either side of the gate: CRIU, its child, and runc, its parent.

Standard library only.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
from dataclasses import dataclass

from transship.common.errors import TransshipError
from transship.criu import rpc
from transship.criu.gate.messages import PACKET_BYTES
from transship.criu.rpc import Kind, Request, Response, RestoreDone

KILL_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class CriuMessage:
    """A notification or the response of CRIU: the packet, with descriptors, and what it means."""

    packet: bytes
    descriptors: tuple[int, ...]
    response: Response


class Criu:
    """The real criu, started and waiting for its request."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self._pidfd = os.pidfd_open(process.pid)

    @classmethod
    def start(cls, program: str, *, inherited: tuple[int, ...]) -> Criu:
        """Start CRIU with this process's standard streams and cgroups, which runc has set up.

        CRIU inherits the gate's end of the channel too, so that it sees no hangup when the gate
        dies: it takes a hangup for a script that failed, and at `pre-resume` lets the tasks run.
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
        """Return a descriptor that is readable when CRIU has ended."""
        return self._pidfd

    def send(self, packet: bytes) -> None:
        self._channel.sendall(packet)

    def reply(self, *, success: bool) -> None:
        """Reply to a notification; without success CRIU undoes what it has done."""
        self.send(Request(kind=Kind.NOTIFY, notify_success=success).encode())

    def receive(self) -> CriuMessage:
        """Wait for a message. Raises TransshipError when CRIU ends instead."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        has_message = self._channel.fileno() in {descriptor for descriptor, _ in poll.poll()}
        packet, descriptors = b"", list[int]()
        if has_message:
            packet, descriptors, _, _ = socket.recv_fds(self._channel, PACKET_BYTES, 1)
        if not packet:
            raise TransshipError("CRIU ended without an answer")
        return CriuMessage(packet, tuple(descriptors), rpc.decode(packet))

    def wait(self, *, seconds: float) -> bool:
        """Wait for the end of CRIU; whether it came in time."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def kill(self) -> None:
        """Kill CRIU. In a frozen cgroup it ends when that is thawed, so the wait has a limit."""
        self._process.kill()
        self.wait(seconds=KILL_TIMEOUT_SECONDS)


class Runc:
    """runc, on the channel that it has created for criu."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pending_replies = 0

    def fileno(self) -> int:
        """Return a descriptor that is readable when runc has ended, while no reply is pending."""
        return self._channel.fileno()

    def forward(self, notification: CriuMessage) -> None:
        """Forward a notification of CRIU; runc replies in the order of the notifications."""
        socket.send_fds(self._channel, [notification.packet], notification.descriptors)
        for descriptor in notification.descriptors:
            os.close(descriptor)
        self._pending_replies += 1

    def await_replies(self) -> None:
        """Wait for all pending replies. Raises TransshipError for one without success."""
        while self._pending_replies:
            reply = self._channel.recv(PACKET_BYTES)
            if not reply or not rpc.is_success(reply):
                raise TransshipError("runc did not take the restored container over")
            self._pending_replies -= 1

    def require_alive(self) -> None:
        """Raise TransshipError when runc has ended."""
        poll = select.poll()
        # poll(2) reports a hangup without being asked for it
        poll.register(self._channel, 0)
        if poll.poll(0):
            raise TransshipError("runc has ended")

    def report_restored(self) -> None:
        """Send CRIU's response to the restore request."""
        self._channel.sendall(RestoreDone(kind=Kind.RESTORE, success=True).encode())
