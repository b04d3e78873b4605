"""The agent's side of the gate: how runc comes to start it, and the connection to it."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import socket
import sys
from pathlib import Path
from typing import Self

from transship.api.reasons import Reason
from transship.common.errors import TransshipError
from transship.criu import options
from transship.criu.gate.messages import (
    CRIU_VARIABLE,
    PACKET_BYTES,
    SOCKET_VARIABLE,
    Message,
    MessageKind,
    RestoreSetup,
)
from transship.linux import cgroups
from transship.linux.freezer import Freezer
from transship.runtime.layout import Layout

MODULE = "transship.criu.gate.process"


class GateConnection:
    """The socket that the gate of one restore connects to, and the connection."""

    def __init__(self, listener: socket.socket, path: Path) -> None:
        self._listener = listener
        self._path = path
        self._gate: socket.socket | None = None

    @classmethod
    def listen(cls, folder: Path) -> Self:
        """Listen on a path that no other restore uses, so that a late gate reaches nobody else."""
        path = folder / f"gate-{os.urandom(4).hex()}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen(1)
        return cls(listener, path)

    def environment(self, layout: Layout) -> dict[str, str]:
        """Return the variables with which runc starts the gate as its `criu`."""
        real = shutil.which("criu")
        if real is None:
            raise TransshipError("restoring: there is no criu", reason=Reason.CRIU_MISSING)
        path = f"{_launcher(layout.gate).parent}:{os.environ.get('PATH', os.defpath)}"
        return {"PATH": path, SOCKET_VARIABLE: str(self._path), CRIU_VARIABLE: real}

    async def accept(self, setup: RestoreSetup) -> None:
        """Wait for the gate and send it the setup."""
        loop = asyncio.get_running_loop()
        self._gate, _ = await loop.sock_accept(self._listener)
        self._gate.setblocking(False)
        await loop.sock_sendall(self._gate, setup.packet())

    async def send(self, kind: MessageKind) -> None:
        """Send a message. Raises TransshipError when the gate has ended."""
        assert self._gate is not None
        try:
            await asyncio.get_running_loop().sock_sendall(self._gate, Message(kind).packet())
        except OSError as e:
            raise TransshipError("the gate has ended") from e

    async def expect(self, kind: MessageKind) -> Message:
        """Wait for a message. Raises TransshipError for another kind and when the gate ends."""
        assert self._gate is not None
        try:
            packet = await asyncio.get_running_loop().sock_recv(self._gate, PACKET_BYTES)
            message = Message.parse(packet)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise TransshipError("the gate has ended") from e
        if message.kind is not kind:
            raise TransshipError(message.error or f"the gate says {message.kind}")
        return message

    def close(self) -> None:
        """Hang up. A gate that still waits for GO then ends itself, CRIU and runc."""
        self._listener.close()
        self._path.unlink(missing_ok=True)
        if self._gate is not None:
            self._gate.close()


def restore_setup(layout: Layout, container: str, *, freezer: Freezer) -> RestoreSetup:
    """Describe the restore of a container to its gate."""
    images = layout.images(container)
    return RestoreSetup(
        images=str(images),
        work=str(images / "work"),
        root=str(layout.rootfs(container)),
        log_level=options.LOG_LEVEL,
        cgroup=str(freezer.path),
        control_file=freezer.control.name,
        freeze_word=freezer.freeze_word,
        state_file=freezer.state_file,
        frozen_line=freezer.frozen_line,
        criu_cgroup=str(criu_freezer(freezer).path),
        gate_cgroups=tuple(map(str, cgroups.detect().paths(layout.criu_cgroup(container)))),
    )


def criu_freezer(freezer: Freezer) -> Freezer:
    """Return the freezer of layout.criu_cgroup, from that of the container."""
    return Freezer(freezer.path.with_name(f"{freezer.path.name}.criu"), unified=freezer.unified)


def _launcher(folder: Path) -> Path:
    """Write the program `criu` that starts the gate. /run may be mounted noexec: not there."""
    path = folder / "criu"
    text = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -m {MODULE} "$@"\n'
    if not path.exists() or path.read_text() != text:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".criu-{os.urandom(4).hex()}"
        draft.write_text(text)
        draft.chmod(0o755)
        draft.rename(path)
    return path
