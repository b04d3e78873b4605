"""What is made ahead of a lab, step by step, and how a user sees it being made.

On a terminal the line of the step at work shows the seconds that have passed and the last line of
the step's log. Elsewhere, as in the log of a CI job, each step is one line, written when it begins.
There is no percentage: nobody knows one.
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
    """Something that is made once. `usual_seconds` was measured on two cores, nothing cached."""

    title: str
    subject: str
    """Names its log."""
    usual_seconds: int
    done: Callable[[], bool]
    make: Callable[[Say], object]

    @property
    def log(self) -> Path:
        return build_log(self.subject)

    @property
    def announcement(self) -> str:
        """One line that says what begins now, how long it usually takes and where its log is."""
        return f"{self.title} (once; usually {spoken(self.usual_seconds)}; log: {self.log})"


def spoken(seconds: float) -> str:
    """A duration for people: 45 s, 5 min, 5 min 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def rough(seconds: int) -> str:
    """The same where single seconds would claim too much: whole minutes from two of them on."""
    return spoken(seconds if seconds < 120 else round(seconds / 60) * 60)


def last_line(log: Path) -> str:
    """What a build wrote last that is no empty line."""
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - ACTIVITY_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return "".join(char for char in lines[-1] if char.isprintable()) if lines else ""


class Progress:
    """Makes steps one after the other and shows which is at work."""

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
        """Make what is not there yet. A failure is shown, then raised."""
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
        # a log that nobody has touched since is an earlier build's
        activity = last_line(step.log) if _stamp(step.log) != earlier else ""
        usual = f"(usually {spoken(step.usual_seconds)})"
        # the time comes first: what is too wide for the terminal is cut off
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
    """Calls a function at once and then every second, in a thread, inside its `with`."""

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
    """Tells whether a log was written to; zeros while there is none."""
    try:
        status = log.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _ended(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def _silent(_: str) -> None:
    """The step's own line says it."""
