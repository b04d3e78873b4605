"""Detaches processes from the agent that has started them, so that they outlive it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from transship.linux import cgroups
from transship.runtime.layout import Layout

OUT_OF_MEMORY_SCORE = "-1000"


def leave_agent(layout: Layout, *, pid: int) -> None:
    """Move a process out of the agent's cgroup, and protect it from the OOM killer.

    In v1, each hierarchy costs up to 20 ms.
    """
    hierarchies = cgroups.detect()
    cgroups.create(hierarchies, layout.conmon_cgroup)
    with contextlib.suppress(ProcessLookupError):
        cgroups.enter(hierarchies, layout.conmon_cgroup, pid=pid)
    # needs CAP_SYS_RESOURCE
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE)
