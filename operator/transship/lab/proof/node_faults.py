"""Faults of a running node: no disk space, memory or descriptors, an expired certificate.

Each has an undo, which also works when the fault was never injected. All of it is done from the
machine, so that it does not need the resource that it takes away.
"""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress
from pathlib import Path

from transship.common.processes import run_blocking
from transship.lab import services
from transship.lab.daemons import daemon_pid
from transship.lab.nodes import cgroups, namespace_nodes
from transship.lab.nodes.boot import DISK
from transship.lab.state import LabState

# the file that fills a disk
FILLER = "filler"
SMALLEST_ALLOCATION = 4096
JOURNAL = f"/{DISK}/journal"
# the cgroup, with a memory limit, that the agent is moved into
LIMITED_CGROUP = "limited"
HEADROOM_BYTES = 2 << 20
SPARE_DESCRIPTORS = 2


def fill_disk(directory: Path, node: str) -> None:
    """Allocate every free block of the node's disk. It takes no space on the machine's disk."""
    file = os.open(_filler(directory, node), os.O_CREAT | os.O_WRONLY)
    try:
        size, position = 1 << 34, 0
        while size >= SMALLEST_ALLOCATION:
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
    _filler(directory, node).unlink(missing_ok=True)


def make_journal_readonly(directory: Path, node: str) -> None:
    """Bind-mount the journal's folder read-only over itself."""
    inside = namespace_nodes.enter_words(directory, node)
    run_blocking([*inside, "mount", "--bind", JOURNAL, JOURNAL])
    run_blocking([*inside, "mount", "-o", "remount,bind,ro", JOURNAL])


def make_journal_writable(directory: Path, node: str) -> None:
    table = Path(f"/proc/{namespace_nodes.node_pid(directory, node)}/mountinfo").read_text()
    if f" {JOURNAL} " in table:
        run_blocking([*namespace_nodes.enter_words(directory, node), "umount", "--lazy", JOURNAL])


def limit_descriptors(directory: Path, node: str) -> None:
    """Lower the agent's limit, so that it can open a few more files only."""
    pid = daemon_pid(directory, services.agent_daemon(node))
    highest = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + SPARE_DESCRIPTORS, hard))


def restore_descriptors(directory: Path, node: str) -> None:
    pid = daemon_pid(directory, services.agent_daemon(node))
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


def limit_memory(directory: Path, state: LabState, node: str) -> None:
    """Make the kernel's OOM killer end the agent once it allocates a little more memory."""
    pid = daemon_pid(directory, services.agent_daemon(node))
    cgroup = f"{state.cgroup_of(node)}/{namespace_nodes.SYSTEM_CGROUP}/{LIMITED_CGROUP}"
    for root, limit in _memory_hierarchies():
        group = root / cgroup.strip("/")
        group.mkdir(exist_ok=True)
        (group / limit).write_text(str(HEADROOM_BYTES))
        (group / "cgroup.procs").write_text(str(pid))


def restore_memory(state: LabState, node: str) -> None:
    system = f"{state.cgroup_of(node)}/{namespace_nodes.SYSTEM_CGROUP}"
    for root, _ in _memory_hierarchies():
        group = root / system.strip("/") / LIMITED_CGROUP
        if group.exists():
            for pid in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    (group.parent / "cgroup.procs").write_text(pid)
    cgroups.remove(f"{system}/{LIMITED_CGROUP}")


def _memory_hierarchies() -> list[tuple[Path, str]]:
    """The hierarchies with the memory controller, and the name of its limit there (v1 or v2)."""
    hierarchies = []
    for root in cgroups.hierarchies():
        if (root / "memory.limit_in_bytes").exists():
            hierarchies.append((root, "memory.limit_in_bytes"))
        elif "memory" in _controllers(root):
            hierarchies.append((root, "memory.max"))
    return hierarchies


def _controllers(root: Path) -> list[str]:
    file = root / "cgroup.controllers"
    return file.read_text().split() if file.exists() else []


def issue_certificate(directory: Path, state: LabState, node: str, *, days: int) -> None:
    """Replace the agent's certificate; it reads the new one at its next start. 0 days: expired."""
    authority = services.lab_authority(directory)
    credentials = authority.issue_agent(node, addresses=[str(state.address(node))], days=days)
    files = {
        services.FILES.certificate.name: credentials.certificate,
        services.FILES.key.name: credentials.key,
    }
    namespace_nodes.configure_node(directory, node, files)


def _filler(directory: Path, node: str) -> Path:
    return Path(f"/proc/{namespace_nodes.node_pid(directory, node)}/root/{DISK}/{FILLER}")
