"""How the threads of one process take turns."""

from __future__ import annotations

import sys

SWITCH_SECONDS = 0.0005
"""Python's own 5 ms, for which a thread that copies pages keeps the others waiting, show in a
freeze; a tenth of it costs nothing that could be measured."""


def take_short_turns() -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
