"""The agent's side of the gate (criu_gate): how runc comes to start it, and talking to it."""

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
    Orders,
    Said,
    Word,
)
from transship.linux import cgroups
from transship.linux.freezer import Freezer
from transship.runtime.layout import Layout

MODULE = "transship.criu.gate.process"


class GateEntry:
    """Where the gate of one restore calls, and the connection to it."""

    def __init__(self, listener: socket.socket, path: Path) -> None:
        self._listener = listener
        self._path = path
        self._gate: socket.socket | None = None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Under a name of its own: a gate that comes too late for another restore finds nobody."""
        path = folder / f"gate-{os.urandom(4).hex()}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen(1)
        return cls(listener, path)

    def environment(self, layout: Layout) -> dict[str, str]:
        """With it runc finds the gate where it looks for criu."""
        real = shutil.which("criu")
        if real is None:
            raise TransshipError("restoring: there is no criu", reason=Reason.CRIU_MISSING)
        path = f"{_launcher(layout.gate).parent}:{os.environ.get('PATH', os.defpath)}"
        return {"PATH": path, SOCKET_VARIABLE: str(self._path), CRIU_VARIABLE: real}

    async def meet(self, orders: Orders) -> None:
        """Wait for the gate and give it its orders."""
        loop = asyncio.get_running_loop()
        self._gate, _ = await loop.sock_accept(self._listener)
        self._gate.setblocking(False)
        await loop.sock_sendall(self._gate, orders.packet())

    async def say(self, said: Said) -> None:
        assert self._gate is not None
        try:
            await asyncio.get_running_loop().sock_sendall(self._gate, Word(said).packet())
        except OSError as e:
            raise TransshipError("the gate has ended") from e

    async def hear(self, said: Said) -> Word:
        """Wait for this word. Raises TransshipError at any other, and when the gate ends."""
        assert self._gate is not None
        try:
            packet = await asyncio.get_running_loop().sock_recv(self._gate, PACKET_BYTES)
            word = Word.read(packet)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise TransshipError("the gate has ended") from e
        if word.said is not said:
            raise TransshipError(word.message or f"the gate says {word.said}")
        return word

    def close(self) -> None:
        """A gate that has not been told to go ends itself, CRIU and runc of that."""
        self._listener.close()
        self._path.unlink(missing_ok=True)
        if self._gate is not None:
            self._gate.close()


def orders(layout: Layout, container: str, *, freezer: Freezer) -> Orders:
    images = layout.images(container)
    return Orders(
        images=str(images),
        work=str(images / "work"),
        root=str(layout.rootfs(container)),
        log_level=options.LOG_LEVEL,
        cgroup=str(freezer.path),
        control_file=freezer.control.name,
        freeze_word=freezer.freeze_word,
        state_file=freezer.state_file,
        frozen_line=freezer.frozen_line,
        refuge=str(refuge_of(freezer).path),
        refuges=tuple(map(str, cgroups.detect().paths(layout.refuge_cgroup(container)))),
    )


def refuge_of(freezer: Freezer) -> Freezer:
    """Where gate and CRIU are moved to: beside the container's cgroup, for one restore alone."""
    return Freezer(freezer.path.with_name(f"{freezer.path.name}.criu"), unified=freezer.unified)


def _launcher(folder: Path) -> Path:
    """The program `criu` that is the gate. Not below /run, which may be mounted noexec."""
    path = folder / "criu"
    text = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -m {MODULE} "$@"\n'
    if not path.exists() or path.read_text() != text:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".criu-{os.urandom(4).hex()}"
        draft.write_text(text)
        draft.chmod(0o755)
        draft.rename(path)
    return path
