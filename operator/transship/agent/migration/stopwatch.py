"""When each step of a migration began and how long it took, and the parts of the blackout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from transship.api.migration import BlackoutPart, Step, StepName
from transship.common import failpoints
from transship.common.clock import Clock

_OF_BLACKOUT = frozenset(
    {
        StepName.FREEZE,
        StepName.DUMP,
        StepName.SYNC_FILES,
        StepName.SEND_STATE,
        StepName.RESTORE,
        StepName.DECIDE,
        StepName.RESUME,
    }
)


class Stopwatch:
    """Collects steps (milliseconds, for people) and parts (microseconds, of the blackout)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps: dict[StepName, Step] = {}
        self._parts: dict[str, int] = {}

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._steps.values())

    @property
    def parts(self) -> tuple[BlackoutPart, ...]:
        return tuple(BlackoutPart(name=n, microseconds=m) for n, m in self._parts.items())

    @property
    def current(self) -> StepName | None:
        """The step that has begun last and has not ended."""
        return next((s.name for s in reversed(self.steps) if s.milliseconds is None), None)

    def forget_open(self) -> None:
        """Forget the steps under way: they will not end."""
        self._steps = {n: s for n, s in self._steps.items() if s.milliseconds is not None}

    @contextmanager
    def step(self, name: StepName) -> Iterator[None]:
        """Time a step; one that raises stays open, so that it can be named as the failed one."""
        began = self._clock.monotonic()
        self._steps[name] = Step(name=name, start_time=self._clock.now())
        failpoints.at(f"{name}.begin")
        yield
        spent = self._clock.monotonic() - began
        done = self._steps[name].model_copy(update={"milliseconds": round(spent * 1e3)})
        self._steps[name] = done
        if name in _OF_BLACKOUT:
            self._parts.setdefault(name.value, round(spent * 1e6))
        failpoints.at(f"{name}.end")

    def note(self, name: str, *, seconds: float) -> None:
        """Set a part of the blackout, also of a step that begins before it or ends after it."""
        self._parts[name] = round(seconds * 1e6)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time one part of the blackout that is not a whole step."""
        began = self._clock.monotonic()
        failpoints.at(f"{name}.begin")
        yield
        self._parts[name] = round((self._clock.monotonic() - began) * 1e6)
        failpoints.at(f"{name}.end")

    def add(self, parts: Iterable[BlackoutPart], *, prefix: str) -> None:
        """Add what the other side has measured."""
        for part in parts:
            self._parts[f"{prefix}{part.name}"] = part.microseconds
