"""Processes that must not end with the agent which has started them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from transship.linux import cgroups
from transship.runtime.layout import Layout

OUT_OF_MEMORY_SCORE = "-1000"


def leave_agent(layout: Layout, *, pid: int) -> None:
    """Move a process to where the end of the agent's service does not reach it.

    In a v1 hierarchy each cgroup that is entered costs up to 20 ms.
    """
    hierarchies = cgroups.detect()
    cgroups.create(hierarchies, layout.conmon_cgroup)
    with contextlib.suppress(ProcessLookupError):
        cgroups.enter(hierarchies, layout.conmon_cgroup, pid=pid)
    with contextlib.suppress(OSError):  # wants CAP_SYS_RESOURCE
        Path(f"/proc/{pid}/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE)
