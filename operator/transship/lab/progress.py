"""Runs the steps that prepare a machine for labs, and shows the progress.

On a terminal, the line of the current step shows the elapsed seconds and the last line of the
step's log. Without a terminal, as in a CI job, each step is one line, written when it begins.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from transship.common.errors import CommandFailed, TransshipError
from transship.lab.cache import Say, build_log

TICK_SECONDS = 1.0
TAIL_LINES = 20
ACTIVITY_BYTES = 4096
DEFAULT_COLUMNS = 80
ERASE = "\r\x1b[K"


@dataclass(frozen=True)
class Step:
    """Something to build or install once. `usual_seconds` was measured on two cores, uncached."""

    title: str
    subject: str
    """The name of its log."""
    usual_seconds: int
    done: Callable[[], bool]
    make: Callable[[Say], object]

    @property
    def log(self) -> Path:
        return build_log(self.subject)

    @property
    def announcement(self) -> str:
        """One line for the beginning of the step: title, usual duration, and log."""
        return f"{self.title} (once; usually {spoken(self.usual_seconds)}; log: {self.log})"


def spoken(seconds: float) -> str:
    """A duration for users: 45 s, 5 min, 5 min 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def rough(seconds: int) -> str:
    """An estimate for users: rounded to minutes from two minutes on."""
    return spoken(seconds if seconds < 120 else round(seconds / 60) * 60)


def last_line(log: Path) -> str:
    """The last non-empty line of a build's log."""
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - ACTIVITY_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return "".join(char for char in lines[-1] if char.isprintable()) if lines else ""


class Progress:
    """Runs steps one after the other and shows the current one."""

    def __init__(
        self,
        stream: TextIO = sys.stderr,
        *,
        clock: Callable[[], float] = time.monotonic,
        columns: int | None = None,
    ) -> None:
        self._stream, self._clock = stream, clock
        self._columns = columns or shutil.get_terminal_size((DEFAULT_COLUMNS, 0)).columns
        self._terminal = stream.isatty()
        self._began = clock()

    def run(self, steps: Sequence[Step]) -> None:
        """Run the steps that are not done. A failure is shown, then raised."""
        missing = [step for step in steps if not step.done()]
        if not missing:
            self._line("everything is there already")
            return
        usual = rough(sum(step.usual_seconds for step in missing))
        things = f"{len(missing)} step" + "s" * (len(missing) > 1)
        self._line(f"{things}, usually {usual} on two cores; logs in {missing[0].log.parent}")
        for number, step in enumerate(missing, start=1):
            self._make(step, place=f"[{number}/{len(missing)}]")
        self._line(f"everything is there, after {self._since(self._began)}")

    def _make(self, step: Step, *, place: str) -> None:
        began = self._clock()
        if not self._terminal:
            at = spoken(began - self._began)
            self._line(f"{at:>11}  {place} {step.title} (usually {spoken(step.usual_seconds)})")
        earlier = _stamp(step.log)
        ticker = _Ticker(lambda: self._tick(step, place=place, began=began, earlier=earlier))
        try:
            with ticker:
                step.make(_silent)
        except BaseException as e:
            self._line(f"{place} {step.title}: {_ended(e)} after {self._since(began)}")
            if isinstance(e, TransshipError):
                self._show(e)
            raise
        if self._terminal:
            self._line(f"{place} {self._since(began):>11}  {step.title}")

    def _tick(self, step: Step, *, place: str, began: float, earlier: tuple[int, int]) -> None:
        if not self._terminal:
            return
        # an unchanged log belongs to an earlier build
        activity = last_line(step.log) if _stamp(step.log) != earlier else ""
        usual = f"(usually {spoken(step.usual_seconds)})"
        # the terminal cuts off long lines at their end, so the time comes first
        line = f"{place} {self._since(began):>11} {usual}  {step.title}  {activity}"
        self._stream.write(ERASE + line[: self._columns - 1])
        self._stream.flush()

    def _show(self, error: TransshipError) -> None:
        output = error.output if isinstance(error, CommandFailed) else error.message
        for line in output.strip().splitlines()[-TAIL_LINES:]:
            self._line(f"  | {line}")
        if error.hint:
            self._line(error.hint)

    def _since(self, moment: float) -> str:
        return spoken(self._clock() - moment)

    def _line(self, text: str) -> None:
        self._stream.write(f"{ERASE if self._terminal else ''}{text}\n")
        self._stream.flush()


class _Ticker:
    """Calls a function every second, beginning at once, in a thread inside its `with`."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick, self._ended = tick, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        self._tick()
        while not self._ended.wait(TICK_SECONDS):
            self._tick()


def _stamp(log: Path) -> tuple[int, int]:
    """Changes with each write to the log; zeros without a log."""
    try:
        status = log.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _ended(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def _silent(_: str) -> None:
    """The progress line already shows the step."""
