"""Which copies of a container there are, by the kernel: never two that compute at the same time.

A copy is the processes in the container's cgroup on a node. `CopyWatch` looks all the time where
the program itself has run. A container that moves has run here before and there after; one that
has run here, then there, then here again faster than anyone could move it back has run twice. What
CRIU does in a process that it restores, and what the kernel does to end one, is not the program's
own work.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from transship.lab.nodes import cgroups
from transship.lab.state import LabState

LOOK_SECONDS = 0.04
BACK_AGAIN_SECONDS = 0.4  # no blackout and the move back after it are faster: 0.98 s was seen
LOOKS_OF_A_PROGRAM = 3  # the last steps of a restore are seen in one or two
WORK_NANOSECONDS = 200_000  # in one look; a witness under a client does several times as much
Process = tuple[str, str, str]  # container, node, pid
EXITING = 0x4  # PF_EXITING of linux/sched.h
PROGRAM = "witness"  # what else is in the cgroup (gate, CRIU) only prepares a copy


def processes(state: LabState, node: str, container: str) -> frozenset[int]:
    """The machine's pids of a container's processes on a node."""
    return frozenset(cgroups.members(f"{state.cgroup_of(node)}/{container}"))


def nodes_with_copies(state: LabState, container: str) -> tuple[str, ...]:
    return tuple(node for node in state.nodes if processes(state, node, container))


class RunOrder:
    """On which nodes a program was seen to run, look by look."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, frozenset[str]]] = deque()

    def note(self, nodes: Iterable[str], *, at: float) -> str:
        """Says so if one of them had run, then another for a while, and now it has run again."""
        now = frozenset(nodes)
        while self._seen and at - self._seen[0][0] > BACK_AGAIN_SECONDS:
            self._seen.popleft()
        found = next((text for node in now if (text := self._ran_between(node, at=at))), "")
        self._seen.append((at, now))
        return found

    def _ran_between(self, node: str, *, at: float) -> str:
        earlier = next((then for then, nodes in self._seen if node in nodes), None)
        if earlier is None:
            return ""
        others = Counter(
            other for then, nodes in self._seen if then > earlier for other in nodes - {node}
        )
        twice = sorted(other for other, looks in others.items() if looks >= LOOKS_OF_A_PROGRAM)
        if not twice:
            return ""
        return f"{node}, then {' and '.join(twice)}, then {node} within {at - earlier:.2f} s"


class CopyWatch:
    """Notes every time that two copies of a container ran, between `with` and its end."""

    def __init__(self, state: LabState, containers: Sequence[str]) -> None:
        self._orders = {container: RunOrder() for container in containers}
        root = cgroups.freezing()
        self._groups = {
            (container, node): root / f"{state.cgroup_of(node)}/{container}".strip("/")
            for container in containers
            for node in state.nodes
        }
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
        before, ran = self._work_done(), frozenset[Process]()
        while not self._ended.wait(LOOK_SECONDS):
            now = self._work_done()
            # who has ended since may have run only in order to end
            self._note([process for process in ran if process in now])
            ran = frozenset(
                one for one in now if now[one] - before.get(one, now[one]) >= WORK_NANOSECONDS
            )
            before = now

    def _note(self, ran: Iterable[Process]) -> None:
        at, nodes = time.monotonic(), dict[str, set[str]]()
        for container, node, _ in ran:
            nodes.setdefault(container, set()).add(node)
        for container, where in nodes.items():
            if interleaved := self._orders[container].note(where, at=at):
                self.twice.append(f"{container} ran on {interleaved}")

    def _work_done(self) -> dict[Process, int]:
        """Nanoseconds that each process of the programs has run for."""
        found = {}
        for (container, node), group in self._groups.items():
            with suppress(OSError):
                for pid in (group / "cgroup.procs").read_text().split():
                    with suppress(OSError, ValueError):
                        if _is_program(pid):
                            found[container, node, pid] = _run_nanoseconds(pid)
        return found


def _is_program(pid: str) -> bool:
    """And not one that is ending, which on a busy machine takes longer than a look."""
    name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    return name == PROGRAM and not int(rest.split()[6]) & EXITING


def _run_nanoseconds(pid: str) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
