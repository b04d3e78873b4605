"""How containers ended: from the files that conmon leaves, also while no agent was there to see."""

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
    """code is 128 and the signal's number when a signal ended the container."""

    container_id: str
    code: int
    time: datetime
    oom_killed: bool


def find(layout: Layout, container_id: str) -> Exit | None:
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
    """Each exit once: first those of before, then each as it comes."""
    layout.exits.mkdir(parents=True, exist_ok=True)
    seen: dict[Path, int] = {}
    with inotify.watching(layout.exits) as changes:
        while True:
            present = _times(layout.exits)
            new = [path for path, time in present.items() if seen.get(path) != time]
            seen = present
            for path in new:
                if (found := find(layout, path.name)) is not None:
                    yield found
            await changes.wait()


def _times(directory: Path) -> dict[Path, int]:
    """Without hidden ones: conmon writes to such and renames it."""
    times = {}
    for path in directory.iterdir():
        if not path.name.startswith("."):
            try:
                times[path] = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
    return times


async def written(layout: Layout, container_id: str) -> None:
    """Wait for the exit file of a container that has ended; conmon drains its pipes before that."""
    layout.exits.mkdir(parents=True, exist_ok=True)
    with inotify.watching(layout.exits) as changes:
        while find(layout, container_id) is None and conmon.alive(layout, container_id):
            await changes.wait()
