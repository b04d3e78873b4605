"""Fills pages of processes from the store, by the userfaultfds of the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from loguru import logger

from transship.linux import userfaultfd
from transship.linux.pages import PAGE_BYTES, PageRange
from transship.linux.userfaultfd import Filled
from transship.memory.page_server import page_index
from transship.memory.page_server.address_spaces import AddressSpace, AddressSpaces
from transship.memory.page_server.lazy_areas import LazyArea
from transship.memory.page_server.page_store import PageStore, Run

AROUND_PAGES = 32
"""Filled around a faulting page: it costs 15 us, and each fault that it saves costs 50 us."""
HINT_PAGES = 16
"""Filled around pages that arrived last: one system call instead of many."""


class FillInterrupted(Exception):
    """Filling cannot continue: an event is unread, the process has ended, or there is no memory."""

    def __init__(self, why: Filled) -> None:
        super().__init__(why.value)
        self.why = why


class PageFiller:
    """Fills pages. Every method but `resume` may raise FillInterrupted after a part of its work."""

    def __init__(
        self,
        store: PageStore,
        address_spaces: AddressSpaces,
        *,
        page_request: Callable[[PageRange], None],
    ) -> None:
        self._store = store
        self._address_spaces = address_spaces
        self._page_request = page_request

    def resume(self, space: AddressSpace) -> None:
        """Continue where another worker ended.

        Pages that it has filled are not filled again. Threads whose faults it has read are woken,
        so that they fault again.
        """
        for area in list(space.areas):
            for to, run in self._runs(space, area):
                if run.mark == page_index.SPENT:
                    space.areas.drop(to, to + run.pages.bytes)
        for area in space.areas:
            userfaultfd.wake(space.fd, start=area.start, pages=area.pages)

    def serve_fault(self, space: AddressSpace, address: int) -> None:
        """Fill the page that a thread waits for, or note that it waits."""
        space.waiting.add(address)
        wanted = space.areas.within(address, address + PAGE_BYTES)
        if not wanted:
            self._give_zeros(space, address)
        elif self._store.final:
            self._serve_area(space, wanted[0])

    def serve_waiting(self, space: AddressSpace) -> None:
        """Fill the pages that its threads wait for, as far as they have arrived."""
        for address in tuple(space.waiting):
            self.serve_fault(space, address)

    def give(self, space: AddressSpace, pages: PageRange) -> None:
        """Fill what is stored of these pages and around them. The addresses are the images'."""
        start, end = _around(pages.address, pages.end, HINT_PAGES)
        for area in space.areas.within(start, end):
            self.give_area(space, area)

    def give_area(self, space: AddressSpace, area: LazyArea) -> None:
        """Fill what is stored of an area."""
        for to, run in self._runs(space, area):
            if run.mark == page_index.SPENT:
                self._given(space, to, run.pages.pages)
            elif run.mark != page_index.ABSENT:
                self._fill(space, to, run)

    def _serve_area(self, space: AddressSpace, wanted: LazyArea) -> None:
        """Serve a fault at `wanted`, which is one page."""
        start, end = _around(wanted.start, wanted.end, AROUND_PAGES)
        self.give_area(space, wanted)
        missing: list[PageRange] = []
        for area in space.areas.within(start, end):
            self.give_area(space, area)
            missing += self._store.not_stored([PageRange(space.pid, area.image, area.pages)])
        if wanted.start in space.waiting:
            for one in missing:
                self._page_request(one)

    def _give_zeros(self, space: AddressSpace, address: int) -> None:
        """Fill memory that was never written to, or that the process has dropped."""
        _, why = userfaultfd.zero(space.fd, to=address, pages=1)
        _require(why, {Filled.ALL, Filled.THERE, Filled.UNKNOWN})
        if why is not Filled.ALL:
            userfaultfd.wake(space.fd, start=address, pages=1)
        space.waiting.discard(address)
        _, end = _around(address, address + PAGE_BYTES, AROUND_PAGES)
        after = space.areas.after(address, pages=1)
        rest = (min(end, after.start) if after is not None else end) - address - PAGE_BYTES
        if rest > 0:
            userfaultfd.zero(space.fd, to=address + PAGE_BYTES, pages=rest // PAGE_BYTES)

    def _runs(self, space: AddressSpace, area: LazyArea) -> Iterator[tuple[int, Run]]:
        """Yield what the store has of an area, each with its address in the process."""
        for run in self._store.runs(PageRange(space.pid, area.image, area.pages)):
            yield area.start + run.pages.address - area.image, run

    def _fill(self, space: AddressSpace, to: int, run: Run) -> None:
        """Fill stored pages. A call that spans two mappings is halved until it does not."""
        at, span = 0, run.pages.pages
        while at < run.pages.pages:
            size = min(span, run.pages.pages - at)
            here = to + at * PAGE_BYTES
            if run.mark == page_index.ZERO:
                done, why = userfaultfd.zero(space.fd, to=here, pages=size)
            else:
                source = run.content + at * PAGE_BYTES
                done, why = userfaultfd.copy(space.fd, to=here, source=source, pages=size)
            if done == 0 and why is Filled.UNKNOWN and size > 1:
                span = size // 2
                continue
            if done == 0:
                done = self._pass_over(space, here, why)
            self._given(space, here, done)
            at, span = at + done, max(span, run.pages.pages - at)

    def _pass_over(self, space: AddressSpace, address: int, why: Filled) -> int:
        """Skip a page that cannot be filled. Returns 1. Raises FillInterrupted."""
        _require(why, {Filled.THERE, Filled.UNKNOWN})
        if why is Filled.UNKNOWN:
            if not self._address_spaces.restore_finished:
                raise FillInterrupted(why)  # its mapping is not ready yet
            log = logger.bind(pid=space.pid, address=f"{address:#x}")
            log.warning("a page belongs to memory that is not mapped")
        userfaultfd.wake(space.fd, start=address, pages=1)
        return 1

    def _given(self, space: AddressSpace, start: int, pages: int) -> None:
        end = start + pages * PAGE_BYTES
        if space.pid not in self._address_spaces.forked:  # else a child may want them too
            for area in space.areas.within(start, end):
                self._store.spend(PageRange(space.pid, area.image, area.pages))
        space.areas.drop(start, end)
        if space.waiting:
            space.waiting.difference_update(range(start, end, PAGE_BYTES))


def _require(why: Filled, tolerated: set[Filled]) -> None:
    if why not in tolerated:
        raise FillInterrupted(why)


def _around(start: int, end: int, pages: int) -> tuple[int, int]:
    """Return the bounds of the blocks of so many pages that contain these addresses."""
    block = pages * PAGE_BYTES
    return start // block * block, -(-end // block) * block
