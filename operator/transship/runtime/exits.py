"""The exits of containers, from conmon's files; also of those that no agent has watched."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from transship.linux import inotify
from transship.runtime import conmon
from transship.runtime.layout import Layout


@dataclass(frozen=True)
class Exit:
    """`code` is 128 + N after signal N."""

    container_id: str
    code: int
    time: datetime
    oom_killed: bool


def find(layout: Layout, container_id: str) -> Exit | None:
    """Return the last exit of a container."""
    code = conmon.exit_code(layout, container_id)
    if code is None:
        return None
    try:
        seconds = (layout.exits / container_id).stat().st_mtime
    except FileNotFoundError:
        return None
    return Exit(
        container_id,
        code,
        datetime.fromtimestamp(seconds, UTC),
        conmon.oom_killed(layout, container_id),
    )


async def watch(layout: Layout) -> AsyncGenerator[Exit, None]:
    """Yield every exit once: those so far, then each new one."""
    layout.exits.mkdir(parents=True, exist_ok=True)
    known: dict[Path, int] = {}
    with inotify.watching(layout.exits) as changes:
        while True:
            present = _times(layout.exits)
            new = [path for path, time in present.items() if known.get(path) != time]
            known = present
            for path in new:
                if (exited := find(layout, path.name)) is not None:
                    yield exited
            await changes.wait()


def _times(directory: Path) -> dict[Path, int]:
    """The times of the exit files, without conmon's drafts, whose names begin with a dot."""
    times = {}
    for path in directory.iterdir():
        if not path.name.startswith("."):
            try:
                times[path] = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
    return times


async def written(layout: Layout, container_id: str) -> None:
    """Wait for the exit file of a container that has ended, or for the end of its conmon."""
    layout.exits.mkdir(parents=True, exist_ok=True)
    with inotify.watching(layout.exits) as changes:
        while find(layout, container_id) is None and conmon.alive(layout, container_id):
            await changes.wait()
