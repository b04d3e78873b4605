"""Places at which an agent stops and waits, so that a test can break things exactly there.

Off, and not to be switched on from outside: only an agent whose environment names a folder in
$TRANSSHIP_FAILPOINTS looks for them. A file there called like a place (`Freeze.begin`) makes the
agent stop when it next comes by. It says so by renaming the file to `Freeze.begin.reached`, and
goes on when that is removed. The whole agent stands still meanwhile, as a test wants it: what it
does next is what it would have done anyway.

Places are `STEP.begin` and `STEP.end` of the steps and parts of a migration (see stopwatch; a step
that fails has no end), and `STATE.write` and `STATE.written` of a record (see journal).
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
    """Wait here if a test has asked for it."""
    if folder is None:
        return
    reached = folder / f"{place}{REACHED}"
    try:
        (folder / place).rename(reached)
    except FileNotFoundError:
        return
    while reached.exists():
        time.sleep(POLL_SECONDS)
