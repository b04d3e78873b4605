"""Checks that never two copies of a container run at the same time, by the kernel's accounts.

A copy is the processes in the container's cgroup on a node. `SingleCopyMonitor` samples on which
node the program itself ran. A program that moved ran on node A and then on node B. A program that
ran on A, then B, then A again, faster than a move back can be, ran twice. Two kinds of work do not
count: CRIU's in a process that it restores, and the kernel's when it ends one.
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

SAMPLE_SECONDS = 0.04
# a move back after a blackout takes longer: 0.98 s was the shortest
FASTEST_RETURN_SECONDS = 0.4
# the last steps of a restore show up in one or two samples
PROGRAM_SAMPLES = 3
# of run time per sample; a witness under a client uses several times as much
RUN_NANOSECONDS = 200_000
Process = tuple[str, str, str]
"""Container, node and pid."""
# of linux/sched.h
PF_EXITING = 0x4
# everything else in the cgroup (the gate, CRIU) prepares a copy
PROGRAM = "witness"


def processes(state: LabState, node: str, container: str) -> frozenset[int]:
    """The pids, in the machine's pid namespace, of a container's processes on a node."""
    return frozenset(cgroups.processes(f"{state.cgroup_of(node)}/{container}"))


def nodes_with_copies(state: LabState, container: str) -> tuple[str, ...]:
    return tuple(node for node in state.nodes if processes(state, node, container))


class RunHistory:
    """On which nodes a program ran, sample by sample."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, frozenset[str]]] = deque()

    def record(self, nodes: Iterable[str], *, at: float) -> str:
        """Add a sample. Return a description if a node ran again too soon after another one."""
        now = frozenset(nodes)
        while self._samples and at - self._samples[0][0] > FASTEST_RETURN_SECONDS:
            self._samples.popleft()
        violation = next((text for node in now if (text := self._ran_between(node, at=at))), "")
        self._samples.append((at, now))
        return violation

    def _ran_between(self, node: str, *, at: float) -> str:
        earlier = next((sampled for sampled, nodes in self._samples if node in nodes), None)
        if earlier is None:
            return ""
        others = Counter(
            other
            for sampled, nodes in self._samples
            if sampled > earlier
            for other in nodes - {node}
        )
        running = sorted(other for other, samples in others.items() if samples >= PROGRAM_SAMPLES)
        if not running:
            return ""
        return f"{node}, then {' and '.join(running)}, then {node} within {at - earlier:.2f} s"


class SingleCopyMonitor:
    """Collects violations in a thread, inside its `with`."""

    def __init__(self, state: LabState, containers: Sequence[str]) -> None:
        self._histories = {container: RunHistory() for container in containers}
        root = cgroups.freezer_hierarchy()
        self._groups = {
            (container, node): root / f"{state.cgroup_of(node)}/{container}".strip("/")
            for container in containers
            for node in state.nodes
        }
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.violations: list[str] = []

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
        before, ran = self._run_times(), frozenset[Process]()
        while not self._ended.wait(SAMPLE_SECONDS):
            now = self._run_times()
            # a process that has ended since may have run only in order to end
            self._record([process for process in ran if process in now])
            ran = frozenset(
                process
                for process in now
                if now[process] - before.get(process, now[process]) >= RUN_NANOSECONDS
            )
            before = now

    def _record(self, ran: Iterable[Process]) -> None:
        at, nodes = time.monotonic(), dict[str, set[str]]()
        for container, node, _ in ran:
            nodes.setdefault(container, set()).add(node)
        for container, ran_on in nodes.items():
            if interleaving := self._histories[container].record(ran_on, at=at):
                self.violations.append(f"{container} ran on {interleaving}")

    def _run_times(self) -> dict[Process, int]:
        """Nanoseconds that each process of the programs has run."""
        run_times = {}
        for (container, node), group in self._groups.items():
            with suppress(OSError):
                for pid in (group / "cgroup.procs").read_text().split():
                    with suppress(OSError, ValueError):
                        if _is_program(pid):
                            run_times[container, node, pid] = _run_nanoseconds(pid)
        return run_times


def _is_program(pid: str) -> bool:
    """A process that is exiting does not count; on a busy machine that outlasts a sample."""
    name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    return name == PROGRAM and not int(rest.split()[6]) & PF_EXITING


def _run_nanoseconds(pid: str) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
