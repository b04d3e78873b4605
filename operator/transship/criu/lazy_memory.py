"""Memory that a restored container is still to get."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from transship.api.reasons import Reason
from transship.criu.failures import CheckpointFailed

_MISSING_PAGES = re.compile(rb"^VmFlags:.* um ", re.MULTILINE)


def require_whole(pids: Iterable[int]) -> None:
    """Raise CheckpointFailed when a process still waits for some of its memory.

    What has not come yet does not show in its page tables: a dump would pass over it (and the
    next restore would give zeros). Known by the mark that a userfaultfd leaves on its mappings.
    """
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            if _MISSING_PAGES.search(Path(f"/proc/{pid}/smaps").read_bytes()):
                raise still_arriving()


def still_arriving() -> CheckpointFailed:
    return CheckpointFailed(
        "dumping: its memory of the move before has not all arrived yet", reason=Reason.IN_MIGRATION
    )
