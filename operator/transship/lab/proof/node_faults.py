"""What can ail a node besides a crash: no disk, no memory, no descriptors, sick programs, old keys.

Everything can be cured, also when it was never brought about. All of it is done from the machine,
so that it needs nothing of what it takes away.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from transship.common.processes import run_blocking
from transship.lab import services
from transship.lab.daemons import daemon_pid
from transship.lab.nodes import cgroups, nodes
from transship.lab.nodes.boot import DISK
from transship.lab.state import LabState

FILLING = "filling"  # the file that fills a disk
JOURNAL = f"/{DISK}/journal"
STARVED = "starved"  # the cgroup of an agent that is to run out of memory
STARVED_BYTES = 2 << 20  # beyond what it has
SPARE_DESCRIPTORS = 2
HUNT_POLL_SECONDS = 0.001
SHORTEST_FILLING = 4096


def fill_disk(directory: Path, node: str) -> None:
    """Not a byte more fits on the node's disk; costs nothing of the machine's."""
    file = os.open(_filling(directory, node), os.O_CREAT | os.O_WRONLY)
    try:
        size, position = 1 << 34, 0
        while size >= SHORTEST_FILLING:
            try:
                os.posix_fallocate(file, position, size)
                position += size
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
                size //= 2
                position = max(position, os.fstat(file).st_size)
    finally:
        os.close(file)


def free_disk(directory: Path, node: str) -> None:
    _filling(directory, node).unlink(missing_ok=True)


def seal_journal(directory: Path, node: str) -> None:
    """Nothing can be written into the journal's folder: it is mounted read-only over itself."""
    inside = nodes.enter_words(directory, node)
    run_blocking([*inside, "mount", "--bind", JOURNAL, JOURNAL])
    run_blocking([*inside, "mount", "-o", "remount,bind,ro", JOURNAL])


def unseal_journal(directory: Path, node: str) -> None:
    table = Path(f"/proc/{nodes.node_pid(directory, node)}/mountinfo").read_text()
    if f" {JOURNAL} " in table:
        run_blocking([*nodes.enter_words(directory, node), "umount", "--lazy", JOURNAL])


def take_descriptors(directory: Path, node: str) -> None:
    """The agent can open next to nothing any more."""
    pid = daemon_pid(directory, services.agent_daemon(node))
    highest = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + SPARE_DESCRIPTORS, hard))


def give_descriptors(directory: Path, node: str) -> None:
    pid = daemon_pid(directory, services.agent_daemon(node))
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


def take_memory(directory: Path, state: LabState, node: str) -> None:
    """The kernel kills the agent as soon as it wants a little more memory than it has."""
    pid = daemon_pid(directory, services.agent_daemon(node))
    cgroup = f"{state.cgroup_of(node)}/{nodes.SYSTEM_CGROUP}/{STARVED}"
    for root, limit in _memory_hierarchies():
        group = root / cgroup.strip("/")
        group.mkdir(exist_ok=True)
        (group / limit).write_text(str(STARVED_BYTES))
        (group / "cgroup.procs").write_text(str(pid))


def give_memory(state: LabState, node: str) -> None:
    system = f"{state.cgroup_of(node)}/{nodes.SYSTEM_CGROUP}"
    for root, _ in _memory_hierarchies():
        group = root / system.strip("/") / STARVED
        if group.exists():
            for pid in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    (group.parent / "cgroup.procs").write_text(pid)
    cgroups.remove(f"{system}/{STARVED}")


def _memory_hierarchies() -> list[tuple[Path, str]]:
    """Where the memory controller is, and what its limit is called there."""
    found = []
    for root in cgroups.hierarchies():
        if (root / "memory.limit_in_bytes").exists():
            found.append((root, "memory.limit_in_bytes"))
        elif "memory" in _controllers(root):
            found.append((root, "memory.max"))
    return found


def _controllers(root: Path) -> list[str]:
    file = root / "cgroup.controllers"
    return file.read_text().split() if file.exists() else []


def certify(directory: Path, state: LabState, node: str, *, days: int) -> None:
    """Give the agent another certificate, for when it starts anew; one of 0 days is over."""
    authority = services.lab_authority(directory)
    made = authority.issue_agent(node, addresses=[str(state.address(node))], days=days)
    files = {
        services.FILES.certificate.name: made.certificate,
        services.FILES.key.name: made.key,
    }
    nodes.configure_node(directory, node, files)


class Hunter:
    """Treats processes of a node as they come by, between `start` and `stop`, each of them once.

    A process is meant when all `words` stand in its command line; with `children` only when they
    stand in its parent's as well.
    """

    def __init__(
        self,
        state: LabState,
        node: str,
        words: Sequence[str],
        treat: Callable[[int], object],
        *,
        children: bool = False,
    ) -> None:
        self._cgroup, self._root = state.cgroup_of(node), cgroups.freezing()
        self._words = [word.encode() for word in words]
        self._treat = treat
        self._children = children
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.hit: set[int] = set()

    def start(self) -> None:
        self._look()
        self._thread.start()

    def stop(self) -> None:
        """And whom it has stopped runs on."""
        self._ended.set()
        self._thread.join()
        for pid in self.hit:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _run(self) -> None:
        while not self._ended.wait(HUNT_POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        for pid in cgroups.members(self._cgroup, root=self._root) - self.hit:
            with suppress(OSError):
                if self._is_meant(pid) and (not self._children or self._is_meant(_parent(pid))):
                    self._treat(pid)
                    self.hit.add(pid)

    def _is_meant(self, pid: int) -> bool:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        return all(word in line for word in self._words)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stopped(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def failing(pid: int) -> None:
    """It can open no file any more, and says so in its log."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, hard))


def _filling(directory: Path, node: str) -> Path:
    return Path(f"/proc/{nodes.node_pid(directory, node)}/root/{DISK}/{FILLING}")
