"""Faults of the programs that a move starts on a node: CRIU, runc, conmon and the page server."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from transship.api.migration import StepName
from transship.lab.nodes import cgroups
from transship.lab.proof.fault import Fault, Move, NotTriggered, Side
from transship.lab.state import LabState

INTERCEPT_POLL_SECONDS = 0.001
PROGRAM_FAULT_SECONDS = 2.0
# longer than the agent waits for a dump, and for a restore
DUMP_HANG_SECONDS = 14.0
RESTORE_HANG_SECONDS = 25.0

# words of the command lines of a node's programs
CRIU, RUNC, CONMON = ("criu", "swrk"), ("runc", "restore"), ("conmon", "--api-version")
PAGE_SERVER = ("transship.memory.page_server.process",)

COPYING = frozenset({StepName.COPY_FILES, StepName.COPY_MEMORY})
DUMPING = frozenset({StepName.FREEZE, StepName.DUMP})
RESTORING = frozenset({StepName.SEND_STATE, StepName.RESTORE})
PAGE_SERVER_RUNS = frozenset(StepName) - {
    StepName.PREPARE,
    StepName.COPY_FILES,
    StepName.RESUME,
    StepName.DESTROY,
}
# after the release, only a post-copy still needs the page server
PAGE_SERVER_RUNS_IN_POST_COPY = frozenset({StepName.RESUME})


class ProcessInterceptor:
    """Applies `action` once to each matching process of a node, between `start` and `stop`.

    A process matches if its command line contains all `words`; with `children` its parent's command
    line has to contain them as well.
    """

    def __init__(
        self,
        state: LabState,
        node: str,
        words: Sequence[str],
        action: Callable[[int], object],
        *,
        children: bool = False,
    ) -> None:
        self._cgroup, self._root = state.cgroup_of(node), cgroups.freezer_hierarchy()
        self._words = [word.encode() for word in words]
        self._action = action
        self._children = children
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.matched: set[int] = set()

    def start(self) -> None:
        self._scan()
        self._thread.start()

    def stop(self) -> None:
        """Let the processes go on that `stop_process` has stopped."""
        self._ended.set()
        self._thread.join()
        for pid in self.matched:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _run(self) -> None:
        while not self._ended.wait(INTERCEPT_POLL_SECONDS):
            self._scan()

    def _scan(self) -> None:
        for pid in cgroups.processes(self._cgroup, root=self._root) - self.matched:
            with suppress(OSError):
                if self._matches(pid) and (not self._children or self._matches(_parent(pid))):
                    self._action(pid)
                    self.matched.add(pid)

    def _matches(self, pid: int) -> bool:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        return all(word in line for word in self._words)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_process(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stop_process(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def exhaust_descriptors(pid: int) -> None:
    """The process can open no file any more; CRIU then fails with EMFILE in its log."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, hard))


def _programs(
    name: str,
    side: Side,
    words: tuple[str, ...],
    action: Callable[[int], object],
    *,
    steps: frozenset[StepName],
    post_copy_steps: frozenset[StepName] = frozenset(),
    seconds: float = PROGRAM_FAULT_SECONDS,
    children: bool = False,
    may_lose_memory: bool = False,
) -> Fault:
    """A fault of the node's programs with these words in their command lines.

    It hits those that run at the injection and those that start before the recovery.
    """
    interceptors: dict[str, ProcessInterceptor] = {}

    def inject(move: Move) -> None:
        interceptor = ProcessInterceptor(
            move.state, move.node(side), words, action, children=children
        )
        interceptors[move.container] = interceptor
        interceptor.start()

    def recover(move: Move) -> None:
        interceptor = interceptors.pop(move.container, None)
        if interceptor is None:
            return
        interceptor.stop()
        if not interceptor.matched:
            raise NotTriggered(f"no {' '.join(words)} ran on {move.node(side)}")

    return Fault(
        name,
        inject,
        recover,
        seconds,
        steps=steps,
        post_copy_steps=post_copy_steps,
        may_lose_memory=may_lose_memory,
    )


PROGRAM_FAULTS = (
    _programs("CRIU killed in the dump", Side.SOURCE, CRIU, kill_process, steps=DUMPING),
    _programs("CRIU fails in the dump", Side.SOURCE, CRIU, exhaust_descriptors, steps=DUMPING),
    _programs(
        "CRIU hangs in the dump",
        Side.SOURCE,
        CRIU,
        stop_process,
        steps=DUMPING,
        seconds=DUMP_HANG_SECONDS,
    ),
    _programs("CRIU killed in the restore", Side.TARGET, CRIU, kill_process, steps=RESTORING),
    _programs(
        "CRIU fails in the restore",
        Side.TARGET,
        CRIU,
        exhaust_descriptors,
        steps=RESTORING,
    ),
    _programs(
        "CRIU hangs in the restore",
        Side.TARGET,
        CRIU,
        stop_process,
        steps=RESTORING,
        seconds=RESTORE_HANG_SECONDS,
    ),
    _programs("runc killed in the restore", Side.TARGET, RUNC, kill_process, steps=RESTORING),
    _programs(
        "runc hangs in the restore",
        Side.TARGET,
        RUNC,
        stop_process,
        steps=RESTORING,
        seconds=RESTORE_HANG_SECONDS,
    ),
    _programs(
        "conmon killed in the restore",
        Side.TARGET,
        CONMON,
        kill_process,
        steps=RESTORING,
    ),
    _programs("source's conmon killed", Side.SOURCE, CONMON, kill_process, steps=COPYING),
    _programs(
        "page server killed",
        Side.TARGET,
        PAGE_SERVER,
        kill_process,
        steps=PAGE_SERVER_RUNS,
        post_copy_steps=PAGE_SERVER_RUNS_IN_POST_COPY,
        children=True,
    ),
    _programs(
        "page server and its guard killed",
        Side.TARGET,
        PAGE_SERVER,
        kill_process,
        steps=PAGE_SERVER_RUNS,
        post_copy_steps=PAGE_SERVER_RUNS_IN_POST_COPY,
        may_lose_memory=True,
    ),
)
