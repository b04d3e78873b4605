"""The pages that a process still misses, by its own addresses and by those in the images. Pure.

The two addresses differ once the process has moved its memory (mremap).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Self

from transship.linux.pages import PAGE_BYTES

_START = attrgetter("start")


@dataclass(frozen=True, slots=True)
class LazyArea:
    """Pages from `start` to `end`. The first one is at the address `image` in the images."""

    start: int
    end: int
    image: int

    @property
    def pages(self) -> int:
        return (self.end - self.start) // PAGE_BYTES

    def cut(self, start: int, end: int) -> LazyArea:
        """Return the part within these bounds. At least one page must be."""
        first, last = max(start, self.start), min(end, self.end)
        return LazyArea(first, last, self.image + first - self.start)


class LazyAreas:
    """The areas of one process. They are sorted and never overlap."""

    def __init__(self, areas: Iterable[LazyArea] = ()) -> None:
        self._areas = sorted(areas, key=_START)

    def copy(self) -> Self:
        return type(self)(self._areas)

    def within(self, start: int, end: int) -> list[LazyArea]:
        """Return the parts of areas within these bounds."""
        first, last = self._bounds(start, end)
        return [area.cut(start, end) for area in self._areas[first:last]]

    def after(self, address: int, *, pages: int) -> LazyArea | None:
        """Return the first part of an area at or after an address, at most so many pages."""
        first, _ = self._bounds(address, address + PAGE_BYTES)
        if first == len(self._areas):
            return None
        area = self._areas[first]
        begin = max(address, area.start)
        return area.cut(begin, begin + pages * PAGE_BYTES)

    def drop(self, start: int, end: int) -> bool:
        """Remove these pages. Returns whether there were any."""
        first, last = self._bounds(start, end)
        self._areas[first:last] = self._rests(first, last, start, end)
        return first != last

    def move(self, start: int, to: int, size: int) -> bool:
        """Follow an mremap. Returns whether it moved any of these pages."""
        end = start + size
        moved = self.within(start, end)
        self.drop(start, end)
        for area in moved:
            self._insert(LazyArea(area.start + to - start, area.end + to - start, area.image))
        return bool(moved)

    def _rests(self, first: int, last: int, start: int, end: int) -> Iterator[LazyArea]:
        """Yield the parts of the areas `first` to `last` that are outside of the bounds."""
        if first == last:
            return
        if (left := self._areas[first]).start < start:
            yield left.cut(left.start, start)
        if (right := self._areas[last - 1]).end > end:
            yield right.cut(end, right.end)

    def _insert(self, area: LazyArea) -> None:
        self._areas.insert(bisect_left(self._areas, area.start, key=_START), area)

    def _bounds(self, start: int, end: int) -> tuple[int, int]:
        """Return the slice of the areas that have a page between `start` and `end`."""
        first = bisect_right(self._areas, start, key=_START)
        if first and self._areas[first - 1].end > start:
            first -= 1
        return first, max(first, bisect_left(self._areas, end, key=_START))

    def __iter__(self) -> Iterator[LazyArea]:
        return iter(self._areas)

    def __len__(self) -> int:
        """The number of pages."""
        return sum(area.pages for area in self._areas)

    def __bool__(self) -> bool:
        return bool(self._areas)
