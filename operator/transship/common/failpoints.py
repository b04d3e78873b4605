"""Failpoints: places at which an agent stops, so that a test can inject a fault exactly there.

They are off, and cannot be enabled over the network. Only an agent whose environment names a folder
in $TRANSSHIP_FAILPOINTS uses them. If the folder has a file with the name of a place
(`Freeze.begin`), the agent stops when it reaches that place: it renames the file to
`Freeze.begin.reached`, and continues when that file is removed. The whole agent blocks meanwhile.

Places are `STEP.begin` and `STEP.end` of the steps and parts of a migration (see stopwatch; a step
that fails has no end), and `STATE.write` and `STATE.written` of a journal record.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "TRANSSHIP_FAILPOINTS"
REACHED = ".reached"
POLL_SECONDS = 0.002

_folder = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def at(place: str, *, folder: Path | None = _folder) -> None:
    """Block here if a test has created the file of this place."""
    if folder is None:
        return
    reached = folder / f"{place}{REACHED}"
    try:
        (folder / place).rename(reached)
    except FileNotFoundError:
        return
    while reached.exists():
        time.sleep(POLL_SECONDS)
