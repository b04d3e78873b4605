"""The threads of a process: how they take turns, and those that it cannot do without."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from loguru import logger

SWITCH_SECONDS = 0.0005
"""Python's own 5 ms, for which a thread that copies pages keeps the others waiting, show in a
freeze; a tenth of it costs nothing that could be measured."""


def take_short_turns() -> None:
    sys.setswitchinterval(SWITCH_SECONDS)


def begin_for_ever(work: Callable[[], None], *, name: str) -> None:
    """Begin a thread; when it ends, however that comes, the process ends with status 1."""

    def run() -> None:
        try:
            work()
        except BaseException:
            logger.exception("{} has failed", name)
        os._exit(1)

    threading.Thread(target=run, name=name, daemon=True).start()
