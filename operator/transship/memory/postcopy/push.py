"""Sends the target the pages that it misses of a frozen container, again if a stream breaks.

It does not depend on what was sent before: the target says which pages it misses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transship.api.reasons import Reason
from transship.common.errors import TransshipError
from transship.linux.pages import PAGE_BYTES, PageRange, batches, total
from transship.linux.process_memory import BATCH_PAGES, MemoryReader
from transship.linux.processes import Process
from transship.memory.transfer.sender import PageSender

Processes = Callable[[], Sequence[Process]]


class MemoryPush:
    """Sends pages of frozen tasks. Blocking. Each method has its own sender and its own thread."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def push(self, sender: PageSender) -> None:
        """Send all missing pages. Returns when the target has said that it misses none."""
        buffer = bytearray(BATCH_PAGES * PAGE_BYTES)
        while missing := sender.ask_missing():
            for batch in batches(missing, pages=BATCH_PAGES):
                self._send(sender, batch, buffer)
            sender.flush()
        sender.end()

    def serve_page_requests(self, sender: PageSender) -> None:
        """Reply to the target's page requests, until it says that there will be no more."""
        buffer = bytearray(0)
        sender.begin_page_requests()
        while wanted := sender.next_page_request():
            size = total(wanted) * PAGE_BYTES
            if len(buffer) < size:
                buffer = bytearray(size)
            self._send(sender, wanted, buffer)

    def _send(self, sender: PageSender, batch: Sequence[PageRange], buffer: bytearray) -> None:
        """Send pages of one process."""
        by_pid = {process.inside: process for process in self._processes()}
        process = by_pid.get(batch[0].pid)
        if process is None:
            raise _lost(f"process {batch[0].pid} does not exist any more")
        with MemoryReader(process) as reader:
            got = reader.read(batch, buffer)
            if total(got) != total(batch):
                raise _lost(f"cannot read {batch[0]} of {process}")
            sender.send(batch, buffer)


def _lost(cause: str) -> TransshipError:
    """The source stays frozen: what cannot be read now cannot be read later."""
    reason = Reason.PAGES_LOST
    return TransshipError(f"pushing memory: {cause}", reason=reason, hint=reason.hint)
