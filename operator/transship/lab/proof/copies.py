"""Which copies of a container there are, by the kernel: never two that compute at the same time.

A copy is the processes in the container's cgroup on a node. `CopyWatch` looks every few
milliseconds whether the program itself advances on more than one node; what CRIU does in a process
that it is dumping or restoring is not the program.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from transship.lab import cgroups
from transship.lab.state import LabState

LOOK_SECONDS = 0.025
CRIU_NAMES = frozenset({"criu", "criu-lazy-pages"})


def processes(state: LabState, node: str, container: str) -> frozenset[int]:
    """The machine's pids of a container's processes on a node."""
    return frozenset(cgroups.members(f"{state.cgroup_of(node)}/{container}"))


def nodes_with_copies(state: LabState, container: str) -> tuple[str, ...]:
    return tuple(node for node in state.nodes if processes(state, node, container))


class CopyWatch:
    """Notes every moment at which two copies of a container ran, between `with` and its end."""

    def __init__(self, state: LabState, container: str) -> None:
        self._state, self._container = state, container
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.twice: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        before = self._work_done()
        while not self._ended.wait(LOOK_SECONDS):
            now = self._work_done()
            ran = sorted({node for (node, pid), done in now.items()
                          if done > before.get((node, pid), done)})  # fmt: skip
            if len(ran) > 1:
                self.twice.append(f"{' and '.join(ran)} at {time.monotonic():.2f}")
            before = now

    def _work_done(self) -> dict[tuple[str, int], int]:
        """Nanoseconds that each process of the program has run for."""
        found = {}
        for node in self._state.nodes:
            for pid in processes(self._state, node, self._container):
                with suppress(OSError, ValueError):
                    if _name(pid) not in CRIU_NAMES:
                        found[node, pid] = _run_nanoseconds(pid)
        return found


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _run_nanoseconds(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
