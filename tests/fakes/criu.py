"""A fake criu that plays a restore from a list of steps, and records what it receives.

Started as `criu swrk FD` like the real one. The folder of the executable has the file `steps`, one
a line: the script of a notification (and a pid), `succeed`, `fail` or `die`. It writes the
`request` and the `replies` to its notifications there.
"""

# ruff: noqa: RUF009 - numbered() is a field specifier

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from transship.criu import rpc
from transship.criu.rpc import Kind, numbered

PROGRAM = f"""\
#!/bin/sh
exec {sys.executable} {__file__} "$(dirname "$0")" "$@"
"""


@dataclass(frozen=True)
class Stage:
    script: str | None = numbered(1)
    pid: int | None = numbered(2)


@dataclass(frozen=True)
class Message:
    kind: Kind | None = numbered(1)
    success: bool | None = numbered(2)
    notify: Stage | None = numbered(5)
    error: str | None = numbered(9)

    def encode(self) -> bytes:
        return rpc._encode(self)


def install(folder: Path, *steps: str) -> Path:
    """Make the program; returns its path."""
    folder.mkdir()
    (folder / "steps").write_text("\n".join(steps))
    program = folder / "criu"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return program


def play(folder: Path, channel: socket.socket) -> None:
    (folder / "pid").write_text(Path("/proc/self/stat").read_text().split()[0])
    (folder / "request").write_bytes(channel.recv(1 << 16))
    for step in (folder / "steps").read_text().splitlines():
        name, _, pid = step.partition(" ")
        match name:
            case "die":
                sys.exit(1)
            case "fail":
                channel.send(Message(kind=Kind.RESTORE, success=False, error="no").encode())
            case "succeed":
                channel.send(Message(kind=Kind.RESTORE, success=True).encode())
            case _:
                stage = Stage(name, int(pid or 0))
                channel.send(Message(kind=Kind.NOTIFY, success=True, notify=stage).encode())
                success = rpc.is_success(channel.recv(1 << 16))
                with (folder / "replies").open("a") as replies:
                    replies.write(f"{name} {success}\n")


if __name__ == "__main__":
    play(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[3])))
